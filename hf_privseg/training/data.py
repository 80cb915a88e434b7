"""Data sets of images and segmentation maps: how they are found."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset, Image, IterableDataset, load_dataset

from ..setr.array_files import is_array_file
from ..storage.images import is_ciphertext
from .folders import is_folder_of_pairs, paired_files

_NUM_SHARDS = 8  # parts of a streamed folder, and so the largest number of workers that share it


def load_segmentation_dataset(
    source: str | Path,
    *,
    split: str,
    image_column: str = "image",
    annotation_column: str = "annotation",
    revision: str | None = None,
    streaming: bool = False,
    annotation_pattern: str | None = None,
) -> Dataset | IterableDataset:
    """A data set with columns `image` and `annotation` (label indices), in the order of the source.

    Both are PIL images, or the paths of files in a folder that has .npy files; ciphertexts are paths as well.

    Args:
        source: a folder with `images/<split>` and `annotations/<split>` (ADE20K has this layout; its splits are
            training and validation); Cityscapes' folder, with `leftImg8bit` and `gtFine`; or whatever
            `datasets.load_dataset` takes (a Hub id, a folder with parquet files or metadata.jsonl).
        split: name of the split.
        image_column, annotation_column: names of the columns in the source.
        revision: branch, tag or commit of a Hub data set.
        streaming: whether rows are fetched one by one instead of being stored first.
        annotation_pattern: how the segmentation maps of a folder are named, as `paired_files` says.

    Raises:
        FileNotFoundError: a local folder has no such split, no images, or an image without segmentation map.
        ValueError: the data set has no such columns, or segmentation maps that lost information or are ambiguous.
    """
    folder = Path(source)
    if is_folder_of_pairs(folder):
        images, annotations = paired_files(folder, split, annotation_pattern)
        files = {"image": images, "annotation": annotations}
        stored = Dataset.from_dict({column: list(map(str, paths)) for column, paths in files.items()})
        for column, paths in files.items():
            if not (is_ciphertext(paths[0]) or any(map(is_array_file, paths))):  # which are no pictures
                stored = stored.cast_column(column, Image())
        return stored.to_iterable_dataset(num_shards=min(len(stored), _NUM_SHARDS)) if streaming else stored
    dataset = load_dataset(str(source), split=split, revision=revision, streaming=streaming)
    missing = {image_column, annotation_column} - set(dataset.column_names)
    if missing:
        raise ValueError(
            f"expected the columns {sorted({image_column, annotation_column})} in {source} ({split}), got "
            f"{dataset.column_names}; name yours with --image-column and --annotation-column"
        )
    names = {image_column: "image", annotation_column: "annotation"}
    changed = {before: after for before, after in names.items() if before != after}
    return dataset.select_columns(list(names)).rename_columns(changed)


def names_hash(dataset: Dataset | IterableDataset) -> str | None:
    """SHA-256 of the file names of a data set's images in order; None of one that is streamed or has no names."""
    if isinstance(dataset, IterableDataset):
        return None
    found = hashlib.sha256()
    for batch in dataset.select_columns("image").with_format("arrow").iter(1000):
        column = batch["image"]
        paths = pc.struct_field(column, "path") if pa.types.is_struct(column.type) else column
        for path in paths.to_pylist():
            if path is None:
                return None
            found.update(f"{Path(path).name}\n".encode())
    return found.hexdigest()


def evenly_spaced(dataset: Dataset, limit: int | None) -> Dataset:
    """`limit` rows at equal distances, the first and the last among them; all rows if there are no more than that."""
    if limit is None or limit >= len(dataset):
        return dataset
    return dataset.select(np.linspace(0, len(dataset) - 1, limit).round().astype(int))
