"""A row of a data set: how its image and labels are decoded, and what they are called in messages."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from datasets import Dataset, Image, IterableDataset, Value

from ..setr.encrypted_image import EncryptedImage, is_encrypted_image
from ..setr.errors import CiphertextError, InvalidImageError
from ..setr.image_inputs import image_to_levels
from ..setr.public_facts import KeyFacts, check_key_fits, check_plain_image_fits
from ..storage.images import is_ciphertext
from .label_map import LabelMap

KINDS = ("image", "annotation")
Plain = tuple[torch.Tensor, np.ndarray]  # (channels, height, width) uint8 and (height, width) int64
Labelled = tuple[torch.Tensor | EncryptedImage, np.ndarray]


@overload
def read_row(dataset: Dataset, index: int, label_map: LabelMap, num_channels: int = 3, key: None = None) -> Plain: ...


@overload
def read_row(
    dataset: Dataset, index: int, label_map: LabelMap, num_channels: int = 3, key: KeyFacts | None = None
) -> Labelled: ...


def read_row(
    dataset: Dataset, index: int, label_map: LabelMap, num_channels: int = 3, key: KeyFacts | None = None
) -> Labelled:
    """Row `index` of a data set -> its image and labels, as `decode_row` returns them.

    Raises:
        As `load_row` and `decode_row`, with the names of files where there are any.
    """
    return decode_row(load_row(dataset, index), label_map, partial(name_in, dataset, index), num_channels, key)


def check_encryption(rows: Dataset | IterableDataset, key: KeyFacts | None) -> None:
    """Refuse a data set, by its first image, that is not encrypted with the key of a model.

    Args:
        rows: a split, with a column `image`.
        key: the facts about the model's key, None where the model is plain.

    Raises:
        EncryptionStateError: plain images and an encrypted model, or ciphertexts and a plain one.
        KeyMismatchError: the keys differ; names both.
    """
    images = rows.select_columns("image")
    first = load_row(images, 0)["image"] if isinstance(images, Dataset) else next(iter(images))["image"]
    name = first if isinstance(first, str) else "the first image of the data set"
    _check_belongs(_decoded(first, 3) if _is_ciphertext(first) else None, key, name)


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
    row: Mapping[str, Any],
    label_map: LabelMap,
    name_of: Callable[[str], str],
    num_channels: int = 3,
    key: KeyFacts | None = None,
) -> Labelled:
    """A row with `image` and `annotation` -> (channels, height, width) uint8 levels and (height, width) int64 labels.

    The image is decoded as the image processor decodes it; a ciphertext becomes an `EncryptedImage`.

    Args:
        row: of a data set; PIL images, files, arrays, or lists of numbers as arrays come from a data set.
        label_map: turns stored labels into classes.
        name_of: "image" or "annotation" -> its name for messages.
        num_channels: of the image.
        key: the facts about the key that images must be encrypted with; None where they must be plain.

    Raises:
        InvalidImageError: an image or segmentation map cannot be decoded, or their sizes differ.
        CiphertextError: a damaged ciphertext.
        EncryptionStateError: a plain image in place of a ciphertext, or the reverse.
        KeyMismatchError: a ciphertext of another key.
        ValueError: a stored label has no class.
    """
    image, annotation = (np.asarray(row[kind]) if isinstance(row[kind], list) else row[kind] for kind in KINDS)
    kind = "image"
    try:
        decoded = _decoded(image, num_channels)
        kind = "annotation"
        labels = label_map(annotation)
    except ValueError as error:
        kind_of_error = type(error) if isinstance(error, InvalidImageError | CiphertextError) else ValueError
        raise kind_of_error(f"{name_of(kind)}: {error}") from None
    _check_belongs(decoded, key, name_of("image"))
    size = decoded.shape[-2:] if isinstance(decoded, torch.Tensor) else decoded.original_size
    if size != labels.shape:
        (height, width), (rows, columns) = size, labels.shape
        raise InvalidImageError(
            f"expected an image and a segmentation map of one size, got {width} x {height} in {name_of('image')} and "
            f"{columns} x {rows} in {name_of('annotation')}; resize the images beforehand, or take the right file"
        )
    return decoded, labels


def _decoded(image: Any, num_channels: int) -> torch.Tensor | EncryptedImage:
    """An image of a row: levels, or a ciphertext."""
    if _is_ciphertext(image):
        return EncryptedImage.from_bytes(Path(image).read_bytes())
    if "privseg" in getattr(image, "info", ()):
        raise CiphertextError(
            "expected a plain image, as the first one of the data set is, got a ciphertext; keep the two in folders "
            "of their own"
        )
    return torch.from_numpy(image_to_levels(image, num_channels=num_channels))


def _is_ciphertext(image: object) -> bool:
    return isinstance(image, str) and is_ciphertext(Path(image))


def _check_belongs(image: object, key: KeyFacts | None, name: str) -> None:
    """Refuse an image that is not encrypted with this key or, without one, not plain."""
    if is_encrypted_image(image):
        check_key_fits(image.facts, key, subject=name)
    else:
        check_plain_image_fits(None, key, subject=name)
