"""A row of a data set: what it is called in messages, and how its image and labels are decoded."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..setr.errors import InvalidImageError
from ..setr.image_inputs import image_to_levels
from .label_map import LabelMap


def file_name(image: Any, otherwise: str) -> str:
    """The path of the file that a PIL image was opened from; `otherwise` for any other image."""
    return str(getattr(image, "filename", "") or otherwise)


def decode_row(row: Mapping[str, Any], label_map: LabelMap, position: str) -> tuple[torch.Tensor, np.ndarray]:
    """A row with `image` and `annotation` -> (channels, height, width) uint8 levels and (height, width) int64 labels.

    Images are decoded as the image processor decodes them.

    Args:
        row: of a data set.
        label_map: turns stored labels into classes.
        position: names the row in messages where its images come from no files.

    Raises:
        InvalidImageError: an image or segmentation map cannot be decoded, or their sizes differ.
        ValueError: a stored label has no class. Every message names the file at fault.
    """
    names = {kind: file_name(row[kind], f"{kind} of {position}") for kind in ("image", "annotation")}
    kind = "image"
    try:
        levels = image_to_levels(row["image"])
        kind = "annotation"
        labels = label_map(row["annotation"])
    except ValueError as error:
        kind_of_error = InvalidImageError if isinstance(error, InvalidImageError) else ValueError
        raise kind_of_error(f"{names[kind]}: {error}") from None
    if levels.shape[-2:] != labels.shape:
        (height, width), (rows, columns) = levels.shape[-2:], labels.shape
        raise InvalidImageError(
            f"expected an image and a segmentation map of one size, got {width} x {height} in {names['image']} and "
            f"{columns} x {rows} in {names['annotation']}; resize the images beforehand, or take the right file"
        )
    return levels, labels
