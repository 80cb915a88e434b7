"""What a client needs of an image processor: plain images become encrypted ones, with NumPy and Pillow alone."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from PIL.Image import Resampling

from .centring import CENTRED, Centring, check_channels, refuse_secret_key
from .ciphers import cipher_for
from .encrypted_image import EncryptedImage, is_encrypted_image
from .encryption_key import EncryptionKey, as_encryption_key
from .errors import EncryptionStateError, InvalidImageError
from .image_decryption import ImageDecryption
from .image_inputs import PlainImage, flat_images, image_to_levels
from .patch_grid import PatchGrid
from .resampling import resized
from .rounding import Rounding
from .setting_checks import check_settings

AnyImage = PlainImage | EncryptedImage

_ABSENT = ("do_center_crop", "pad_size")  # settings of other image processors


@dataclass(frozen=True)
class ImageEncrypter(ImageDecryption):
    """The settings of a `SetrImageProcessor`, and its encryption of one image, bit for bit.

    Torch resizes 8-bit images otherwise on a few kinds of processor, by a level here and there: see `resampling`.

    Args:
        patch_size, num_channels, do_convert_rgb, do_resize, size, resize_factor, resample, do_pad, pad_value,
            do_rescale, rescale_factor, do_normalize, image_mean, image_std: as in `SetrImageProcessor`, whose defaults
            these are.

    Raises:
        ValueError: a setting out of range.
    """

    patch_size: int = 16
    num_channels: int = 3
    do_convert_rgb: bool = True
    do_resize: bool = True
    size: Any = None
    resize_factor: float = 1.0
    resample: int = Resampling.BILINEAR
    do_pad: bool = False
    pad_value: Any = 0.0
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: Any = (0.5, 0.5, 0.5)
    image_std: Any = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        check_settings(settings)
        check_channels(settings)
        if isinstance(self.size, int | list | tuple):
            height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
            object.__setattr__(self, "size", {"height": height, "width": width})
        _ = self._grid

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Self:
        """The settings of an image processor, as its file or a service tells them; others than these are left out.

        Raises:
            TypeError: a `secret_key` is among them.
            ValueError: a setting out of range, or one that no `SetrImageProcessor` has.
        """
        refuse_secret_key(settings)
        check_settings(settings)
        for name in _ABSENT:
            if settings.get(name):
                raise ValueError(f"expected settings of a processor that neither crops nor pads to a size, got {name}")
        known = {field.name: settings[field.name] for field in fields(cls) if settings.get(field.name) is not None}
        num_channels = known.get("num_channels", cls.num_channels)
        half = (0.5,) * num_channels
        return cls(**({"image_mean": half, "image_std": half} | known))

    def to_levels(self, image: PlainImage, input_data_format: str | None = None) -> np.ndarray:
        """One image of any kind -> (channels, height, width) uint8, before it is resized.

        Raises:
            InvalidImageError: no image, several images, a damaged one, or channels or values that do not fit.
        """
        images = flat_images(image)
        if len(images) != 1:
            raise InvalidImageError(f"expected one image, got {len(images)}; take them one by one")
        convert, channels = self.do_convert_rgb, input_data_format
        return image_to_levels(images[0], num_channels=self.num_channels, convert=convert, channels=channels)

    def encrypt(
        self,
        image: PlainImage,
        secret_key: EncryptionKey | bytes,
        *,
        input_data_format: str | None = None,
        bits: int | None = None,
        bits_per_block: float | None = None,
    ) -> EncryptedImage:
        """One image -> what `SetrImageProcessor.encrypt` makes of it.

        Args:
            image: of any kind.
            secret_key: its family chooses the cipher.
            input_data_format: of an array, "channels_first" or "channels_last"; None infers it.
            bits: 8 sends 8 bits a number in place of 16, and gives exactness up for it; the families with 8-bit
                pixels do so exactly.
            bits_per_block: rounds what is sent to about so many bits a block, and gives exactness up for it. Only a
                client embedding with a transform code can.

        Raises:
            InvalidImageError, InvalidKeyError: no image, or no key.
            EncryptionStateError: the image is encrypted already.
            ValueError: settings that cannot be encrypted with, other bits than 8, or bits of a block that the key is
                not fitted for.
        """
        if is_encrypted_image(image):
            raise EncryptionStateError(
                "expected plain images, got an EncryptedImage: encrypting twice would ruin it; use it as it is"
            )
        key = as_encryption_key(secret_key)
        rounding = Rounding.of(key, bits=bits, bits_per_block=bits_per_block)
        self._centring.check_encryptable()
        levels = self.to_levels(image, input_data_format)
        cipher = cipher_for(key, patch_size=self.patch_size, num_channels=self.num_channels)
        size = (levels.shape[-2], levels.shape[-1])
        plain = self._on_grid(levels)
        pixels = cipher.encrypt(plain if cipher.acts_on_uint8 else _centred(plain))
        return EncryptedImage(
            **rounding.of_pixels(pixels, self.patch_size),
            family=cipher.family,
            fingerprint=key.fingerprint,
            patch_size=self.patch_size,
            original_size=size,
            valid_region=self.valid_region(size),
        )

    def valid_region(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of an image -> that of the part of its ciphertext that it covers."""
        return self._grid.valid_region(image_size)

    def _on_grid(self, levels: np.ndarray) -> np.ndarray:
        """(channels, height, width) levels -> resized, then padded where the settings say so."""
        region = self._grid.valid_region((levels.shape[-2], levels.shape[-1]))
        levels = resized(levels, region, self.resample)
        height, width = self._grid.padded(region)
        whole = np.empty((len(levels), height, width), levels.dtype)
        whole[...] = np.reshape(self._centring.before(self.pad_value, is_8_bits=True), (-1, 1, 1))
        whole[:, : region[0], : region[1]] = levels
        return whole

    @property
    def _grid(self) -> PatchGrid:
        return PatchGrid.of(vars(self))

    @property
    def _centring(self) -> Centring:
        return Centring.of(vars(self))


def _centred(levels: np.ndarray) -> np.ndarray:
    """uint8 levels -> float32 pixels in [-1, 1], rounded as the processor's fused step rounds."""
    half = np.float32(0.5) * np.float32(1 / CENTRED.rescale_factor)
    return (levels.astype(np.float32) - half) / half
