"""The settings that a call of the image processor takes, and a batch together with those that it was made with."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.image_transforms import reorder_images
from transformers.processing_utils import ImagesKwargs
from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME

from .bounded_json import object_from_file
from .centring import Centring
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
        Whether label 0 is background that becomes `ignore_index`, while every other label moves down by 1.
    ignore_index (`int`, *optional*, defaults to `self.ignore_index`):
        The label of padding and background, which the loss leaves out: 255, or -100 for a model of more than 255
        classes. It is the model's `semantic_loss_ignore_index`.
    """

    patch_size: int
    num_channels: int
    # int as well: the library checks types strictly
    resize_factor: float | int
    pad_value: float | int | list[float | int] | tuple[float | int, ...]
    do_reduce_labels: bool
    ignore_index: int


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
