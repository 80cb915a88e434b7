"""The pixels of a ciphertext as its file holds them: 8 or 16 bits each, and without the zeros that a family leaves."""

import hashlib

import numpy as np

from .block_cipher import from_blocks, to_blocks
from .errors import CiphertextError

_INT16_MAX = 32767


def rounded(array: np.ndarray, step: float) -> tuple[np.ndarray, float]:
    """(channels, height, width) float32 -> the nearest multiples of `step`, and the step as a float32 has it.

    The step is larger where the numbers would have more than 16 bits.
    """
    largest = float(np.abs(array).max())
    step = float(np.float32(max(step, largest / _INT16_MAX)))
    return restored(stored(array, step)), step


def stored(array: np.ndarray, step: float | None = None) -> tuple[np.ndarray, ...]:
    """(channels, height, width) uint8 -> the same array; float32 -> int16 values and the float32 scale, (1,).

    The scale is `step`, or else the smallest that 16 bits allow.
    """
    if array.dtype == np.uint8:
        return (array,)
    largest = float(np.abs(array).max())
    scale = np.float32(step or largest / _INT16_MAX) or np.float32(1.0)
    values = np.divide(array, scale, dtype=np.float64)
    np.rint(values, out=values).clip(-_INT16_MAX, _INT16_MAX, out=values)
    return values.astype(np.int16), np.array([scale], np.float32)


def restored(arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    """The inverse of `stored`, up to the rounding of float pixels."""
    if len(arrays) == 1:
        return arrays[0]
    values, scale = arrays
    return (values * scale.astype(np.float64)).astype(np.float32)


def without_zeros(values: np.ndarray, patch_size: int) -> np.ndarray:
    """(channels, height, width) -> (rows, columns, r): of each block as far as any block has a number other than 0."""
    blocks = to_blocks(values, patch_size)[0]
    used = np.flatnonzero(blocks.any(axis=(0, 1)))
    return np.ascontiguousarray(blocks[..., : used[-1] + 1 if len(used) else 1])


def with_zeros(values: np.ndarray, patch_size: int, num_channels: int, max_pixels: int) -> np.ndarray:
    """The inverse of `without_zeros`, for values that may come from a file that anyone wrote.

    Raises:
        CiphertextError: more numbers than a block has, or more pixels than `check_num_pixels` admits.
    """
    rows, columns, stored = values.shape
    length = num_channels * patch_size**2
    if stored > length:
        raise CiphertextError(
            f"expected at most {length} numbers for a block of {patch_size} x {patch_size} pixels, got {stored}"
        )
    check_num_pixels(num_channels, rows * patch_size, columns * patch_size, max_pixels)  # before it is allocated
    whole = values if stored == length else np.pad(values, ((0, 0), (0, 0), (0, length - stored)))
    return from_blocks(whole[None], patch_size)[0]


def check_num_pixels(num_channels: int, height: int, width: int, max_pixels: int) -> None:
    """Refuse no pixels, more than `max_pixels`, or more numbers than three channels of so many pixels have.

    Raises:
        CiphertextError: names the sizes.
    """
    limit = 3 * max_pixels // max(num_channels, 3)
    if not 0 < height * width <= limit:
        channels = f" in {num_channels} channels" if num_channels > 3 else ""
        raise CiphertextError(
            f"expected an image of 1 to {limit} pixels{channels}, got {height} x {width}; shrink the plain image, "
            "then encrypt"
        )


def digest_of(*arrays: np.ndarray) -> str:
    """The hexadecimal SHA-256 over dtype, shape and numbers of each array, as `image_container` describes it."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.name}{list(array.shape)}".encode())
        digest.update(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data)
    return digest.hexdigest()
