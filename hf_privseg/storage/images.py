"""Images on disk: read a plain one, recognise an encrypted one, write a picture as a whole."""

import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ..setr.errors import InvalidImageError
from ..setr.files import write_whole
from ..setr.image_inputs import image_to_levels


def read_image(path: Path) -> Image.Image:
    """Path of an image in any format of Pillow's -> upright 8-bit RGB; transparent parts lie on white.

    Raises:
        InvalidImageError: the file is no image, is damaged, or is too large.
        OSError: the file cannot be read.
    """
    try:
        with Image.open(path) as picture:
            levels = image_to_levels(picture)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InvalidImageError(f"{path} cannot be read as an image ({error}); give one that Pillow reads") from error
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def is_ciphertext(path: Path) -> bool:
    """Whether a file presents itself as an encrypted image: by its ending .safetensors, or as PNG with our header."""
    if path.suffix.lower() == ".safetensors":
        return True
    try:
        with Image.open(path) as picture:
            return "privseg" in picture.info
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False  # whoever reads the file next reports what is wrong with it


def save_picture(picture: Image.Image, path: Path, *, overwrite: bool = False) -> None:
    """Write a picture as a PNG file, as a whole or not at all.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
    """
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_whole(path, buffer.getvalue(), overwrite=overwrite)
