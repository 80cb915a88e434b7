"""Photos for the figures: files, samples that other packages ship, or rows of a data set with their truth."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..catalog.sample_images import SAMPLE_IMAGES, sample_image
from ..storage.images import read_image
from ..training.arguments import DataArguments
from ..training.data import evenly_spaced


@dataclass(kw_only=True)
class ImageArguments(DataArguments):
    """Which photos to take: a data set's, or --images."""

    dataset: str = field(
        default="", metadata={"help": "Folder with images/<split> and annotations/<split>, or a Hub id, for --images."}
    )
    split: str = field(default="test", metadata={"help": "Split of the data set."})
    limit: int = field(default=3, metadata={"help": "Evenly spaced images of the data set."})
    images: list[str] = field(
        default_factory=lambda: ["china", "rocket"],
        metadata={"help": f"Photo files, or samples that come with packages: {', '.join(SAMPLE_IMAGES)}."},
    )
    max_side: int = field(default=640, metadata={"help": "Photos of --images are reduced to this many pixels a side."})


@dataclass(frozen=True)
class Photo:
    """A photo by name, its truth `(height, width)` int64 where there is one, its credit, and a detail of it.

    The detail is (left, top, width, height) in pixels.
    """

    name: str
    picture: Image.Image
    labels: np.ndarray | None
    credit: str
    detail: tuple[int, int, int, int]


def load_images(args: ImageArguments, num_labels: int | None = None) -> list[Photo]:
    """The photos of the command line, upright and RGB.

    Args:
        args: the options.
        num_labels: classes of the truth; None reads no truth.

    Raises:
        InvalidImageError: a file that is no picture.
        FileNotFoundError: neither a file nor a sample.
    """
    if not args.dataset:
        return [_from_name(name, args.max_side) for name in args.images]
    rows = evenly_spaced(args.load_split(args.split), args.limit)
    photos = []
    for index, row in enumerate(rows):
        picture = row["image"].convert("RGB")
        labels = None if num_labels is None else args.load_label_map(num_labels)(row["annotation"])
        photos.append(Photo(f"{args.split}_{index}", picture, labels, "", _centre(picture)))
    return photos


def _from_name(name: str, max_side: int) -> Photo:
    if name in SAMPLE_IMAGES:
        picture, sample = sample_image(name), SAMPLE_IMAGES[name]
        scale = min(1.0, max_side / max(picture.size))
        left, top, width, height = (round(value * scale) for value in sample.detail)
        return Photo(name, _reduced(picture, max_side), None, sample.credit, (left, top, width, height))
    if not Path(name).is_file():
        raise FileNotFoundError(f"{name} is neither a file nor one of the samples {', '.join(SAMPLE_IMAGES)}")
    picture = _reduced(read_image(Path(name)), max_side)
    return Photo(Path(name).stem, picture, None, "", _centre(picture))


def _reduced(picture: Image.Image, max_side: int) -> Image.Image:
    picture.thumbnail((max_side, max_side))
    return picture


def _centre(picture: Image.Image) -> tuple[int, int, int, int]:
    """The middle of a picture, a fifth of its width and height."""
    width, height = max(picture.width // 5, 1), max(picture.height // 5, 1)
    return (picture.width - width) // 2, (picture.height - height) // 2, width, height
