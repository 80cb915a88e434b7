"""From a Hugging Face data set of images and label maps to training batches: loading, then joint augmentation."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, Image, IterableDataset, load_dataset
from PIL import Image as PILImage
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..catalog.datasets import PRESETS, preset_named

IGNORE_INDEX = 255
_NUM_SHARDS = 8  # parts of a streamed folder: at most so many workers find something to do
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
        source: a folder with `images/<split>` and `annotations/<split>`, whose files share their stems (ADE20K's own
            layout, its splits being training and validation); Cityscapes' folder, with `leftImg8bit` and `gtFine`; or
            whatever `datasets.load_dataset` takes (a Hub id, a folder with parquet or metadata.jsonl).
        split: the split's name.
        image_column, annotation_column: what the columns are called there.
        revision: branch, tag or commit of a Hub data set.
        streaming: whether rows are fetched one by one instead of being stored first.

    Raises:
        FileNotFoundError: a local folder has no such split, no images, or an image without annotation.
        KeyError: the data set has no such columns.
    """
    folder = Path(source)
    if (folder / "images").is_dir() or (folder / "leftImg8bit").is_dir():
        columns = _paired_files(folder, split)
        stored = Dataset.from_dict(columns).cast_column("image", Image()).cast_column("annotation", Image())
        return stored.to_iterable_dataset(num_shards=min(len(stored), _NUM_SHARDS)) if streaming else stored
    dataset = load_dataset(str(source), split=split, revision=revision, streaming=streaming)
    missing = {image_column, annotation_column} - set(dataset.column_names)
    if missing:
        raise KeyError(f"{source} ({split}) has the columns {dataset.column_names}, and no {sorted(missing)}.")
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


@dataclass(frozen=True)
class LabelMap:
    """Annotations as they are stored -> classes 0 .. num_labels - 1, with `IGNORE_INDEX` where a pixel has none.

    Args:
        num_labels: number of classes.
        ignore_labels: stored values that belong to no class.
        mapping: {stored value: class}; None means that values are classes already. What it does not name is ignored.
        reduce_labels: whether stored 0 is background, to be ignored, and k is class k - 1, as in ADE20K.
    """

    num_labels: int
    ignore_labels: tuple[int, ...] = (IGNORE_INDEX,)
    mapping: dict[int, int] | None = None
    reduce_labels: bool = False

    @classmethod
    def from_files(
        cls,
        num_labels: int,
        ignore_labels: Sequence[int] | None,
        mapping: str | None,
        reduce_labels: bool | None,
        preset: str | None = None,
    ) -> "LabelMap":
        """The settings of a command line, `mapping` being the path of a JSON file {stored value: class}.

        What is None is the preset's, or, without a preset, this class's default.

        Raises:
            ValueError: there is no such preset, or its label map is for another number of classes.
        """
        known = None if preset is None else preset_named(preset)
        table = None if known is None else known.label_map
        if mapping is not None:
            table = {int(value): int(label) for value, label in json.loads(Path(mapping).read_text()).items()}
        elif known is not None and num_labels != len(known.class_names):
            raise ValueError(
                f"expected {len(known.class_names)} classes, as the preset {preset!r} has, got {num_labels}; give a "
                "label map of your own, or a model of these classes"
            )
        defaults = known or cls
        ignored = defaults.ignore_labels if ignore_labels is None else ignore_labels
        reduced = defaults.reduce_labels if reduce_labels is None else reduce_labels
        return cls(num_labels, tuple(ignored), table, reduced)

    def __call__(self, annotation: PILImage.Image | np.ndarray) -> np.ndarray:
        """`(height, width)` indices, or a palette image -> `(height, width)` int64.

        Some data sets store the index in red, green and blue alike, with or without transparency: that will do.

        Raises:
            ValueError: the annotation has several channels that differ, as a map of colours has, or a value that is
                no class.
        """
        stored = np.asarray(annotation)
        if stored.ndim == 3 and stored.shape[-1] in (3, 4) and (stored[..., :1] == stored[..., :3]).all():
            stored = stored[..., 0]
        if stored.ndim != 2:
            raise ValueError(
                f"expected a label map (height, width) of class indices, got shape {stored.shape}; a map of colours "
                "must be converted to indices first"
            )
        labels = self._table[stored]
        if (labels < 0).any():
            raise ValueError(
                f"expected labels 0 .. {self.num_labels - 1}, or one of {self.ignore_labels} (ignored), got "
                f"{np.unique(stored[labels < 0])[:10].tolist()}; name them as ignored or give a label map"
            )
        return labels

    @cached_property
    def _table(self) -> np.ndarray:
        # -1 marks stored values that nobody accounted for
        table = np.full(2**16, -1, dtype=np.int64)
        if self.mapping is not None:
            table[:] = IGNORE_INDEX
            for value, label in self.mapping.items():
                table[value] = label
        else:
            first = int(self.reduce_labels)
            table[first : first + self.num_labels] = np.arange(self.num_labels)
            table[:first] = IGNORE_INDEX
        table[list(self.ignore_labels)] = IGNORE_INDEX
        return table


