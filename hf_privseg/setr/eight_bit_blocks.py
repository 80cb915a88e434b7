"""The 8-bit form of float pixels: block floating point, once the direction in which blocks vary most is taken out.

Brightness is most of a block, and an orthogonal matrix spreads it over all numbers, where it would take most of the 8
bits. It is one direction, the first principal component of the ciphertext's own blocks. So each block b is sent as

    b = scale * values + along * axis       values: (n,) int8; axis: (n,) float32, one for the image
                                            scale, along: float32, one each for a block

Products and sum are computed in float64, then rounded to float32 once: the products are exact, so that every program
restores the same pixels bit for bit.
"""

from dataclasses import dataclass

import numpy as np

from .block_cipher import to_blocks
from .errors import CiphertextError

_INT8_MAX = 127
_LEAST, _MOST = 2.0**-100, 2.0**100  # of magnitudes
_SAMPLE = 1024  # blocks from which the axis is estimated
_ITERATIONS = 8


@dataclass(frozen=True, eq=False, repr=False)
class EightBitBlocks:
    """An encrypted image as its blocks of 8-bit numbers.

    Args:
        values: (rows, columns, n) int8, of each block the first n numbers; the others are 0.
        scale: (rows, columns) float32, positive.
        axis: (n,) float32, of length 1; zeros where all blocks are.
        along: (rows, columns) float32.

    Raises:
        CiphertextError: shapes that do not fit, or numbers out of range; they may come from a file that anyone wrote.
    """

    values: np.ndarray
    scale: np.ndarray
    axis: np.ndarray
    along: np.ndarray

    def __post_init__(self) -> None:
        rows, columns, length = self.values.shape
        shapes = self.scale.shape, self.axis.shape, self.along.shape
        if shapes != ((rows, columns), (length,), (rows, columns)):
            raise CiphertextError(
                f"expected a scale and a number along the axis for each of {rows} x {columns} blocks, and an axis of "
                f"{length} numbers, got the shapes {shapes!r:.120}; the file is damaged"
            )
        fits = (self.scale >= _LEAST).all() and (self.scale <= _MOST).all()
        if not (fits and (np.abs(self.axis) <= 2).all() and (np.abs(self.along) <= _MOST).all()):
            raise CiphertextError(
                "expected finite, positive scales and a finite axis, got others; the file is damaged"
            )

    @classmethod
    def of(cls, pixels: np.ndarray, patch_size: int) -> "EightBitBlocks":
        """(channels, height, width) finite float32 -> the nearest blocks of 8-bit numbers. It needs no key."""
        blocks = to_blocks(pixels, patch_size)[0]
        used = np.flatnonzero(blocks.any(axis=(0, 1)))
        blocks = blocks[..., : used[-1] + 1 if len(used) else 1]
        axis = _main_axis(blocks.reshape(-1, blocks.shape[-1]))
        along = blocks @ axis
        values, scale = np.empty(blocks.shape, np.int8), np.empty(blocks.shape[:2], np.float32)
        for row, block_row in enumerate(blocks):  # a few hundred kilobytes at a time
            rest = block_row - along[row, :, None] * axis
            largest = np.maximum(rest.max(axis=-1), -rest.min(axis=-1))
            scale[row] = (largest / np.float32(_INT8_MAX)).clip(_LEAST, _MOST)
            values[row] = np.rint(np.divide(rest, scale[row, :, None], out=rest), out=rest).clip(-_INT8_MAX, _INT8_MAX)
        return cls(values, scale, axis, along)

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """The arrays in their order in a file."""
        return self.values, self.scale, self.axis, self.along

    def restored(self, rows: int | None = None) -> np.ndarray:
        """(rows, columns, n) float32; of the first `rows` alone, where they are given."""
        found = np.empty_like(self.values[:rows], np.float32)
        axis = self.axis.astype(np.float64)
        for row, values in enumerate(self.values[:rows]):
            brightness = self.along[row, :, None].astype(np.float64) * axis
            found[row] = values * self.scale[row, :, None].astype(np.float64) + brightness
        return found


def _main_axis(blocks: np.ndarray) -> np.ndarray:
    """(n, length) -> (length,) float32, near their first principal component about 0, by the power method."""
    sample = blocks[:: -(-len(blocks) // _SAMPLE)]
    axis = sample[np.einsum("ij,ij->i", sample, sample).argmax()]
    for _ in range(_ITERATIONS):
        axis = axis / max(float(np.linalg.norm(axis)), _LEAST)
        axis = (sample @ axis) @ sample
    return (axis / max(float(np.linalg.norm(axis)), _LEAST)).astype(np.float32)
