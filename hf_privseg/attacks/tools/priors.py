"""What an attacker knows of photographs in general: similar scenes, any photographs, or none at all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ...catalog.sample_images import SAMPLE_IMAGES
from .blocks import to_grid
from .statistics import BlockStatistics, block_statistics


@dataclass(frozen=True)
class ImagePrior:
    """Attributes:
    name: "in-domain", "photos" or "synthetic".
    statistics: moments of plain blocks.
    grids: plain grids (down, across, L), for attacks that look beyond second moments; none in the synthetic prior.
    grids_per_image: so many successive grids show one image, the first of them all of it.
    """

    name: str
    statistics: BlockStatistics
    grids: Sequence[np.ndarray] = ()
    grids_per_image: int = 1


def image_prior(
    images: Iterable[np.ndarray], patch_size: int, *, name: str = "in-domain", num_shifts: int = 1
) -> ImagePrior:
    """Plain images, each (channels, height, width) float in [-1, 1], of the attacker's own -> prior.

    Args:
        images: sides are cropped to multiples of the patch size. They must not be the victims.
        num_shifts: the block grid is laid over each image at so many offsets along the diagonal, so that few images
            give smooth moments; `grids` holds all of them.
    """
    grids = []
    shifts = range(0, patch_size, -(-patch_size // num_shifts))
    for image in images:
        for shift in shifts:
            height, width = ((side - shift) // patch_size * patch_size for side in image.shape[1:])
            grids.append(to_grid(image[:, shift : shift + height, shift : shift + width], patch_size))
    return ImagePrior(name, block_statistics(grids), grids, len(shifts))


def photo_prior(patch_size: int, *, exclude: Sequence[str] = (), num_shifts: int = 8) -> ImagePrior:
    """The photographs in `SAMPLE_IMAGES` but those in `exclude` (which an attack is tried on) -> prior.

    Raises:
        ValueError: an excluded name is unknown.
    """
    unknown = sorted(set(exclude) - set(SAMPLE_IMAGES))
    if unknown:
        raise ValueError(f"no photo is called {', '.join(unknown)}; there are {', '.join(SAMPLE_IMAGES)}")
    chosen = [photo.load() for name, photo in SAMPLE_IMAGES.items() if name not in exclude]
    images = [pixels.transpose(2, 0, 1) / 127.5 - 1 for pixels in chosen]
    return image_prior(images, patch_size, name="photos", num_shifts=num_shifts)


def synthetic_prior(
    patch_size: int, *, num_channels: int = 3, reach_in_pixels: float = 60.0, colour_correlation: float = 0.95
) -> ImagePrior:
    """No photograph at all: the covariance of two pixels falls exponentially with their distance -> prior.

    Args:
        patch_size: height and width of a block in pixels.
        num_channels: channels, any two of which are correlated alike.
        reach_in_pixels: distance at which the correlation has fallen to 1/e; photographs of some hundred pixels a side
            have tens of pixels.
        colour_correlation: between two channels of one pixel.
    """
    place = np.arange(patch_size, dtype=np.float64)
    rows, columns = (axis.reshape(-1) for axis in np.meshgrid(place, place, indexing="ij"))
    colours = np.full((num_channels, num_channels), colour_correlation) + np.eye(num_channels) * (
        1 - colour_correlation
    )

    def moments(down: int, across: int) -> np.ndarray:
        distance = np.hypot(rows + down - rows[:, None], columns + across - columns[:, None])
        return 0.25 * np.kron(colours, np.exp(-distance / reach_in_pixels))

    length = num_channels * patch_size**2
    statistics = BlockStatistics(np.zeros(length), moments(0, 0), moments(0, patch_size), moments(patch_size, 0))
    return ImagePrior("synthetic", statistics)