# As strong as mmsegmentation's photometric distortion.
_PHOTOMETRIC = v2.RandomApply([v2.ColorJitter(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.1)], p=0.5)


@dataclass(frozen=True)
class JointAugmentation:
    """Image and label map -> a random crop for training: scale, crop, flip, photometric distortion.

    Args:
        crop_size: side of the square crop, or height and width of it, in pixels.
        resize_factor: the up-sampling that the image processor of the model applies; the scale is relative to it.
        scale_range: the random scale, relative.
        max_class_share: a crop is drawn again (ten times at most) while one class fills more than this.
        image_size: height and width that every image is resized to first. None keeps its own.
    """

    crop_size: int | tuple[int, int]
    resize_factor: float = 1.0
    scale_range: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    image_size: tuple[int, int] | None = None

    def __call__(self, image: PILImage.Image, labels: np.ndarray) -> dict[str, torch.Tensor]:
        """PIL image and `(height, width)` labels -> pixel_values `(3, *crop)` in [-1, 1] and labels `crop` int64."""
        pixels = tv_tensors.Image(F.pil_to_tensor(image.convert("RGB")))
        mask = tv_tensors.Mask(torch.from_numpy(labels))
        low, high = self.scale_range
        scale = self.resize_factor * torch.empty(1).uniform_(low, high).item()
        size = [max(round(side * scale), 1) for side in self.image_size or pixels.shape[-2:]]
        pixels, mask = F.resize(pixels, size, antialias=True), F.resize(mask, size)
        pixels, mask = self._crop(pixels, mask)
        pixels, mask = v2.RandomHorizontalFlip()(pixels, mask)
        pixels = _PHOTOMETRIC(pixels)
        pixel_values = F.normalize(F.to_dtype(pixels, torch.float32, scale=True), [0.5] * 3, [0.5] * 3)
        return {"pixel_values": pixel_values.as_subclass(torch.Tensor), "labels": mask.as_subclass(torch.Tensor)}

    def _crop(self, pixels: tv_tensors.Image, mask: tv_tensors.Mask) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        fill = {tv_tensors.Image: 127, tv_tensors.Mask: IGNORE_INDEX}
        crop = v2.RandomCrop(self.crop_size, pad_if_needed=True, fill=fill)
        for _ in range(10):
            cropped = crop(pixels, mask)
            counts = torch.bincount(cropped[1][cropped[1] != IGNORE_INDEX])
            if len(counts) and counts.max() <= self.max_class_share * counts.sum():
                break
        return cropped


class _Augmented:
    """What both kinds of data set share: labels, and an augmentation drawn from (seed, epoch, position) alone.

    So neither the number of workers and processes nor an interruption changes what a sample looks like.
    """

    def __init__(self, augmentation: JointAugmentation, label_map: LabelMap, seed: int):
        self.augmentation, self.label_map, self.seed = augmentation, label_map, seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Accelerate's data loaders at the start of an epoch."""
        self.epoch = epoch

    def _augment(self, row: dict[str, PILImage.Image], *position: int) -> dict[str, torch.Tensor]:
        labels = self.label_map(row["annotation"])
        sequence = np.random.SeedSequence((self.seed, self.epoch, *position))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
            return self.augmentation(row["image"], labels)


class AugmentedDataset(_Augmented, torch.utils.data.Dataset):
    """A data set that is stored: row `index` of an epoch always looks the same."""

    def __init__(self, dataset: Dataset, augmentation: JointAugmentation, label_map: LabelMap, *, seed: int):
        super().__init__(augmentation, label_map, seed)
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self._augment(self.dataset[int(index)], int(index))


class AugmentedStream(_Augmented, torch.utils.data.IterableDataset):
    """A data set that is fetched row by row, shuffled within a buffer, in an order that seed and epoch fix.

    The workers of a loader share the files of the data set; the order depends on how many workers there are.
    """

    def __init__(
        self,
        stream: IterableDataset,
        augmentation: JointAugmentation,
        label_map: LabelMap,
        *,
        seed: int,
        buffer_size: int = 1000,
    ):
        super().__init__(augmentation, label_map, seed)
        self.stream = stream.shuffle(seed=seed, buffer_size=buffer_size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        self.stream.set_epoch(self.epoch)
        for position, row in enumerate(self.stream):
            yield self._augment(row, position, worker.id if worker else 0)


def collate(samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Stacks samples: pixel_values `(batch, 3, h, w)` and labels `(batch, h, w)`."""
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
