"""Arrays in NumPy's file format (.npy), for images of any number of channels; the files may come from strangers.

The header is checked against the size of the file before anything is allocated, and no pickle is read.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from .errors import InvalidImageError

ARRAY_SUFFIX = ".npy"
_HEADERS: dict[tuple[int, int], Callable[[IO[bytes]], Any]] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_MAX_DIMENSIONS = 3


def is_array_file(name: str | os.PathLike[str]) -> bool:
    """Whether a path is that of a .npy file, by its ending."""
    return os.fspath(name).lower().endswith(ARRAY_SUFFIX)


def array_from_file(path: str | os.PathLike[str]) -> np.ndarray:
    """Path of a .npy file -> its array of numbers, of two or three dimensions.

    Raises:
        InvalidImageError: another content, or more numbers than the three channels of an image of
            `PIL.Image.MAX_IMAGE_PIXELS`.
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        try:
            shape, is_fortran, dtype = _HEADERS[np.lib.format.read_magic(file)](file)
        except Exception as error:  # ValueError, KeyError, SyntaxError, RecursionError, MemoryError, ...
            raise InvalidImageError(
                "expected an array as numpy.save writes it, got another or a damaged file "
                f"({type(error).__name__}: {error!s:.120})"
            ) from error
        num_bytes = os.fstat(file.fileno()).st_size - file.tell()
        if dtype.kind not in "buif" or not 2 <= len(shape) <= _MAX_DIMENSIONS or min(shape) < 1:
            raise InvalidImageError(
                f"expected an image, an array of numbers with two or three sides of 1 or more, got one of "
                f"{dtype!s:.40} and shape {shape!s:.80}"
            )
        count, limit = math.prod(shape), Image.MAX_IMAGE_PIXELS
        if count * dtype.itemsize != num_bytes:
            raise InvalidImageError(
                f"expected {count * dtype.itemsize} bytes for an array of shape {shape!s:.80}, got {num_bytes}; the "
                "file is truncated or damaged"
            )
        if limit is not None and count > 3 * limit:
            raise InvalidImageError(
                f"expected an image of at most {3 * limit} numbers, got {count}; shrink it first or raise "
                "PIL.Image.MAX_IMAGE_PIXELS"
            )
        return np.fromfile(file, dtype, count).reshape(shape, order="F" if is_fortran else "C")
