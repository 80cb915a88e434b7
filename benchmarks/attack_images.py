"""The images that the benchmarks of attacks read, at their own size: victims, and images of the attacker's own."""

import glob
from dataclasses import dataclass, field

import numpy as np
from PIL import Image


@dataclass(kw_only=True)
class ImageArguments:
    """Options that say where victims and the attacker's images lie; files have to match the patterns."""

    victims: str = field(metadata={"help": "Pattern of the victims' files."})
    prior: str = field(metadata={"help": "Pattern of the attacker's own images, none of them a victim."})

    def __post_init__(self) -> None:
        for pattern in (self.victims, self.prior):
            files_like(pattern)


def files_like(pattern: str) -> list[str]:
    """A pattern -> the paths of the files that match it, sorted.

    Raises:
        ValueError: no file matches.
    """
    paths = sorted(glob.glob(pattern))
    if not paths:
        raise ValueError(f"no file is called like {pattern}; quote the pattern, and check the path")
    return paths


def evenly_spaced_files(pattern: str, limit: int) -> list[str]:
    """A pattern of files -> the paths of `limit` evenly spaced ones, or of all if there are no more."""
    paths = files_like(pattern)
    return [paths[n] for n in np.unique(np.linspace(0, len(paths) - 1, min(limit, len(paths))).round().astype(int))]


def read_images(pattern: str, limit: int, patch_size: int) -> list[np.ndarray]:
    """A pattern of files -> `limit` evenly spaced ones: (3, height, width) in [-1, 1], cropped to whole blocks."""
    images = []
    for path in evenly_spaced_files(pattern, limit):
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float64).transpose(2, 0, 1) / 127.5 - 1
        height, width = (side // patch_size * patch_size for side in pixels.shape[1:])
        images.append(pixels[:, :height, :width])
    return images
