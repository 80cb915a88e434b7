"""Training samples: an image and its segmentation map are scaled, cropped and flipped together, then batched."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from ..setr.encrypted_image import EncryptedImage
from ..setr.image_inputs import image_to_levels
from ..setr.public_facts import KeyFacts
from ..setr.segmentation_map_inputs import IGNORE_INDEX
from .grid_crops import ATTEMPTS, GridCrops, is_varied
from .label_map import LabelMap
from .rows import decode_row, read_row

# As strong as mmsegmentation's photometric distortion.
_PHOTOMETRIC = v2.RandomApply([v2.ColorJitter(brightness=0.125, contrast=0.5, saturation=0.5, hue=0.1)], p=0.5)


@dataclass(frozen=True)
class JointAugmentation:
    """A random change of an image together with its segmentation map: scale, crop, flip, photometric distortion.

    Args:
        crop_size: side of the square crop, or height and width of it, in pixels.
        resize_factor: the factor by which the model's image processor enlarges images; the scale is relative to it.
        scale_range: lowest and highest random scale.
        max_class_share: a crop is drawn again, ten times at most, while one class fills a larger share than this.
        image_size: height and width that every image is resized to first. None keeps the image's own size.
        ignore_index: the label of pixels without a class, and of padding.
        num_channels: channels of the image. Colours are distorted where there are three; otherwise brightness and
            contrast are, in all channels alike.
    """

    crop_size: int | tuple[int, int]
    resize_factor: float = 1.0
    scale_range: tuple[float, float] = (0.5, 2.0)
    max_class_share: float = 0.75
    image_size: tuple[int, int] | None = None
    ignore_index: int = IGNORE_INDEX
    num_channels: int = 3

    def __call__(self, image: Image.Image | np.ndarray | torch.Tensor, labels: np.ndarray) -> dict[str, torch.Tensor]:
        """An image and its labels -> a crop of both.

        Args:
            image: decoded as the image processor does it; `(channels, height, width)` uint8 levels stay as they are.
            labels: `(height, width)` int64, of the image's size.

        Returns:
            pixel_values `(channels, *crop)` float32 in [-1, 1], and labels `crop` int64.
        """
        pixels = tv_tensors.Image(torch.from_numpy(image_to_levels(image, num_channels=self.num_channels)))
        mask = tv_tensors.Mask(torch.from_numpy(labels))
        low, high = self.scale_range
        scale = self.resize_factor * torch.empty(1).uniform_(low, high).item()
        size = [max(round(side * scale), 1) for side in self.image_size or pixels.shape[-2:]]
        pixels, mask = F.resize(pixels, size, antialias=True), F.resize(mask, size)
        pixels, mask = self._crop(pixels, mask)
        pixels, mask = v2.RandomHorizontalFlip()(pixels, mask)
        pixels = _PHOTOMETRIC(pixels) if len(pixels) == 3 else _PHOTOMETRIC(pixels[:, None])[:, 0]  # as grey images
        half = [0.5] * self.num_channels
        pixel_values = F.normalize(F.to_dtype(pixels, torch.float32, scale=True), half, half)
        return {"pixel_values": pixel_values.as_subclass(torch.Tensor), "labels": mask.as_subclass(torch.Tensor)}

    def _crop(self, pixels: tv_tensors.Image, mask: tv_tensors.Mask) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        fill = {tv_tensors.Image: 127, tv_tensors.Mask: self.ignore_index}
        crop = v2.RandomCrop(self.crop_size, pad_if_needed=True, fill=fill)
        for _ in range(ATTEMPTS):
            cropped = crop(pixels, mask)
            if is_varied(cropped[1], self.ignore_index, self.max_class_share):
                break
        return cropped


class _Augmented:
    """The part that both kinds of data set share: the augmentation of a row.

    It is drawn from (seed, epoch, position) alone, so that a sample looks the same after an interruption and with any
    number of workers and processes.
    """

    def __init__(
        self, augmentation: JointAugmentation | GridCrops, label_map: LabelMap, seed: int, key: KeyFacts | None
    ):
        self.augmentation: Any = replace(augmentation, ignore_index=label_map.ignore_index)
        self.label_map, self.seed, self.key = label_map, seed, key
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Accelerate's data loaders call this at its start."""
        self.epoch = epoch

    def _augment(
        self, image: torch.Tensor | EncryptedImage, labels: np.ndarray, *position: int
    ) -> dict[str, torch.Tensor]:
        sequence = np.random.SeedSequence((self.seed, self.epoch, *position))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
            return self.augmentation(image, labels)


class AugmentedDataset(_Augmented, torch.utils.data.Dataset):
    """A stored data set with augmentation: row `index` of an epoch always looks the same.

    Args:
        dataset: with columns `image` and `annotation`.
        augmentation: of a row; `GridCrops` where the images are encrypted.
        label_map: turns annotations into classes.
        seed: of the augmentation.
        key: the facts about the key that all images must be encrypted with; None where they must be plain.
    """

    def __init__(
        self,
        dataset: Dataset,
        augmentation: JointAugmentation | GridCrops,
        label_map: LabelMap,
        *,
        seed: int,
        key: KeyFacts | None = None,
    ):
        super().__init__(augmentation, label_map, seed, key)
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        channels = self.augmentation.num_channels
        image, labels = read_row(self.dataset, int(index), self.label_map, channels, self.key)
        return self._augment(image, labels, int(index))


class AugmentedStream(_Augmented, torch.utils.data.IterableDataset):
    """A streamed data set with augmentation, shuffled within a buffer.

    Seed, epoch and the number of workers fix the order: the workers of a loader share the files of the data set.
    """

    def __init__(
        self,
        stream: IterableDataset,
        augmentation: JointAugmentation | GridCrops,
        label_map: LabelMap,
        *,
        seed: int,
        buffer_size: int = 1000,
        key: KeyFacts | None = None,
    ):
        super().__init__(augmentation, label_map, seed, key)
        self.stream = stream.shuffle(seed=seed, buffer_size=buffer_size)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        self.stream.set_epoch(self.epoch)
        for position, row in enumerate(self.stream):
            name_of = partial(_name_in_stream, row, position)
            image, labels = decode_row(row, self.label_map, name_of, self.augmentation.num_channels, self.key)
            yield self._augment(image, labels, position, worker.id if worker else 0)


def _name_in_stream(row: Mapping[str, object], position: int, kind: str) -> str:
    """The file of an image or annotation of a stream, or its place where it comes from no file."""
    stored = row[kind]
    name = stored if isinstance(stored, str) else getattr(stored, "filename", "")
    return str(name or f"{kind} of row {position} of the stream")


def collate(samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Samples -> one batch: pixel_values `(batch, channels, height, width)` and labels `(batch, height, width)`."""
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
