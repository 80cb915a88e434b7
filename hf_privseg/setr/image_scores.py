"""A model's scores at the size of an image, computed a few rows at a time, so that large images need little memory."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .patch_grid import whole_patches

Rows = Callable[[int, int], torch.Tensor]  # first, last -> (num_labels, last - first, width): the rows between them

_MAX_SCORES = 2**24  # that are held at a time: 64 MiB of float32, and a few times that on the way


@dataclass(frozen=True)
class ImageScores:
    """The scores of every class at every pixel of an image, which are computed when they are asked for.

    Args:
        size: (height, width) of the image.
        num_labels: the number of classes.
        rows: gives the scores between two rows of the image; a row is the same whichever rows it is asked for with.
    """

    size: tuple[int, int]
    num_labels: int
    rows: Rows

    @classmethod
    def from_logits(
        cls, logits: torch.Tensor, size: tuple[int, int], valid_region: tuple[int, int] | None, patch_size: int
    ) -> "ImageScores":
        """(num_labels, any, any) logits over a padded input -> the scores over the image, resized bilinearly.

        The padding is cut off at the resolution of the input, before anything is resized to the image.

        Args:
            logits: over the whole input, at any resolution. Half precision is computed in float32.
            size: (height, width) of the image.
            valid_region: (height, width) that the image covers in the input; None for all of it.
            patch_size: side of a patch in pixels.
        """
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        num_labels, height, _ = logits.shape
        rows: Rows = lambda first, last: logits[:, first:last]  # noqa: E731
        if valid_region is not None and whole_patches(valid_region, patch_size) != tuple(valid_region):
            padded = _resized(rows, height, whole_patches(valid_region, patch_size))
            height, width = valid_region
            rows = lambda first, last: padded(first, last)[..., :width]  # noqa: E731
        return cls(size, num_labels, _resized(rows, height, size))

    def whole(self) -> torch.Tensor:
        """All scores at once, (num_labels, height, width) float."""
        return self.rows(0, self.size[0])

    def segmentation_map(self) -> torch.Tensor:
        """The class with the highest score at each pixel, (height, width) int64; the first one of several."""
        height, width = self.size
        step = max(1, _MAX_SCORES // (self.num_labels * width))
        found = self.rows(0, 1).new_empty(self.size, dtype=torch.int64)
        for first in range(0, height, step):
            last = min(first + step, height)
            found[first:last] = self.rows(first, last).argmax(dim=0)
        return found


def _resized(rows: Rows, height: int, size: tuple[int, int]) -> Rows:
    """The rows of a map of this height -> those of the map resized to (height, width), bilinearly as in torch.

    Columns are resized first, then rows, with corners not aligned. Every row is computed from its own number alone.
    """

    def resized(first: int, last: int) -> torch.Tensor:
        position = (torch.arange(first, last, dtype=torch.float64) + 0.5) * (height / size[0]) - 0.5
        position = position.clamp(0, height - 1)
        above = position.long()
        below = (above + 1).clamp(max=height - 1)
        start, stop = int(above[0]), int(below[-1]) + 1
        source = rows(start, stop)[None]
        source = F.interpolate(source, size=(stop - start, size[1]), mode="bilinear", align_corners=False)[0]
        weight = (position - above).to(source.device, source.dtype)[:, None]
        upper, lower = (source[:, (index - start).to(source.device)] for index in (above, below))
        return upper.mul_(1 - weight).add_(lower.mul_(weight))  # `lerp` rounds differently at the ends of blocks

    return resized
