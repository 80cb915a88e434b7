"""Images as grids of block vectors, the form in which every attack sees and returns them.

A grid is a (down, across, L) float64 array: one row vector a block, flattened (channel, row, column) as the ciphers
and the patch embedding have it, L = channels * patch_size**2, plain pixels in [-1, 1]. A ciphertext is a grid too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def to_grid(image: np.ndarray, patch_size: int) -> np.ndarray:
    """(channels, height, width) float in [-1, 1] -> (height / p, width / p, channels * p * p) float64.

    Raises:
        ValueError: the image is no array of three axes, or its sides are no multiples of the patch size.
    """
    image = np.asarray(image, dtype=np.float64)
    if image.ndim != 3 or image.shape[1] % patch_size or image.shape[2] % patch_size:
        raise ValueError(
            f"expected an image (channels, height, width) whose sides are multiples of {patch_size}, got {image.shape}"
        )
    channels, height, width = image.shape
    cut = image.reshape(channels, height // patch_size, patch_size, width // patch_size, patch_size)
    return cut.transpose(1, 3, 0, 2, 4).reshape(height // patch_size, width // patch_size, -1)


def to_image(grid: np.ndarray, patch_size: int) -> np.ndarray:
    """The inverse of `to_grid`: (down, across, channels * p * p) -> (channels, height, width)."""
    down, across, length = grid.shape
    channels = length // patch_size**2
    cut = grid.reshape(down, across, channels, patch_size, patch_size).transpose(2, 0, 3, 1, 4)
    return cut.reshape(channels, down * patch_size, across * patch_size)


def as_rows(grids: Sequence[np.ndarray]) -> np.ndarray:
    """Grids of any sizes, (down, across, L) each -> (all their blocks, L)."""
    return np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in grids])


@dataclass(frozen=True)
class LinearDecoder:
    """An affine map from what the attacker sees of a block to an estimate of its pixels; most attacks return one.

    Attributes:
        matrix: (M, L) float64; M is the length of what is seen, L that of a block.
        offset: (L,) float64.
    """

    matrix: np.ndarray
    offset: np.ndarray

    def estimate(self, grid: np.ndarray) -> np.ndarray:
        """(down, across, M) seen -> (down, across, L), estimated pixels, which may be outside of [-1, 1]."""
        return grid @ self.matrix + self.offset

    def decode(self, grid: np.ndarray) -> np.ndarray:
        """(down, across, M) seen -> (down, across, L), estimated pixels in [-1, 1]."""
        return np.clip(self.estimate(grid), -1.0, 1.0)
