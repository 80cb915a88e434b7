"""Image files that anyone may have written: which formats are opened, and one error for every way to fail."""

import base64
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
from PIL import Image, ImageFile, ImageOps

from .array_files import ARRAY_SUFFIX, array_from_file, is_array_file
from .errors import InvalidImageError

# Decoders that are used widely and fuzzed upstream. Pillow knows many more, and hands EPS to Ghostscript.
OPENED_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF", "PPM")
# Of files that are taken from a folder; a file that is named may have any ending.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ARRAY_SUFFIX)
_DECODED_FORMATS = (*OPENED_FORMATS, "MPO")  # a JPEG file that holds several pictures calls itself MPO
_ONE_CHANNEL = ("1", "L", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # modes


def open_image(file: str | os.PathLike[str] | IO[bytes]) -> Image.Image:
    """Path of an image file, or the file itself -> PIL image of a format in OPENED_FORMATS, not yet decoded.

    Raises:
        InvalidImageError: another format, or a damaged file.
        OSError: the file cannot be read.
    """
    Image.init()
    known = [name for name in OPENED_FORMATS if name in Image.OPEN]
    with _decoding(f"expected an image in one of the formats {', '.join(known)}, got a file that is none of them"):
        return Image.open(file, formats=known)


def open_source(source: str | os.PathLike[str]) -> Image.Image | np.ndarray:
    """Path, URL or base64 text -> PIL image of a format in OPENED_FORMATS, not yet decoded; of a .npy file its array.

    The loader of transformers is not used, since it clips 16 bits to 8.

    Raises:
        InvalidImageError: it cannot be read. What may be a key in the wrong argument is not repeated.
    """
    name = os.fspath(source)
    if is_array_file(name) and os.path.isfile(name):
        return array_from_file(name)
    try:
        if os.path.exists(name):
            return open_image(name)
        if name.startswith(("http://", "https://")):
            from huggingface_hub import get_session  # the session that its users may have configured

            content = get_session().get(name, follow_redirects=True).raise_for_status().content
        else:
            content = base64.b64decode(name.removeprefix("data:").partition("base64,")[2] or name, validate=True)
        return open_image(io.BytesIO(content))
    except Exception as error:
        # A text in the wrong argument may be a key: only what names a file or an image is repeated.
        is_named = os.path.exists(name) or os.path.splitext(name)[1].lower() in Image.registered_extensions()
        raise InvalidImageError(
            "expected the path or URL of an image file, or its content in base64, got "
            f"{repr(name) if is_named else f'a text of {len(name)} characters'}, which cannot be read "
            f"({type(error.__cause__ or error).__name__}); check the name and that the file is an image in one of the "
            f"formats {', '.join(OPENED_FORMATS)}"
        ) from None


def decoded(image: Image.Image) -> Image.Image:
    """PIL image -> its frame at hand, decoded and turned as its EXIF tag says.

    Raises:
        InvalidImageError: a format that is not opened, no pixels, more pixels than `PIL.Image.MAX_IMAGE_PIXELS`, or a
            damaged file; the first three before anything is decoded.
    """
    if isinstance(image, ImageFile.ImageFile) and image.format not in _DECODED_FORMATS:
        raise InvalidImageError(
            f"expected an image in one of the formats {', '.join(OPENED_FORMATS)}, got {image.format}, whose decoder "
            "is not used on files that anyone may have written; if you trust this one, pass image.copy()"
        )
    _check_size(image)
    with _decoding(
        "the image cannot be decoded; its file is truncated, damaged, already closed or needs too much memory"
    ):
        return ImageOps.exif_transpose(image)


def decoded_pages(image: Image.Image, max_pages: int) -> list[Image.Image]:
    """A TIFF file whose pages all have one size and one channel -> these pages, decoded; anything else -> [].

    Of more than `max_pages` pages one more is read, and no other.

    Raises:
        InvalidImageError: as `decoded`, with the pixels of three pages counted as those of one RGB image.
    """
    if image.format != "TIFF" or image.mode not in _ONE_CHANNEL:
        return []
    kinds: list[tuple[tuple[int, int], str]] = []
    at_hand = image.tell()
    try:
        with _decoding("the pages of the TIFF file cannot be read; it is truncated or damaged"):
            while len(kinds) <= max_pages and _seek(image, len(kinds)):
                kinds.append((image.size, image.mode))
            if len(kinds) < 2 or len(set(kinds)) > 1:
                return []
            _check_size(image, num_channels=len(kinds))
            pages = []
            for index in range(len(kinds)):
                image.seek(index)
                pages.append(decoded(image))
            return pages
    finally:
        image.seek(at_hand)


def _seek(image: Image.Image, page: int) -> bool:
    """Go to a page of a file; False where the file has no such page."""
    try:
        image.seek(page)
    except EOFError:
        return False
    return True


def _check_size(image: Image.Image, num_channels: int = 3) -> None:
    limit, num_pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
    if not num_pixels:
        raise InvalidImageError(f"expected an image with pixels, got one of {image.width} x {image.height}")
    if limit is not None and num_pixels * max(num_channels, 3) > 3 * limit:
        pages = "" if num_channels <= 3 else f" in {num_channels} channels"
        raise InvalidImageError(
            f"expected an image of at most {limit} pixels, got {image.width} x {image.height}{pages}; if it is no "
            "decompression bomb, shrink it first or raise PIL.Image.MAX_IMAGE_PIXELS"
        )


@contextmanager
def _decoding(problem: str) -> Iterator[None]:
    """Turn whatever a decoder raises, a lack of memory included, into one error; the file system's errors stay."""
    try:
        yield
    except InvalidImageError:
        raise
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, RuntimeError, MemoryError, ...
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InvalidImageError(f"{problem} ({type(error).__name__}: {error!s:.200})") from error
