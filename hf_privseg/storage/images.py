"""Images on disk: read a plain one, recognise an encrypted one, write a picture as a whole."""

import io
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from ..setr.array_files import is_array_file
from ..setr.arrays import to_array
from ..setr.encrypted_image import EncryptedImage
from ..setr.encryption_key import EncryptionKey
from ..setr.errors import EncryptionStateError, InvalidImageError
from ..setr.files import write_whole
from ..setr.image_files import open_image
from ..setr.image_inputs import image_to_levels, levels_to_picture, levels_to_pillow


class Decrypts(Protocol):
    """An image processor, or an `ImageEncrypter`."""

    def to_levels(self, image: Any) -> Any: ...

    def decrypt_levels(self, image: EncryptedImage, secret_key: EncryptionKey) -> np.ndarray: ...


def read_image(path: Path) -> Image.Image:
    """Path of an image, in a format of `OPENED_FORMATS` or .npy -> upright 8-bit RGB; transparent parts lie on white.

    Raises:
        InvalidImageError: the file is no image of such a format, is damaged, or is too large; names the file.
        OSError: the file cannot be read.
    """
    try:
        if is_array_file(path):
            return levels_to_pillow(image_to_levels(path))
        with open_image(path) as image:
            return levels_to_pillow(image_to_levels(image))
    except InvalidImageError as error:
        raise InvalidImageError(f"{path}: {error}") from error


def is_ciphertext(path: Path) -> bool:
    """Whether a file presents itself as an encrypted image: by its ending .safetensors, or as PNG with our header."""
    if path.suffix.lower() == ".safetensors":
        return True
    try:
        with open_image(path) as image:
            return image.format == "PNG" and "privseg" in image.info
    except (OSError, InvalidImageError):
        return False  # whoever reads the file next reports what is wrong with it


def plain_image(path: Path, processor: Decrypts, secret_key: EncryptionKey | None) -> Image.Image:
    """Path of an image, plain or encrypted -> RGB picture of the plain image at its own size, decrypted if need be.

    Of more than three channels it shows the first three, of two the first.

    Raises:
        EncryptionStateError: an encrypted image without a key.
    """
    if not is_ciphertext(path):
        return levels_to_picture(to_array(processor.to_levels(path)))
    if secret_key is None:
        raise EncryptionStateError(f"{path} is encrypted; to show the image itself, give the key that it needs")
    image = EncryptedImage.from_file(path)
    return levels_to_picture(processor.decrypt_levels(image, secret_key)).resize(image.original_size[::-1])


def save_picture(picture: Image.Image, path: Path, *, overwrite: bool = False) -> None:
    """Write a picture as a PNG file, as a whole or not at all.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
    """
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_whole(path, buffer.getvalue(), overwrite=overwrite)
