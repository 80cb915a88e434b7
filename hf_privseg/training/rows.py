"""A row of a data set: how its image and labels are decoded, and what they are called in messages."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image, Value

from ..setr.errors import InvalidImageError
from ..setr.image_inputs import image_to_levels
from .label_map import LabelMap

KINDS = ("image", "annotation")
Labelled = tuple[torch.Tensor, np.ndarray]  # (channels, height, width) uint8 and (height, width) int64


def read_row(dataset: Dataset, index: int, label_map: LabelMap, num_channels: int = 3) -> Labelled:
    """Row `index` of a data set -> its image and labels, as `decode_row` returns them.

    Raises:
        InvalidImageError, ValueError: as `load_row` and `decode_row`, with the names of files where there are any.
    """
    return decode_row(load_row(dataset, index), label_map, partial(name_in, dataset, index), num_channels)


def load_row(dataset: Dataset, index: int) -> dict[str, object]:
    """Row `index` of a data set.

    Raises:
        InvalidImageError: a file of the row is missing or damaged; the message names the row's files.
    """
    try:
        return dataset[index]
    except Exception as error:  # a decoder raises OSError, SyntaxError, ValueError, struct.error, ...
        names = " and ".join(name_in(dataset, index, kind) for kind in dataset.column_names)
        raise InvalidImageError(f"{names} cannot be read ({type(error).__name__}: {error!s:.200})") from error


def name_in(dataset: Dataset, index: int, kind: str) -> str:
    """The file of an image or annotation in row `index`, or its place where it comes from no file."""
    if isinstance(dataset.features[kind], Image):
        path = dataset.select_columns(kind).cast_column(kind, Image(decode=False))[index][kind]["path"]
        if path:
            return str(path)
    elif dataset.features[kind] == Value("string"):  # a file that is opened with its row
        return str(dataset[index][kind])
    return f"{kind} of row {index}"


def decode_row(
    row: Mapping[str, Any], label_map: LabelMap, name_of: Callable[[str], str], num_channels: int = 3
) -> Labelled:
    """A row with `image` and `annotation` -> (channels, height, width) uint8 levels and (height, width) int64 labels.

    The image is decoded as the image processor decodes it.

    Args:
        row: of a data set; PIL images, files, arrays, or lists of numbers as arrays come from a data set.
        label_map: turns stored labels into classes.
        name_of: "image" or "annotation" -> its name for messages.
        num_channels: of the image.

    Raises:
        InvalidImageError: an image or segmentation map cannot be decoded, or their sizes differ.
        ValueError: a stored label has no class.
    """
    image, annotation = (np.asarray(row[kind]) if isinstance(row[kind], list) else row[kind] for kind in KINDS)
    kind = "image"
    try:
        levels = torch.from_numpy(image_to_levels(image, num_channels=num_channels))
        kind = "annotation"
        labels = label_map(annotation)
    except ValueError as error:
        kind_of_error = InvalidImageError if isinstance(error, InvalidImageError) else ValueError
        raise kind_of_error(f"{name_of(kind)}: {error}") from None
    if levels.shape[-2:] != labels.shape:
        (height, width), (rows, columns) = levels.shape[-2:], labels.shape
        raise InvalidImageError(
            f"expected an image and a segmentation map of one size, got {width} x {height} in {name_of('image')} and "
            f"{columns} x {rows} in {name_of('annotation')}; resize the images beforehand, or take the right file"
        )
    return levels, labels
