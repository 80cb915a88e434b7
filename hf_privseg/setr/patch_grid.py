"""Sizes on the patch grid: how large an image becomes, where it lies in the model's input, and the way back."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from .setting_checks import check_settings

_MAX_PIXELS = 2**27  # more than Pillow opens
_SIZE_KEYS = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})


@dataclass(frozen=True)
class PatchGrid:
    """The settings of an image processor that decide on sizes. Every size is (height, width) in pixels.

    Args:
        patch_size: side of a patch in pixels.
        do_resize: whether images are resized at all.
        size: None for the image's own size times `resize_factor`; {"height", "width"}; or {"shortest_edge"}, if wanted
            with an upper bound {"longest_edge"}, which keeps the aspect ratio.
        resize_factor: positive; without effect where `size` is given.
        do_pad: whether the image keeps that size and is padded at the bottom and right to whole patches. Otherwise
            the size is rounded to the nearest multiple of `patch_size`.

    Raises:
        ValueError: a setting out of range.
    """

    patch_size: int
    do_resize: bool | None
    size: Any
    resize_factor: float
    do_pad: bool | None

    def __post_init__(self) -> None:
        check_settings({field.name: getattr(self, field.name) for field in fields(self)})
        size = None if self.size is None else dict(self.size)
        if size is not None and set(size) not in _SIZE_KEYS:
            raise ValueError(
                "size is None, {'height', 'width'} or {'shortest_edge'[, 'longest_edge']} in positive pixels, "
                f"got {size}"
            )
        object.__setattr__(self, "size", size)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "PatchGrid":
        """Take these settings from all those of an image processor."""
        return cls(**{field.name: settings[field.name] for field in fields(cls)})

    def valid_region(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Size of an image -> its size after resizing, before padding.

        Raises:
            ValueError: it becomes larger than any model takes; settings may come from a file that anyone wrote.
        """
        height, width = image_size
        if not self.do_resize:
            return image_size
        if self.size is not None and "height" in self.size:
            region = self._rounded(self.size["height"]), self._rounded(self.size["width"])
        else:
            scale = self.resize_factor if self.size is None else self.size["shortest_edge"] / min(image_size)
            if self.size is not None and "longest_edge" in self.size:
                scale = min(scale, self.size["longest_edge"] / max(image_size))
            region = self._rounded(height * scale), self._rounded(width * scale)
        if region[0] * region[1] > _MAX_PIXELS:
            raise ValueError(
                f"expected settings that resize an image to at most {_MAX_PIXELS} pixels, got size={self.size} and "
                f"resize_factor={self.resize_factor}, which make {region[0]} x {region[1]} of {height} x {width}"
            )
        return region

    def padded(self, valid_region: tuple[int, int]) -> tuple[int, int]:
        """Size after resizing -> size of the model's input."""
        return whole_patches(valid_region, self.patch_size) if self.do_pad else valid_region

    def _rounded(self, side: float) -> int:
        return nearest_multiple(side, 1 if self.do_pad else self.patch_size)


def nearest_multiple(side: float, patch_size: int) -> int:
    """A length -> the nearest multiple of `patch_size`, halves upwards, one patch at least."""
    return max(1, int(side / patch_size + 0.5)) * patch_size


def check_on_grid(
    sides: tuple[int, ...], patch_size: int, *, what: str, advice: str, error: type[ValueError] = ValueError
) -> None:
    """Refuse lengths that are not multiples of the patch size, and name the nearest that are.

    Args:
        sides: in pixels.
        patch_size: side of a patch in pixels.
        what: what the lengths are called in the message.
        advice: the end of the message.
        error: the class of the exception.

    Raises:
        ValueError: as `error`.
    """
    if all(side and side % patch_size == 0 for side in sides):
        return
    got, nearest = (" x ".join(map(str, n)) for n in (sides, [nearest_multiple(n, patch_size) for n in sides]))
    raise error(
        f"{what} must be a multiple of the patch size {patch_size}, got {got}; the nearest is {nearest}: {advice}"
    )


def whole_patches(size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """(height, width) -> the smallest multiples of `patch_size` that hold it."""
    height, width = (-(-side // patch_size) * patch_size for side in size)
    return height, width
