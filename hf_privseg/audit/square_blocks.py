"""Patch embeddings and pixels of any form as those of one image in square blocks, which is what attacks see.

Frames of a video and crops of an image lie side by side, and patches that a processor has flattened are put back into
their places. Where a block spans several frames, these are channels of it: (frames, channels) for each pixel. Only
the order of pixels changes, in E as in the blocks, so that b E stays as it is.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..setr.errors import InvalidImageError
from ..setr.model_encryption import PatchProjection

_NAMES = ("pixel_values", "pixel_values_videos")
_GRIDS = ("image_grid_thw", "video_grid_thw")


def in_square_blocks(projection: PatchProjection) -> tuple[PatchProjection, int]:
    """A patch embedding of any kind -> (the same for blocks of an image, how many frames a block spans).

    Raises:
        ValueError: it multiplies flattened patches, and the configuration does not say what squares they are.
    """
    weight = projection.weight.detach()
    if projection.patch_size == 1:  # rows of (row, column, channel)
        side, channels = (getattr(projection.config, name, None) for name in ("patch_size", "num_channels"))
        if not isinstance(side, int) or not isinstance(channels, int) or channels * side**2 != weight[0].numel():
            raise ValueError(
                f"the audit attacks square blocks, but the model takes patches of {weight[0].numel()} numbers and its "
                f"configuration says patch_size {side} and num_channels {channels}; audit a model whose patches are "
                "squares of one frame, or that reads them by a convolution"
            )
        weight = weight.reshape(-1, side, side, channels).permute(0, 3, 1, 2)
    depth = weight.shape[2] if weight.ndim == 5 else 1
    if weight.ndim == 5:
        weight = weight.transpose(1, 2).flatten(1, 2)
    size = weight.shape[-1] if weight.ndim == 4 else projection.patch_size
    num_channels = weight[0].numel() // size**2
    parameter = nn.Parameter(weight.contiguous(), requires_grad=False)
    return replace(projection, weight=parameter, patch_size=size, num_channels=num_channels), depth


def as_one_image(batch: Mapping[str, Any], processor: Any, projection: PatchProjection, depth: int) -> torch.Tensor:
    """What a processor makes of one image or video -> (frames of a block * channels, height, width), in whole blocks.

    Args:
        batch: of torch tensors.
        processor: that made it.
        projection, depth: as `in_square_blocks` returns them. The last frame is repeated until the last block is
            whole.

    Raises:
        InvalidImageError: there are no pixels, pixels of another form, or several images.
    """
    pixels = next((batch[name] for name in _NAMES if name in batch), None)
    grids = next((batch[name] for name in (*_GRIDS, "spatial_shapes") if name in batch), None)
    size, num_channels = projection.patch_size, projection.num_channels
    length, is_flat = num_channels * size**2, grids is not None
    form = f"patches of {length} numbers" if is_flat else f"images of {num_channels // depth} channels"
    if (
        not isinstance(pixels, torch.Tensor)
        or pixels.ndim < (2 if is_flat else 4)
        or (pixels.shape[-1] != length if is_flat else pixels.shape[-3] * depth != num_channels)
    ):
        raise InvalidImageError(
            f"expected a processor that makes {form} under one of {', '.join(_NAMES)}, got "
            f"{', '.join(f'{name} {tuple(np.shape(value))}' for name, value in batch.items())} of "
            f"{type(processor).__name__}; take the processor that belongs to the model"
        )
    count = len(pixels if grids is None else grids)
    if count != 1:
        raise InvalidImageError(
            f"expected one image, got {count} of {type(processor).__name__}; a model of images takes them one by one"
        )
    if grids is None:
        return _side_by_side(pixels[0], size, depth)
    sides = [int(side) for side in grids[0]]
    if "spatial_shapes" in batch:
        return _from_rows_of_pixels(pixels[0], sides, size)
    return _from_merged_patches(pixels, sides, size, depth, processor.merge_size)


def _side_by_side(frames: torch.Tensor, patch_size: int, depth: int) -> torch.Tensor:
    """(..., channels, height, width) -> (depth * channels, height, n * width), cropped to whole blocks."""
    frames = frames.reshape(-1, *frames.shape[-3:])
    frames = torch.cat([frames, frames[-1:].expand(-len(frames) % depth, -1, -1, -1)])
    height, width = (side // patch_size * patch_size for side in frames.shape[-2:])
    groups = frames[..., :height, :width].unflatten(0, (-1, depth)).flatten(1, 2)
    return groups.permute(1, 2, 0, 3).flatten(2)


def _from_rows_of_pixels(patches: torch.Tensor, sides: list[int], size: int) -> torch.Tensor:
    """(n, L) patches of (row, column, channel), then padding -> (channels, height, width)."""
    down, across = sides
    cut = patches[: down * across].reshape(down, across, size, size, -1)
    return cut.permute(4, 0, 2, 1, 3).reshape(-1, down * size, across * size)


def _from_merged_patches(
    patches: torch.Tensor, sides: list[int], size: int, depth: int, merge_size: int
) -> torch.Tensor:
    """(n, L) patches of (channel, frame, row, column), squares of them together -> one image of depth * channels."""
    times, down, across = sides
    merged = (times, down // merge_size, across // merge_size, merge_size, merge_size)
    cut = patches.reshape(*merged, -1, depth, size, size)
    #          frame of a block, channel, row of squares, in a square, in a patch, time, the same for columns
    return cut.permute(6, 5, 1, 3, 7, 0, 2, 4, 8).reshape(-1, down * size, times * across * size)
