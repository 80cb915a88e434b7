"""Sizes and padding on the patch grid: how large a photo becomes, where it lies in the input, and the way back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F

_SIZE_KEYS = ({"height", "width"}, {"shortest_edge"}, {"shortest_edge", "longest_edge"})


@dataclass(frozen=True)
class PatchGrid:
    """The settings of an image processor that decide on sizes; (height, width) in, (height, width) out.

    Args:
        patch_size: side of a patch in pixels.
        do_resize: whether photos are resized at all.
        size: None for the photo's own size times `resize_factor`, {"height", "width"}, or {"shortest_edge"} with an
            upper bound {"longest_edge"} if wanted, which keep the aspect ratio.
        resize_factor: positive; without effect where `size` is given.
        do_pad: whether the photo keeps that size and is padded to whole patches, at the bottom and at the right.
            Otherwise the size is rounded to the nearest multiple of `patch_size` (halves upwards, one patch at least).

    Raises:
        ValueError: a setting out of range.
    """

    patch_size: int
    do_resize: bool | None
    size: Any
    resize_factor: float
    do_pad: bool | None

    def __post_init__(self) -> None:
        if type(self.patch_size) is not int or self.patch_size < 1:
            raise ValueError(f"patch_size is an int >= 1, got {self.patch_size!r}")
        if not 0 < self.resize_factor < float("inf"):
            raise ValueError(f"resize_factor is a positive number, got {self.resize_factor!r}")
        size = None if self.size is None else dict(self.size)
        if size is not None and (set(size) not in _SIZE_KEYS or min(size.values()) < 1):
            raise ValueError(
                "size is None, {'height', 'width'} or {'shortest_edge'[, 'longest_edge']} in positive pixels, "
                f"got {size}"
            )
        object.__setattr__(self, "size", size)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "PatchGrid":
        """The settings of an image processor, others among them -> grid."""
        return cls(**{field.name: settings[field.name] for field in fields(cls)})

    def valid_region(self, photo_size: tuple[int, int]) -> tuple[int, int]:
        """Size of a photo -> its size after resizing, before padding."""
        height, width = photo_size
        if not self.do_resize:
            return photo_size
        if self.size is None:
            scale = self.resize_factor
        elif "height" in self.size:
            return self._on_grid(self.size["height"]), self._on_grid(self.size["width"])
        else:
            scale = self.size["shortest_edge"] / min(photo_size)
            scale = min(scale, self.size.get("longest_edge", float("inf")) / max(photo_size))
        return self._on_grid(height * scale), self._on_grid(width * scale)

    def padded(self, valid_region: tuple[int, int]) -> tuple[int, int]:
        """Size after resizing -> size of the model's input."""
        return whole_patches(valid_region, self.patch_size) if self.do_pad else valid_region

    def _on_grid(self, side: float) -> int:
        unit = 1 if self.do_pad else self.patch_size
        return max(1, int(side / unit + 0.5)) * unit


def whole_patches(size: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """(height, width) -> the smallest multiples of `patch_size` that hold it."""
    height, width = (-(-side // patch_size) * patch_size for side in size)
    return height, width


def padding_before_centring(
    pad_value: float | Sequence[float],
    dtype: torch.dtype,
    *,
    do_rescale: bool | None,
    rescale_factor: float,
    do_normalize: bool | None,
    image_mean: float | Sequence[float],
    image_std: float | Sequence[float],
) -> Any:
    """Padding in normalised units -> the same, one number or one a channel, before rescaling and normalising.

    Photos are padded while they are 8 bits deep, so that 8-bit ciphertexts hold the same pixels as float ones: the
    value is rounded to the nearest level (the mean, 127.5, to 128).

    Raises:
        ValueError: it is no level, 0..255.
    """
    value = torch.as_tensor(pad_value, dtype=torch.float64)
    if do_normalize:
        value = value * torch.as_tensor(image_std) + torch.as_tensor(image_mean)
    if do_rescale:
        value = value * (1 / rescale_factor)  # 255 exactly, as in the library's fused step
    if dtype == torch.uint8:
        value = value.round()
        if value.min() < 0 or value.max() > 255:
            raise ValueError(f"expected a pad_value in normalised units, got {pad_value}: {value.tolist()} in 0..255")
    return value.tolist()


def logits_to_image_size(
    logits: torch.Tensor, photo_size: tuple[int, int], valid_region: tuple[int, int] | None, patch_size: int
) -> torch.Tensor:
    """(num_labels, any, any) logits over a padded input -> (num_labels, *photo_size) over the photo, bilinearly.

    The padding is cut off at the resolution of the input, before anything is resized to the photo.

    Args:
        logits: over the whole input, at any resolution.
        photo_size: (height, width) of the result.
        valid_region: (height, width) that the photo covers in the input; None for all of it.
        patch_size: side of a patch in pixels.
    """
    if valid_region is not None and whole_patches(valid_region, patch_size) != tuple(valid_region):
        height, width = valid_region
        logits = _resized(logits, whole_patches(valid_region, patch_size))[:, :height, :width]
    return _resized(logits, photo_size)


def _resized(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
