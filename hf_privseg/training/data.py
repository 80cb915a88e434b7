"""Data sets of images and segmentation maps: how they are found, and what their classes are called."""

import json
from pathlib import Path

import numpy as np
from datasets import Dataset, Image, IterableDataset, load_dataset

from ..catalog.datasets import PRESETS, preset_named

_NUM_SHARDS = 8  # parts of a streamed folder, and so the largest number of workers that share it
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}


def load_segmentation_dataset(
    source: str | Path,
    *,
    split: str,
    image_column: str = "image",
    annotation_column: str = "annotation",
    revision: str | None = None,
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """A data set with columns `image` (PIL) and `annotation` (PIL, label indices), in the order of the source.

    Args:
        source: a folder with `images/<split>` and `annotations/<split>`, whose files share their stems (ADE20K has
            this layout; its splits are training and validation); Cityscapes' folder, with `leftImg8bit` and `gtFine`;
            or whatever `datasets.load_dataset` takes (a Hub id, a folder with parquet files or metadata.jsonl).
        split: name of the split.
        image_column, annotation_column: names of the columns in the source.
        revision: branch, tag or commit of a Hub data set.
        streaming: whether rows are fetched one by one instead of being stored first.

    Raises:
        FileNotFoundError: a local folder has no such split, no images, or an image without annotation.
        ValueError: the data set has no such columns.
    """
    folder = Path(source)
    if (folder / "images").is_dir() or (folder / "leftImg8bit").is_dir():
        columns = _paired_files(folder, split)
        stored = Dataset.from_dict(columns).cast_column("image", Image()).cast_column("annotation", Image())
        return stored.to_iterable_dataset(num_shards=min(len(stored), _NUM_SHARDS)) if streaming else stored
    dataset = load_dataset(str(source), split=split, revision=revision, streaming=streaming)
    missing = {image_column, annotation_column} - set(dataset.column_names)
    if missing:
        raise ValueError(
            f"expected the columns {sorted({image_column, annotation_column})} in {source} ({split}), got "
            f"{dataset.column_names}; name yours with --image_column and --annotation_column"
        )
    names = {image_column: "image", annotation_column: "annotation"}
    changed = {before: after for before, after in names.items() if before != after}
    return dataset.select_columns(list(names)).rename_columns(changed)


def _paired_files(folder: Path, split: str) -> dict[str, list[str]]:
    """Paths of a split's images and of their annotations, in the order of the images' names."""
    is_cityscapes = (folder / "leftImg8bit").is_dir()
    kinds = ("leftImg8bit", "gtFine") if is_cityscapes else ("images", "annotations")
    image_folder, annotation_folder = (folder / kind / split for kind in kinds)
    for needed in (image_folder, annotation_folder):
        if not needed.is_dir():
            splits = sorted(path.name for path in (folder / kinds[0]).iterdir())
            raise FileNotFoundError(f"Expected the folder {needed}; the splits under {folder} are {splits}.")
    if is_cityscapes:
        images = sorted(image_folder.glob("*/*_leftImg8bit.png"))
        names = [path.name.replace("_leftImg8bit", "_gtFine_labelIds") for path in images]
        annotations = [annotation_folder / path.parent.name / name for path, name in zip(images, names, strict=True)]
    else:
        images = sorted(path for path in image_folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        annotations = [annotation_folder / f"{path.stem}.png" for path in images]
    if not images:
        wanted = "<city>/*_leftImg8bit.png" if is_cityscapes else ", ".join(sorted(IMAGE_SUFFIXES))
        raise FileNotFoundError(f"Expected images ({wanted}) in {image_folder}, found none.")
    lacking = [path.name for path in annotations if not path.exists()]
    if lacking:
        raise FileNotFoundError(f"{len(lacking)} images have no annotation in {annotation_folder}: {lacking[:3]} ...")
    return {"image": [str(path) for path in images], "annotation": [str(path) for path in annotations]}


def class_names(source: str | Path, file: str | Path | None = None, preset: str | None = None) -> dict[int, str]:
    """{class: name} from a JSON file {"0": name, ...} or {"classes": [name, ...]}, else from a preset.

    Without either, the file is <source>/classes.json.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no such preset.
    """
    if preset and not file:
        return dict(enumerate(preset_named(preset).class_names))
    path = Path(file) if file else Path(source) / "classes.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the names of the classes in {path}; give a JSON file {{id: name}} or {{'classes': [name, ...]}}"
            f", or one of the presets {', '.join(PRESETS)}"
        )
    content = json.loads(path.read_text())
    if "classes" in content:
        return dict(enumerate(content["classes"]))
    return {int(index): name for index, name in content.items()}


def evenly_spaced(dataset: Dataset, limit: int | None) -> Dataset:
    """`limit` rows at equal distances, the first and the last among them; all rows if there are no more than that."""
    if limit is None or limit >= len(dataset):
        return dataset
    return dataset.select(np.linspace(0, len(dataset) - 1, limit).round().astype(int))
