"""Street images that ship with this package, for visitors and examples: what the embedded model was trained for.

They are no samples for attacks (sample_images.py): visitors try the page and the demo with them, and an attack that
knew them would prove nothing.
"""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

FOLDER = Path(__file__).parent / "street"
STREET_CREDIT = (
    "Street images: frames of CarND-Advanced-Lane-Lines (https://github.com/udacity/CarND-Advanced-Lane-Lines), "
    "Copyright (c) 2016-2018 Udacity, Inc., MIT License."
)


@dataclass(frozen=True)
class StreetImage:
    """A street image: its title, in a word or two, and what it shows, in a sentence for those who cannot see it."""

    title: str
    description: str


STREET_IMAGES = {
    "cars": StreetImage("Two cars", "A motorway in the sun: two cars ahead, a crash barrier, trees and hills."),
    "sign": StreetImage("A road sign", "An empty road in a curve: a yellow road sign, a wall, hills with dry grass."),
    "shade": StreetImage("In the shade", "A motorway between tall trees: two cars ahead, shadows on the road."),
}


def street_file(name: str) -> Path:
    """A name in `STREET_IMAGES` -> the path of its WebP file, 1280 x 720 pixels.

    Raises:
        ValueError: there is no street image of this name; the message lists them.
    """
    if name not in STREET_IMAGES:
        raise ValueError(f"expected a street image among {', '.join(STREET_IMAGES)}, got {name!r}")
    return FOLDER / f"{name}.webp"


def street_image(name: str) -> Image.Image:
    """A name in `STREET_IMAGES` -> the image, 8-bit RGB.

    Raises:
        ValueError: as `street_file`.
    """
    return Image.open(street_file(name)).convert("RGB")
