"""The settings of the image processor beside sizes, and a batch together with the settings that it was made with."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers.image_transforms import reorder_images
from transformers.processing_utils import ImagesKwargs
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME

from .bounded_json import object_from_file
from .hub_files import model_file
from .patch_grid import PatchGrid


class SetrImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    patch_size (`int`, *optional*, defaults to `self.patch_size`):
        Side of a patch of the model, and of a block of the cipher, in pixels. Every image ends on this grid.
    num_channels (`int`, *optional*, defaults to `self.num_channels`):
        Channels of the model's input: 3 for RGB, 1 for grey; other channels are taken as they are.
    resize_factor (`float`, *optional*, defaults to `self.resize_factor`):
        The image's own size is multiplied by it, for models that want their input enlarged. A `size` replaces both.
    pad_value (`float` or `list[float]`, *optional*, defaults to `self.pad_value`):
        Padding in units of the normalised image, one number or one a channel; rounded to the nearest 8-bit level.
    do_reduce_labels (`bool`, *optional*, defaults to `self.do_reduce_labels`):
        Whether label 0 is background that becomes 255 (ignored), while every other label moves down by 1.
    """

    patch_size: int
    num_channels: int
    # int as well: the library checks types strictly
    resize_factor: float | int
    pad_value: float | int | list[float | int] | tuple[float | int, ...]
    do_reduce_labels: bool


def refuse_secret_key(settings: Mapping[str, object]) -> None:
    """Refuse a key among settings, which are saved and shown."""
    if "secret_key" in settings:
        raise TypeError(
            "secret_key is no setting of an image processor, for settings are saved and shown; pass it to the call: "
            "processor(images, secret_key=key)"
        )


def check_settings_files(name: str | os.PathLike[str], options: Mapping[str, Any]) -> None:
    """Refuse settings' files beyond the bounds of `bounded_json`, which transformers would read without any.

    Args:
        name: folder, file or Hub id of the settings.
        options: of `from_pretrained`; those that say where on the Hub they lie are used.

    Raises:
        HeaderError: a file is no JSON object within the bounds; names it.
        OSError: there is no such folder or id.
    """
    if os.path.isfile(name):
        object_from_file(name)
        return
    for part in (PROCESSOR_NAME, options.get("image_processor_filename", IMAGE_PROCESSOR_NAME)):
        found = model_file(name, part, options)
        if found is not None:
            object_from_file(found)


def check_channels(settings: Mapping[str, object]) -> None:
    """Refuse settings that have several numbers, but not one a channel.

    Raises:
        ValueError: names the setting.
    """
    num_channels = settings["num_channels"]
    for name in ("image_mean", "image_std", "pad_value"):
        value = settings[name]
        if isinstance(value, Sequence) and len(value) != num_channels:
            raise ValueError(
                f"expected {name} to be one number or {num_channels}, as many as num_channels says, got {len(value)}"
            )


def with_channels(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings of a call -> the same with `num_channels` where only the mean says it, by one number a channel."""
    mean = settings.get("image_mean")
    return {"num_channels": len(mean)} | dict(settings) if isinstance(mean, Sequence) and mean else dict(settings)


@dataclass(frozen=True)
class Centring:
    """The settings of an image processor that rescale and normalise; the defaults give pixels in [-1, 1].

    Args:
        do_rescale: whether levels are multiplied by `rescale_factor` first.
        rescale_factor: usually 1 / 255.
        do_normalize: whether `image_mean` is subtracted then, and the result divided by `image_std`.
        image_mean: one number, or one a channel.
        image_std: likewise.
    """

    do_rescale: bool | None = True
    rescale_factor: float = 1 / 255
    do_normalize: bool | None = True
    image_mean: float | Sequence[float] = 0.5
    image_std: float | Sequence[float] = 0.5

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Centring":
        """Take these settings from all those of an image processor."""
        return cls(**{field.name: settings[field.name] for field in fields(cls)})

    def to_dict(self) -> dict[str, Any]:
        """The settings by name, as `rescale_and_normalize` takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def check_encryptable(self) -> None:
        """Refuse settings that give other pixels than those in [-1, 1], which every cipher needs.

        Raises:
            ValueError: names the first setting that differs, and the way out.
        """
        for name, expected in CENTRED.to_dict().items():
            found = getattr(self, name)
            if any(value != expected for value in (found if isinstance(found, Sequence) else [found])):
                raise ValueError(
                    f"encryption needs pixels in [-1, 1], that is {name}={expected}, got {found}; a key mixes the "
                    "channels, so statistics of their own would not cancel: fold them into the patch embedding's "
                    "weight and bias, as SetrForSemanticSegmentation.from_vit does, and use this processor's defaults"
                )

    def before(self, pad_value: float | Sequence[float], dtype: torch.dtype) -> Any:
        """A padding in normalised units -> the same, one number or one a channel, before this centring.

        Images are padded while they are 8 bits deep, so that 8-bit ciphertexts hold the same pixels as float ones.
        The padding is therefore rounded to the nearest level; the mean, 127.5, becomes 128.

        Args:
            pad_value: in the units of the centred image.
            dtype: of the image that is padded; only uint8 is rounded.

        Raises:
            ValueError: the padding of a uint8 image is no level in 0..255.
        """
        value = torch.as_tensor(pad_value, dtype=torch.float64)
        if self.do_normalize:
            value = value * torch.as_tensor(self.image_std) + torch.as_tensor(self.image_mean)
        if self.do_rescale:
            value = value * (1 / self.rescale_factor)  # 255 exactly, as in the library's fused step
        if dtype == torch.uint8:
            value = value.round()
            if value.min() < 0 or value.max() > 255:
                raise ValueError(
                    f"expected a pad_value in normalised units, got {pad_value}: {value.tolist()} in 0..255"
                )
        return value.tolist()


CENTRED = Centring()  # what an encryption needs: pixels in [-1, 1], whatever their channel


@dataclass(frozen=True)
class ImagesOnGrid:
    """A batch of plain images after resizing and padding, before it is centred and encrypted.

    Args:
        stacks: one (images, channels, height, width) tensor, mostly uint8, for all images of one original size.
        order: says where in the stacks each image lies, for `reorder_images`.
        original_sizes: (height, width) of each image as it came.
        labels: one (height, width) int64 tensor an image, or None.
        grid: the settings that decided on the sizes.
        centring: the settings for the next step.
        return_tensors: what the caller wants: None for lists, "pt" or "np".
    """

    stacks: dict[Any, torch.Tensor]
    order: Any
    original_sizes: list[tuple[int, int]]
    labels: list[torch.Tensor] | None
    grid: PatchGrid
    centring: Centring
    return_tensors: Any

    @property
    def num_channels(self) -> int:
        """Channels of every image."""
        return int(next(iter(self.stacks.values())).shape[-3])

    def map(self, act: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        """What `act` makes of the stacks, as one tensor an image in the images' order."""
        return list(reorder_images({size: act(stack) for size, stack in self.stacks.items()}, self.order))
