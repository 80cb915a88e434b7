"""What an attacker knows of images in general: images of similar scenes, any images, or none at all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...catalog.sample_images import SAMPLE_IMAGES
from .blocks import to_grid
from .metrics import luminance
from .statistics import BlockStatistics, block_statistics, with_equal_channels

PriorName = Literal["in-domain", "unrelated", "synthetic", ""]  # whose images an attacker knows; "" for nobody's

COLOUR_CORRELATION = 0.95  # between two channels of one pixel, where an attacker has to assume it


@dataclass(frozen=True)
class ImagePrior:
    """What an attacker knows of plain blocks.

    Attributes:
        name: whose images they are; attacks on permutations take no colours from unrelated ones.
        statistics: moments of plain blocks.
        num_channels: channels of an image.
        grids: plain grids (down, across, L), for attacks that need more than second moments; none where the moments
            come from a formula.
        grids_per_image: so many successive grids show one image, and the first of them shows all of it.
    """

    name: PriorName
    statistics: BlockStatistics
    num_channels: int
    grids: Sequence[np.ndarray] = ()
    grids_per_image: int = 1


def image_prior(
    images: Iterable[np.ndarray], patch_size: int, *, name: PriorName = "in-domain", num_shifts: int = 1
) -> ImagePrior:
    """Plain images of the attacker's own, each (channels, height, width) float in [-1, 1] -> prior.

    Args:
        images: sides are cropped to multiples of the patch size. They must not be the victims.
        patch_size: height and width of a block in pixels.
        name: of the prior.
        num_shifts: the block grid is laid over each image at so many offsets along the diagonal, so that few images
            give smooth moments; `grids` holds all of them.

    Raises:
        ValueError: there is no image, or the images differ in their channels.
    """
    grids, channels = [], set()
    shifts = range(0, patch_size, -(-patch_size // num_shifts))
    for image in images:
        channels.add(len(image))
        for shift in shifts:
            height, width = ((side - shift) // patch_size * patch_size for side in image.shape[1:])
            grids.append(to_grid(image[:, shift : shift + height, shift : shift + width], patch_size))
    if len(channels) != 1:
        raise ValueError(f"expected one or more images of one number of channels, got numbers {sorted(channels)}")
    return ImagePrior(name, block_statistics(grids), channels.pop(), grids, len(shifts))


def sample_prior(
    patch_size: int, *, num_channels: int = 3, exclude: Sequence[str] = (), num_shifts: int = 8
) -> ImagePrior:
    """The images in `SAMPLE_IMAGES` -> prior for images of any number of channels, as `prior_from_colours` makes it.

    Args:
        patch_size: height and width of a block in pixels.
        num_channels: channels of the victims.
        exclude: names of images that are left out, because an attack is tried on them.
        num_shifts: as for `image_prior`.

    Raises:
        ValueError: an excluded name is unknown.
    """
    unknown = sorted(set(exclude) - set(SAMPLE_IMAGES))
    if unknown:
        raise ValueError(f"no sample image is called {', '.join(unknown)}; there are {', '.join(SAMPLE_IMAGES)}")
    chosen = [sample.load() for name, sample in SAMPLE_IMAGES.items() if name not in exclude]
    images = [pixels.transpose(2, 0, 1) / 127.5 - 1 for pixels in chosen]
    return prior_from_colours(images, patch_size, num_channels=num_channels, num_shifts=num_shifts)


def prior_from_colours(
    images: Iterable[np.ndarray],
    patch_size: int,
    *,
    num_channels: int,
    name: PriorName = "unrelated",
    num_shifts: int = 8,
) -> ImagePrior:
    """RGB images, each (3, height, width) float in [-1, 1] -> prior for victims of `num_channels` channels.

    Victims of three channels are RGB, and those of one are grey. With any other number, colours tell nothing about
    the channels: the prior has the moments of the luminance in each channel, the correlation `COLOUR_CORRELATION`
    between any two of them, and no grids.
    """
    if num_channels == 3:
        return image_prior(images, patch_size, name=name, num_shifts=num_shifts)
    grey = image_prior((luminance(image)[None] for image in images), patch_size, name=name, num_shifts=num_shifts)
    if num_channels == 1:
        return grey
    return ImagePrior(
        name, with_equal_channels(grey.statistics, 1, num_channels, correlation=COLOUR_CORRELATION), num_channels
    )


def synthetic_prior(
    patch_size: int,
    *,
    num_channels: int = 3,
    reach_in_pixels: float = 60.0,
    colour_correlation: float = COLOUR_CORRELATION,
) -> ImagePrior:
    """No image at all: the covariance of two pixels falls exponentially with their distance -> prior.

    Args:
        patch_size: height and width of a block in pixels.
        num_channels: channels, any two of which have the same correlation.
        reach_in_pixels: distance at which the correlation has fallen to 1/e; images of some hundred pixels a side
            have tens of pixels.
        colour_correlation: between two channels of one pixel.
    """
    place = np.arange(patch_size, dtype=np.float64)
    rows, columns = (axis.reshape(-1) for axis in np.meshgrid(place, place, indexing="ij"))

    def moments(down: int, across: int) -> np.ndarray:
        distance = np.hypot(rows + down - rows[:, None], columns + across - columns[:, None])
        return 0.25 * np.exp(-distance / reach_in_pixels)

    grey = BlockStatistics(np.zeros(patch_size**2), moments(0, 0), moments(0, patch_size), moments(patch_size, 0))
    statistics = with_equal_channels(grey, 1, num_channels, correlation=colour_correlation)
    return ImagePrior("synthetic", statistics, num_channels)
