"""Which mean and standard deviation a checkpoint was trained with, and who said so."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..setr.errors import ConversionError
from . import mmseg
from .loading import Checkpoint

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation, one a channel, for pixels in [0, 1], and who said so."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    said_by: str

    @property
    def padding(self) -> list[float]:
        """The mean, with which a source pads that pads with 0 after normalisation, in units of [-1, 1]."""
        return [2 * value - 1 for value in self.mean]


def find_statistics(
    checkpoint: Checkpoint, image_mean: Sequence[float] | None, image_std: Sequence[float] | None, num_channels: int
) -> Statistics:
    """What was given, else what the source says, else ImageNet's.

    Raises:
        ConversionError: other than one number a channel, or not for pixels in [0, 1].
    """
    mean, std, said_by = _stored(checkpoint)
    if image_mean is not None and image_std is not None:
        said_by = "as given"
    elif image_mean is not None or image_std is not None:
        said_by = f"as given and {said_by}"
    found = Statistics(tuple(map(float, image_mean or mean)), tuple(map(float, image_std or std)), said_by)
    for name, values in (("image_mean", found.mean), ("image_std", found.std)):
        if len(values) != num_channels or not all(0 <= value <= 1 for value in values) or min(found.std) == 0:
            raise ConversionError(
                f"expected {name} (--{name.replace('_', '-')}) to be {num_channels} numbers for pixels in [0, 1] "
                f"(for pixels in 0..255 divide them by 255) and no deviation of 0, got {list(values)}"
            )
    return found


def _stored(checkpoint: Checkpoint) -> tuple[Sequence[float], Sequence[float], str]:
    for described, name in (
        (checkpoint.preprocessor, "preprocessor_config.json"),
        (mmseg.section(checkpoint.config, "pretrained_cfg"), "config.json"),  # timm's
    ):
        mean = mmseg.numbers(described, "image_mean") or mmseg.numbers(described, "mean")
        std = mmseg.numbers(described, "image_std") or mmseg.numbers(described, "std")
        if described.get("do_normalize") is False:
            mean, std = [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]
        if mean and std:
            return mean, std, f"as {name} says"
    stored = mmseg.statistics_of(mmseg.read_config(checkpoint.meta))
    if stored is not None:
        mean, std = ([value / 255 for value in values] for values in stored)
        return mean, std, "as the source's configuration says"
    return IMAGENET_MEAN, IMAGENET_STD, "ImageNet's, assumed since the source names none"
