"""What the owner of a key does with encrypted images: see them again."""

from collections.abc import Sequence
from typing import cast, overload

import numpy as np
from PIL import Image

from .ciphers import cipher_for
from .encrypted_image import EncryptedImage, is_encrypted_image
from .encryption_key import EncryptionKey, as_encryption_key
from .errors import InvalidImageError
from .image_inputs import levels_to_pillow
from .public_facts import check_key_fits


class ImageDecryption:
    """The part of an image processor that decrypts. It needs no setting, for encrypted images carry their facts."""

    @overload
    def decrypt(self, images: EncryptedImage, secret_key: EncryptionKey | bytes) -> Image.Image: ...

    @overload
    def decrypt(self, images: Sequence[EncryptedImage], secret_key: EncryptionKey | bytes) -> list[Image.Image]: ...

    def decrypt(
        self, images: EncryptedImage | Sequence[EncryptedImage], secret_key: EncryptionKey | bytes
    ) -> Image.Image | list[Image.Image]:
        """An `EncryptedImage` -> PIL image of its valid region (a list -> list): the image as it was resized.

        The image has as many bands as the encrypted one has channels: its mode is L, LA, RGB or RGBA.

        Raises:
            InvalidImageError: an image of more than four channels, for which there is `decrypt_levels`.
            KeyMismatchError: the image was encrypted with another key.
            EncryptionStateError: it was encrypted with a client embedding.
        """
        if not is_encrypted_image(images):
            return [self.decrypt(image, secret_key) for image in cast(Sequence[EncryptedImage], images)]
        if images.num_channels > 4:
            raise InvalidImageError(
                f"expected an image of at most 4 channels, as PIL images have, got {images.num_channels}; take the "
                "array that decrypt_levels(image, secret_key) gives"
            )
        return levels_to_pillow(self.decrypt_levels(images, secret_key))

    def decrypt_levels(self, image: EncryptedImage, secret_key: EncryptionKey | bytes) -> np.ndarray:
        """An `EncryptedImage` of any channels -> (channels, height, width) uint8 of its valid region.

        Raises:
            KeyMismatchError: the image was encrypted with another key.
            EncryptionStateError: it was encrypted with a client embedding.
        """
        key = as_encryption_key(secret_key)
        check_key_fits(key.facts, image.facts, model="the encrypted image")
        cipher = cipher_for(key, patch_size=image.patch_size, num_channels=image.num_channels)
        pixels = cipher.decrypt(image.pixels)
        if pixels.dtype.kind == "f":
            pixels = ((pixels + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
        height, width = image.valid_region
        return np.ascontiguousarray(pixels[:, :height, :width])
