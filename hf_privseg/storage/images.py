"""Images on disk: reading a plain one, telling an encrypted one, writing a picture as a whole."""

import secrets
from pathlib import Path

from PIL import Image

from ..setr.errors import InvalidImageError
from ..setr.image_inputs import photo_to_levels


def read_photo(path: Path) -> Image.Image:
    """Path of any picture -> upright RGB picture of 8 bits; transparent parts over white.

    Raises:
        InvalidImageError: the file is no picture, or a damaged or too large one.
    """
    try:
        with Image.open(path) as picture:
            levels = photo_to_levels(picture)
    except (Image.UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InvalidImageError(f"{path} cannot be read as a picture: {error}") from error
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def is_ciphertext(path: Path) -> bool:
    """Whether the file presents itself as an encrypted image: safetensors, or a PNG with our header."""
    if path.suffix.lower() == ".safetensors":
        return True
    try:
        with Image.open(path) as picture:
            return "privseg" in picture.info
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False  # no picture at all, which whoever reads it says better


def save_picture(picture: Image.Image, path: Path) -> None:
    """A picture -> the PNG file `path`, as a whole or not at all; replaces what is there."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        picture.save(temporary, "PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
