"""Whatever holds a segmentation map -> its class indices."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from .errors import InvalidImageError
from .image_files import decoded, open_source
from .image_inputs import as_array, flat_images

IGNORE_INDEX = 255  # the label of pixels that belong to no class, for up to 255 classes

_LABEL_NDIM = 2
_LABEL_MODES = ("1", "L", "P", "I", "LA", "PA", "RGB", "RGBA")  # and "I;16...": those that may hold indices


def flat_segmentation_maps(segmentation_maps: Any) -> list[Any]:
    """A segmentation map, a batch as one array, or a list of maps -> flat list of single maps, files opened."""
    if isinstance(segmentation_maps, str | os.PathLike):
        return [open_source(segmentation_maps)]
    if isinstance(segmentation_maps, np.ndarray | torch.Tensor) and segmentation_maps.ndim > _LABEL_NDIM:
        return [segmentation_maps] if _has_one_channel(segmentation_maps) else list(segmentation_maps)
    if isinstance(segmentation_maps, Sequence) and not isinstance(segmentation_maps, bytes):
        return [open_source(item) if isinstance(item, str | os.PathLike) else item for item in segmentation_maps]
    return [segmentation_maps]


def segmentation_map_to_indices(segmentation_map: Any) -> torch.Tensor:
    """One segmentation map -> class indices, (height, width) int64.

    A palette image gives its indices, not its colours. Some data sets store the index in red, green and blue alike,
    with or without transparency; where all colours of a map are such, the index is taken and transparency is not.

    Args:
        segmentation_map: PIL image, or array or tensor of integers or booleans: (height, width), one channel beside
            these, or colours last; or a file of one.

    Raises:
        InvalidImageError: colours that are not grey, fractions, no pixels, or no segmentation map at all.
    """
    came = ""
    if isinstance(segmentation_map, str | os.PathLike):
        segmentation_map = open_source(segmentation_map)
    if isinstance(segmentation_map, Image.Image):
        segmentation_map = decoded(segmentation_map)
        came = f" of a PIL image of mode {segmentation_map.mode!r}"
        if segmentation_map.mode not in _LABEL_MODES and not segmentation_map.mode.startswith("I;16"):
            raise InvalidImageError(
                f"expected a segmentation map of one channel that holds class indices, got a PIL image of mode "
                f"{segmentation_map.mode!r}; if it shows classes as colours, translate them to indices first"
            )
        segmentation_map = np.array(segmentation_map)  # a palette's indices, not its colours
    indices = torch.from_numpy(as_array(segmentation_map))
    if indices.ndim == _LABEL_NDIM + 1 and _has_one_channel(indices):
        indices = indices.squeeze(0 if indices.shape[0] == 1 else -1)
    if indices.ndim == _LABEL_NDIM + 1 and indices.shape[-1] in (2, 3, 4):  # grey or colours, perhaps with opacity
        colours = indices[..., : 1 if indices.shape[-1] == 2 else 3]
        if torch.equal(colours, colours[..., :1].expand_as(colours)):
            indices = colours[..., 0]
    if indices.ndim != _LABEL_NDIM:
        raise InvalidImageError(
            f"expected a segmentation map (height, width) of class indices, got the shape {tuple(indices.shape)}{came}"
            "; if it shows classes as colours, translate them to indices first"
        )
    if indices.is_floating_point():
        raise InvalidImageError(
            f"expected a segmentation map of integers, got {indices.dtype}; if all of its values are whole numbers, "
            "convert it with .astype('int64')"
        )
    return indices.to(torch.int64)


def segmentation_maps_to_indices(
    segmentation_maps: Any,
    image_sizes: list[tuple[int, int]],
    *,
    reduce: bool,
    ignore_index: int = IGNORE_INDEX,
    images: Any = None,
) -> list[torch.Tensor]:
    """Segmentation maps of the images' sizes -> (height, width) int64 each.

    Args:
        segmentation_maps: one, a batch as one array, or a list of them.
        image_sizes: (height, width) of each image.
        images: the images, whose files a message names where they come from files.
        reduce: whether label 0 becomes `ignore_index`, and every other one that counts moves down by 1.
        ignore_index: the label of pixels that belong to no class.

    Raises:
        InvalidImageError: as `segmentation_map_to_indices`, or other sizes than the images'.
    """
    is_one_in_colours = (
        len(image_sizes) == 1
        and isinstance(segmentation_maps, np.ndarray | torch.Tensor)
        and segmentation_maps.ndim == _LABEL_NDIM + 1
        and tuple(segmentation_maps.shape[:2]) == image_sizes[0]
    )
    flat = [segmentation_maps] if is_one_in_colours else flat_segmentation_maps(segmentation_maps)
    maps = [segmentation_map_to_indices(each) for each in flat]
    sizes = [(indices.shape[0], indices.shape[1]) for indices in maps]
    if sizes != image_sizes:
        files = _files_of_others(flat, sizes, images, image_sizes)
        raise InvalidImageError(
            f"expected one segmentation map of the same (height, width) for each of the {len(image_sizes)} images, "
            f"which are {image_sizes[:4]}, got {len(sizes)} of {sizes[:4]}{files}; a map in colours has to be "
            "translated to indices first, and an image is turned as its EXIF tag says"
        )
    if reduce:
        maps = [torch.where((m == 0) | (m == ignore_index), ignore_index, m - 1) for m in maps]
    return maps


def check_ignore_index(maps: list[torch.Tensor], fitted: list[torch.Tensor], ignore_index: int) -> None:
    """Refuse to mark pixels with `ignore_index` where the maps hold larger labels, so that it is a class.

    Args:
        maps: (height, width) labels.
        fitted: the same on the patch grid, where some are padded.
        ignore_index: what they are padded with.

    Raises:
        InvalidImageError: names the largest label.
    """
    for indices, padded in zip(maps, fitted, strict=True):
        if 0 <= ignore_index < indices.max() and (padded == ignore_index).sum() > (indices == ignore_index).sum():
            raise InvalidImageError(
                f"expected labels up to {ignore_index}, which padding gets, got {indices.max()}: {ignore_index} is a "
                "class then. Set ignore_index=-100, as the configuration of a model of so many classes has it"
            )


def _files_of_others(maps: list[Any], sizes: list[tuple[int, int]], images: Any, image_sizes: list[Any]) -> str:
    """The files of the first image and segmentation map whose sizes differ, for messages; "" for no files."""
    for segmentation_map, size, image, image_size in zip(maps, sizes, flat_images(images), image_sizes, strict=False):
        names = [getattr(each, "filename", "") for each in (segmentation_map, image)]
        if size != image_size and all(names):
            return f" ({names[0]} beside {names[1]})"
    return ""


def _has_one_channel(array: np.ndarray | torch.Tensor) -> bool:
    return array.ndim == _LABEL_NDIM + 1 and 1 in (array.shape[0], array.shape[-1])
