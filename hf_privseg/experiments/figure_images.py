"""Images for the figures: files, samples that other packages ship, or rows of a data set with their truth."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ..catalog.sample_images import SAMPLE_IMAGES, sample_image
from ..setr.image_inputs import image_to_levels
from ..storage.images import read_image
from ..training.arguments import DataArguments
from ..training.data import evenly_spaced
from ..training.stored_labels import StoredLabels


@dataclass(kw_only=True)
class ImageArguments(DataArguments):
    """Options that choose the images of a figure: a data set's, or --images."""

    dataset: str = field(
        default="",
        metadata={"help": "Folder with images/<split> and annotations/<split>, or a Hub id. Default: --images."},
    )
    split: str = field(default="test", metadata={"help": "Split of the data set."})
    limit: int = field(default=3, metadata={"help": "Evenly spaced images of the data set."})
    images: list[str] = field(
        default_factory=lambda: ["china", "rocket"],
        metadata={"help": f"Image files, or samples that come with packages: {', '.join(SAMPLE_IMAGES)}."},
    )
    max_side: int = field(default=640, metadata={"help": "Images of --images are reduced to this many pixels a side."})


@dataclass(frozen=True)
class FigureImage:
    """An image of a figure.

    Args:
        name: its name in titles and messages.
        image: upright RGB.
        labels: its truth, `(height, width)` int64, or None.
        credit: a sentence for captions, or "".
        detail: a part that is worth a closer look: (left, top, width, height) in pixels.
    """

    name: str
    image: Image.Image
    labels: np.ndarray | None
    credit: str
    detail: tuple[int, int, int, int]


def load_images(args: ImageArguments, num_labels: int | None = None) -> list[FigureImage]:
    """The images that the options choose.

    Args:
        args: the options.
        num_labels: number of classes of the truth; None reads no truth.

    Raises:
        InvalidImageError: a file is no image.
        FileNotFoundError: a name is neither a file nor a sample.
    """
    if not args.dataset:
        return [_from_name(name, args.max_side) for name in args.images]
    rows = evenly_spaced(args.load_split(args.split), args.limit)
    label_map = None if num_labels is None else args.load_label_map(num_labels, StoredLabels.of(args.split, rows))
    images = []
    for index, row in enumerate(rows):
        image = Image.fromarray(image_to_levels(row["image"]).transpose(1, 2, 0))
        labels = None if label_map is None else label_map(row["annotation"])
        images.append(FigureImage(f"{args.split}_{index}", image, labels, "", _centre(image)))
    return images


def _from_name(name: str, max_side: int) -> FigureImage:
    if name in SAMPLE_IMAGES:
        image, sample = sample_image(name), SAMPLE_IMAGES[name]
        scale = min(1.0, max_side / max(image.size))
        left, top, width, height = (round(value * scale) for value in sample.detail)
        return FigureImage(name, _reduced(image, max_side), None, sample.credit, (left, top, width, height))
    if not Path(name).is_file():
        raise FileNotFoundError(f"{name} is neither a file nor one of the samples {', '.join(SAMPLE_IMAGES)}")
    image = _reduced(read_image(Path(name)), max_side)
    return FigureImage(Path(name).stem, image, None, "", _centre(image))


def _reduced(image: Image.Image, max_side: int) -> Image.Image:
    image.thumbnail((max_side, max_side))
    return image


def _centre(image: Image.Image) -> tuple[int, int, int, int]:
    """The middle of an image, a fifth of its width and height."""
    width, height = max(image.width // 5, 1), max(image.height // 5, 1)
    return (image.width - width) // 2, (image.height - height) // 2, width, height
