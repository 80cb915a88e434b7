"""What happens on the client's side of a request: images are encrypted before it, answers are checked after it.

The service says how images are to be prepared, and that is not taken on trust: blocks smaller than agreed on, or
images greatly enlarged, would show what the method is there to hide. Nor is its segmentation map taken on trust.
"""

import io
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image

from ..setr.encrypted_image import EncryptedImage, is_encrypted_image
from ..setr.encryption_key import EncryptionKey, as_encryption_key
from ..setr.errors import EncryptionStateError, InvalidImageError, ServiceError
from ..setr.image_encrypter import AnyImage, ImageEncrypter
from ..setr.image_inputs import PlainImage
from ..setr.patch_grid import PatchGrid
from ..setr.public_facts import check_image_fits, check_processor_fits
from ..storage.images import is_ciphertext
from .http_calls import Call
from .service_info import SETTINGS, ServiceInfo

if TYPE_CHECKING:
    from ..setr.image_processing_setr import SetrImageProcessor

MAX_ENLARGEMENT = 2  # of an image's sides, by settings that come from the service


class Preparation:
    """Encrypts images for one service and reads its answers.

    Args:
        info: what the service tells of its model.
        url: the service's address, for messages.
        own_processor: the image processor from the model's owner; None takes the service's settings, within limits.
        patch_size: of the model, where there is no `own_processor`.
    """

    def __init__(
        self,
        info: ServiceInfo,
        url: str,
        *,
        own_processor: "SetrImageProcessor | ImageEncrypter | None",
        patch_size: int,
    ) -> None:
        self._info, self._url = info, url
        self._own_processor, self._patch_size = own_processor, patch_size

    @cached_property
    def processor(self) -> "SetrImageProcessor | ImageEncrypter":
        """The image processor that prepares images: the owner's, or one with the service's settings.

        Raises:
            ServiceError: the service's settings are none, or ask for other blocks than agreed on.
        """
        if self._own_processor is not None:
            return self._own_processor
        settings = dict(self._info.preprocessor)
        if not self._patch_size == self._info.patch_size == settings.get("patch_size"):
            raise ServiceError(
                f"expected a model with patches of {self._patch_size} pixels at {self._url}, got "
                f"{self._info.patch_size}; smaller blocks show more of an image: if its owner confirms the size, pass "
                f"patch_size={self._info.patch_size}, or the owner's processor"
            )
        try:
            return ImageEncrypter.of(settings)
        except (TypeError, ValueError) as error:
            raise ServiceError(
                f"the service at {self._url} names settings for images that cannot be used ({error!s:.200}); pass the "
                "owner's processor"
            ) from error

    def opened(self, image: AnyImage) -> EncryptedImage | None:
        """An encrypted image, or the path of one -> the encrypted image; None where the image is plain.

        Raises:
            CiphertextError: the file of an encrypted image is damaged.
        """
        if isinstance(image, str | os.PathLike) and os.path.exists(image) and is_ciphertext(Path(image)):
            return EncryptedImage.from_file(image)
        return image if is_encrypted_image(image) else None

    def key(self, secret_key: EncryptionKey | bytes | None) -> EncryptionKey:
        """What was given as a key for a plain image -> the key.

        Raises:
            EncryptionStateError: nothing was given.
            InvalidKeyError: it is no key.
        """
        if secret_key is None:
            raise EncryptionStateError(
                f"got a plain image and no key for {self._url}, to which nothing plain is sent; give the key that its "
                "model is encrypted with"
            )
        return as_encryption_key(secret_key)

    def encrypt(
        self, image: AnyImage, key: EncryptionKey, *, bits: int | None = None, bits_per_block: float | None = None
    ) -> EncryptedImage:
        """One image, of any kind that `SetrImageProcessor` takes -> the encrypted image.

        Args:
            image: a plain one.
            key: the client's.
            bits: 8 for the 8-bit form.
            bits_per_block: of the compact form; None of both encrypts exactly.

        Raises:
            ValueError: other bits than 8, or the key is not fitted for so many a block.
            InvalidImageError: no image, or one that is too large for the service.
            ServiceError: the service asks for settings that would show too much.
        """
        check_processor_fits(self.processor, self._info, model=f"the model of {self._url}")
        levels = self.processor.to_levels(cast(PlainImage, image))
        self._check_sizes((levels.shape[-2], levels.shape[-1]))
        encrypted = self.processor.encrypt(
            levels, key, input_data_format="channels_first", bits=bits, bits_per_block=bits_per_block
        )
        return cast(EncryptedImage, encrypted)

    def call(self, encrypted: EncryptedImage) -> Call:
        """The request that has an encrypted image segmented.

        Raises:
            CiphertextError: it has other channels, or blocks of another size than the model's patches.
            InvalidImageError: its file is larger than the service takes.
        """
        info, theirs = self._info, f"the model of {self._url}"
        check_image_fits(encrypted, encrypted.facts, info.patch_size, info.num_channels, model=theirs)
        content = encrypted.to_bytes()
        if len(content) > self._info.max_upload_bytes:
            raise InvalidImageError(
                f"expected a ciphertext of at most {self._info.max_upload_bytes} bytes, which is what {self._url} "
                f"takes, got {len(content)}; shrink the image before encryption"
            )
        height, width = encrypted.original_size
        return Call("POST", "v1/segment", 2 * height * width + 2**16, "image/png", content)

    def segmentation_map(self, content: bytes, encrypted: EncryptedImage) -> np.ndarray:
        """The service's answer, a PNG file -> (height, width) uint8 class indices at the image's own size.

        Raises:
            ServiceError: it is none, or does not fit the image or the classes.
        """
        size, num_labels = tuple(encrypted.original_size), len(self._info.labels)
        try:
            with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:  # reads the size and decodes nothing yet
                found = f"{picture.height} x {picture.width} pixels of mode {picture.mode}"
                fits = (picture.height, picture.width) == size and picture.mode in ("L", "P")
                segmentation_map = np.array(picture) if fits else None
        except Exception as error:  # on damaged data Pillow raises OSError, SyntaxError, ValueError, zlib.error, ...
            raise ServiceError(f"{self._url} returned no PNG file ({error!s:.120}); the service is faulty") from error
        if segmentation_map is None or segmentation_map.max() >= num_labels:
            what = found if segmentation_map is None else f"the class {segmentation_map.max()}"
            raise ServiceError(
                f"expected a segmentation map of {size[0]} x {size[1]} pixels and {num_labels} classes from "
                f"{self._url}, got {what}; the service is faulty"
            )
        return segmentation_map

    def _check_sizes(self, image_size: tuple[int, int]) -> None:
        """Refuse images that become larger than the service takes, or than its settings may make them."""
        grid = PatchGrid.of({name: getattr(self.processor, name) for name in SETTINGS})
        region = grid.valid_region(image_size)
        limits = [MAX_ENLARGEMENT * side + grid.patch_size for side in image_size]
        if self._own_processor is None and any(side > limit for side, limit in zip(region, limits, strict=True)):
            raise ServiceError(
                f"the service at {self._url} wants an image of {image_size} pixels enlarged to {region}, more than "
                f"{MAX_ENLARGEMENT} times, which would show more of it; give a larger image, or pass the processor "
                "of the model's owner"
            )
        height, width = grid.padded(region)
        if height * width > self._info.max_pixels:
            raise InvalidImageError(
                f"expected an image of at most {self._info.max_pixels} pixels, which is what {self._url} takes, got "
                f"{height} x {width} after resizing; shrink the image first"
            )
