"""The pixels of a model's input as rows, one for each block that its patch embedding multiplies.

A block is (channels, rows, columns) of an image, (channels, frames, rows, columns) of several frames, or a patch that
the processor has flattened, each in the order of the weight.
"""

import torch

from ..setr.block_cipher import from_blocks, to_blocks
from ..setr.errors import InvalidImageError


def to_rows(pixels: torch.Tensor, patch_size: int, num_channels: int) -> torch.Tensor:
    """Pixels of any form -> (n, L), a block in each row.

    Args:
        pixels: (..., channels, height, width) in whole blocks; (..., frames, channels, height, width) in whole groups
            of frames, where a block spans several; or (..., L) flattened patches.
        patch_size: side of a block, 1 for flattened patches.
        num_channels: numbers of a block for each of its pixels, channels or channels times frames.

    Raises:
        InvalidImageError: patches of another length, other channels, or frames that make no whole groups.
    """
    length = num_channels * patch_size**2
    if pixels.ndim == 2 or patch_size == 1:
        if pixels.shape[-1] != length:
            raise InvalidImageError(
                f"expected flattened patches of {length} numbers each, got shape {tuple(pixels.shape)}"
            )
        return pixels.reshape(-1, length)
    depth = _frames_of_a_block(pixels.shape, num_channels)
    if depth > 1:
        pixels = pixels.unflatten(-4, (-1, depth)).transpose(-4, -3).flatten(-4, -3)
    return to_blocks(pixels, patch_size).reshape(-1, length)


def from_rows(rows: torch.Tensor, shape: torch.Size, patch_size: int, num_channels: int) -> torch.Tensor:
    """The inverse of `to_rows`, for pixels of this shape."""
    if len(shape) == 2 or patch_size == 1:
        return rows.reshape(shape)
    height, width = (side // patch_size for side in shape[-2:])
    pixels = from_blocks(rows.reshape(-1, height, width, rows.shape[-1]), patch_size)
    depth = _frames_of_a_block(shape, num_channels)
    if depth > 1:
        pixels = pixels.unflatten(1, (-1, depth)).transpose(1, 2)
    return pixels.reshape(shape)


def _frames_of_a_block(shape: torch.Size, num_channels: int) -> int:
    """Shape of pixels -> how many of its frames a block spans; 1 for images.

    Raises:
        InvalidImageError: other channels, or frames that make no whole groups.
    """
    channels = shape[-3] if len(shape) > 2 else 0
    if channels == num_channels:
        return 1
    if len(shape) < 4 or not channels or num_channels % channels:
        raise InvalidImageError(
            f"expected pixels of shape (..., {num_channels}, height, width), or frames of these numbers together, got "
            f"{tuple(shape)}"
        )
    depth = num_channels // channels
    if shape[-4] % depth:
        raise InvalidImageError(
            f"expected whole groups of {depth} frames, which a block of the model spans, got {shape[-4]} frames of "
            f"shape {tuple(shape)}; leave out or repeat the last ones before encryption"
        )
    return depth
