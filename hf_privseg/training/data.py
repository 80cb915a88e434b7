"""From a Hugging Face data set of images and label maps to training batches: loading, then joint augmentation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Image, load_dataset
from PIL import Image as PILImage
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff"}


def load_segmentation_dataset(
    source: str | Path,
    *,
    split: str,
    image_column: str = "image",
    annotation_column: str = "annotation",
    revision: str | None = None,
) -> Dataset:
    """A data set with columns `image` (PIL) and `annotation` (PIL, label indices), in the order of the source.

    Args:
        source: a folder with `images/<split>` and `annotations/<split>`, whose files share their stems; or whatever
            `datasets.load_dataset` takes (a Hub id, a folder with parquet or metadata.jsonl).
        split: the split's name.
        image_column, annotation_column: what the columns are called there.
        revision: branch, tag or commit of a Hub data set.

    Raises:
        FileNotFoundError: a local folder has no such split, or an image has no annotation.
        KeyError: the data set has no such columns.
    """
    folder = Path(source)
    if (folder / "images").is_dir():
        columns = _paired_files(folder, split)
        return Dataset.from_dict(columns).cast_column("image", Image()).cast_column("annotation", Image())
    dataset = load_dataset(str(source), split=split, revision=revision)
    missing = {image_column, annotation_column} - set(dataset.column_names)
    if missing:
        raise KeyError(f"{source} ({split}) has the columns {dataset.column_names}, and no {sorted(missing)}.")
    return dataset.select_columns([image_column, annotation_column]).rename_columns(
        {image_column: "image", annotation_column: "annotation"}
    )


def _paired_files(folder: Path, split: str) -> dict[str, list[str]]:
    image_folder, annotation_folder = folder / "images" / split, folder / "annotations" / split
    for needed in (image_folder, annotation_folder):
        if not needed.is_dir():
            splits = sorted(path.name for path in (folder / "images").iterdir())
            raise FileNotFoundError(f"Expected the folder {needed}; the splits under {folder} are {splits}.")
    images = sorted(path for path in image_folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    annotations = [annotation_folder / f"{path.stem}.png" for path in images]
    lacking = [path.name for path in annotations if not path.exists()]
    if lacking:
        raise FileNotFoundError(f"{len(lacking)} images have no annotation in {annotation_folder}: {lacking[:3]} ...")
    return {"image": [str(path) for path in images], "annotation": [str(path) for path in annotations]}


def label_array(annotation: PILImage.Image | np.ndarray) -> np.ndarray:
    """A label map, `(height, width)` of indices -> int64. Palette images are read as their indices.

    Raises:
        ValueError: the annotation has several channels, as a map of colours has.
    """
    labels = np.asarray(annotation)
    if labels.ndim != 2:
        raise ValueError(
            f"Expected a label map (height, width) of class indices, got shape {labels.shape}. A map of colours must "
            "be converted to indices first."
        )
    return labels.astype(np.int64)


@dataclass(frozen=True)
class JointAugmentation:
    """Image and label map -> a random crop for training: scale, crop, flip, photometric distortion.

    Args:
        crop_size: side of the square crop, in pixels.
        resize_factor: the up-sampling that the image processor of the model applies; the scale is relative to it.
        scale_range: the random scale, relative.
        max_class_share: a crop is drawn again (ten times at most) while one class fills more than this.
        ignore_index: the label of padding.
    """

    crop_size: int
    resize_factor: float = 1.0
    scale_range: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    ignore_index: int = 255

    def __call__(self, image: PILImage.Image, labels: np.ndarray) -> dict[str, torch.Tensor]:
        """PIL image and `(height, width)` labels -> pixel_values `(3, crop, crop)` in [-1, 1] and labels int64."""
        pixels = tv_tensors.Image(F.pil_to_tensor(image.convert("RGB")))
        mask = tv_tensors.Mask(torch.from_numpy(labels))
        low, high = self.scale_range
        scale = self.resize_factor * torch.empty(1).uniform_(low, high).item()
        size = [max(round(side * scale), 1) for side in pixels.shape[-2:]]
        pixels, mask = F.resize(pixels, size, antialias=True), F.resize(mask, size)
        pixels, mask = self._crop(pixels, mask)
        pixels, mask = v2.RandomHorizontalFlip()(pixels, mask)
        pixels = v2.RandomPhotometricDistort()(pixels)
        pixel_values = F.normalize(F.to_dtype(pixels, torch.float32, scale=True), [0.5] * 3, [0.5] * 3)
        return {"pixel_values": pixel_values.as_subclass(torch.Tensor), "labels": mask.as_subclass(torch.Tensor)}

    def _crop(self, pixels: tv_tensors.Image, mask: tv_tensors.Mask) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        fill = {tv_tensors.Image: 127, tv_tensors.Mask: self.ignore_index}
        crop = v2.RandomCrop(self.crop_size, pad_if_needed=True, fill=fill)
        for _ in range(10):
            cropped = crop(pixels, mask)
            counts = torch.bincount(cropped[1][cropped[1] != self.ignore_index])
            if len(counts) and counts.max() <= self.max_class_share * counts.sum():
                break
        return cropped


class AugmentedDataset(torch.utils.data.Dataset):
    """A data set whose random augmentation is a pure function of (seed, epoch, index).

    So neither the number of workers and processes nor an interruption changes what a sample looks like.
    """

    def __init__(self, dataset: Dataset, augmentation: JointAugmentation, *, seed: int, label_map: Any = None):
        self.dataset, self.augmentation, self.seed, self.label_map = dataset, augmentation, seed, label_map
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Accelerate's data loaders at the start of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.dataset[int(index)]
        labels = label_array(row["annotation"])
        if self.label_map is not None:
            labels = self.label_map[labels]
        seed = int(np.random.SeedSequence((self.seed, self.epoch, int(index))).generate_state(1, np.uint64)[0] >> 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.augmentation(row["image"], labels)


def label_lookup(mapping: dict[int, int], ignore_index: int = 255) -> np.ndarray:
    """{source label: target label} -> a `(256,)` int64 look-up table, for `table[labels]`; others are ignored."""
    table = np.full(256, ignore_index, dtype=np.int64)
    for source, target in mapping.items():
        table[source] = target
    return table


def collate(samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stacks samples: pixel_values `(batch, 3, h, w)` and labels `(batch, h, w)`."""
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
