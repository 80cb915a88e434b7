"""Sample images that scikit-learn and scikit-image ship in their wheels, so that examples need no download."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class SampleImage:
    """A sample image: how it is loaded, whom to credit, and a detail that is worth a closer look.

    Args:
        credit: a sentence for captions, with the author and the licence.
        load: returns the image, (height, width, 3) uint8 RGB.
        detail: (left, top, width, height) in pixels.
    """

    credit: str
    load: Callable[[], np.ndarray]
    detail: tuple[int, int, int, int]


def _of_sklearn(name: str) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        from sklearn.datasets import load_sample_image

        return load_sample_image(name)

    return load


def _of_skimage(name: str) -> Callable[[], np.ndarray]:
    def load() -> np.ndarray:
        from skimage import data

        return getattr(data, name)()

    return load


_CC_BY = "Creative Commons Attribution 2.0 (https://creativecommons.org/licenses/by/2.0/)."

SAMPLE_IMAGES = {
    "china": SampleImage(
        'Image: "china.jpg", a sample image of scikit-learn, some rights reserved by danielbuechele '
        f"(https://www.flickr.com/photos/danielbuechele/6061409035/), {_CC_BY}",
        _of_sklearn("china.jpg"),
        (95, 150, 144, 80),
    ),
    "rocket": SampleImage(
        'Image: "rocket" of scikit-image, by SpaceX (https://www.flickr.com/photos/spacexphotos/16511594820/), '
        "released into the public domain.",
        _of_skimage("rocket"),
        (250, 130, 144, 80),
    ),
    "astronaut": SampleImage(
        'Image: "astronaut" of scikit-image, Eileen Collins, by NASA (https://flic.kr/p/r9qvLn), '
        "no known copyright restrictions.",
        _of_skimage("astronaut"),
        (110, 330, 126, 98),
    ),
    "flower": SampleImage(
        'Image: "flower.jpg", a sample image of scikit-learn, some rights reserved by its author '
        f"(https://www.flickr.com/photos/vultilion/6056698931/), {_CC_BY}",
        _of_sklearn("flower.jpg"),
        (250, 190, 144, 80),
    ),
    "coffee": SampleImage(
        'Image: "coffee" of scikit-image, by Rachel Michetti, CC0.',
        _of_skimage("coffee"),
        (300, 230, 144, 80),
    ),
    "chelsea": SampleImage(
        'Image: "chelsea" of scikit-image, by Stefan van der Walt, CC0.',
        _of_skimage("chelsea"),
        (130, 70, 144, 80),
    ),
}


def sample_image(name: str) -> Image.Image:
    """A name in `SAMPLE_IMAGES` -> the image, 8-bit RGB.

    Raises:
        ValueError: there is no sample image of this name; the message lists them.
        ImportError: the package that ships it is not installed.
    """
    if name not in SAMPLE_IMAGES:
        raise ValueError(f"expected a sample image among {', '.join(SAMPLE_IMAGES)}, got {name!r}")
    try:
        return Image.fromarray(SAMPLE_IMAGES[name].load())
    except ImportError as error:
        raise ImportError(
            f"the sample image {name!r} comes with a package that is not installed ({error}); install scikit-learn "
            "and scikit-image (pip install 'hf-privseg[demo]'), or give an image of your own"
        ) from error
