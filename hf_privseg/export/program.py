"""A model as one program of torch.export, for every batch and size of image that the model itself takes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from ..any_vit.pixel_inputs import PIXEL_INPUTS

Inputs = Mapping[str, torch.Tensor]
Run = Callable[[Inputs], list[torch.Tensor]]

FREEDOMS = ("batch and size", "batch", "nothing")  # what of the inputs may vary, the best first
_MAX_BATCH, _MAX_STEPS = 2**16, 2**12


class NamedOutputs(nn.Module):
    """A model of transformers that returns the tensors of its output in the order of `names`, and nothing else.

    A tensor in a tuple is named by its place: `feature_maps.0`; one in an output of a part by both names.

    Args:
        model: in evaluation mode.
        sizes: of its inputs.
    """

    def __init__(self, model: nn.Module, sizes: "Sizes") -> None:
        super().__init__()
        self.model, self.settings = model, sizes.settings
        with torch.no_grad():
            self.names = list(self._tensors(sizes.example))

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The inputs of the model -> its outputs that are tensors."""
        return tuple(self._tensors(inputs).values())

    def _tensors(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        return dict(_named_tensors(self.model(**inputs, **self.settings), ""))


def _named_tensors(item: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The output of a model, or a part of it -> its tensors, by names that begin with `name`."""
    if isinstance(item, torch.Tensor):
        yield name.removeprefix("."), item
    elif isinstance(item, Mapping | list | tuple):
        for key, value in item.items() if isinstance(item, Mapping) else enumerate(item):
            yield from _named_tensors(value, f"{name}.{key}")


@dataclass(frozen=True)
class Sizes:
    """Inputs of other sizes for a model, from one example.

    Args:
        inputs: of the model: pixels, (batch, channels, height, width) where sizes may vary, and whatever else it
            takes.
        step: sides of images are multiples of this number of pixels.
    """

    inputs: Mapping[str, Any]
    step: int

    @cached_property
    def example(self) -> dict[str, torch.Tensor]:
        """The inputs that are tensors. A batch of 1 is doubled, if all have one: torch.export takes a 1 for fixed."""
        found = {name: value for name, value in self.inputs.items() if isinstance(value, torch.Tensor)}
        if all(value.ndim and len(value) == 1 for value in found.values()):
            return {name: value.repeat_interleave(2, 0) for name, value in found.items()}
        return found

    @property
    def settings(self) -> dict[str, Any]:
        """The other inputs, which stay as they are."""
        return {name: value for name, value in self.inputs.items() if not isinstance(value, torch.Tensor)}

    @property
    def pixels(self) -> str:
        """The name of the pixels."""
        return next(name for name in self.example if name in PIXEL_INPUTS)

    @property
    def freedoms(self) -> tuple[str, ...]:
        """What may vary at all: sizes only of plain pixels alone, batches only where each input has one."""
        pixels = self.example[self.pixels]
        if any(value.ndim == 0 or len(value) != len(pixels) for value in self.example.values()):
            return FREEDOMS[2:]
        return FREEDOMS if pixels.ndim == 4 and len(self.example) == 1 else FREEDOMS[1:]

    def dims(self, freedom: str) -> dict[str, dict[int, Any]]:
        """The sides of each input that may vary, as torch.export wants them."""
        if freedom == "nothing":
            return {name: {} for name in self.example}
        batch = Dim("batch", min=1, max=_MAX_BATCH)
        dims: dict[str, dict[int, Any]] = {name: {0: batch} for name in self.example}
        if freedom == "batch and size":
            rows, columns = (Dim(name, min=2, max=_MAX_STEPS) for name in ("rows", "columns"))
            dims[self.pixels] |= {2: self.step * rows, 3: self.step * columns}
        return dims

    def others(self, freedom: str) -> list[dict[str, torch.Tensor]]:
        """The example and what else the freedom promises: another batch, and two other sizes."""
        found = [self.example]
        if freedom != "nothing":
            found.append({name: value[:1] for name, value in self.example.items()})
        if freedom == "batch and size":
            pixels = self.example[self.pixels]
            height, width = pixels.shape[2:]
            for size in ((height + 2 * self.step, width), (height - self.step, width + 3 * self.step)):
                others = pixels.new_empty(len(pixels), pixels.shape[1], *size).uniform_(-1, 1)
                found.append({**self.example, self.pixels: others})
        return found


def to_program(model: NamedOutputs, sizes: Sizes, freedom: str) -> ExportedProgram:
    """A model -> its program. What fails comes as torch raises it, and that is of many classes."""
    return torch.export.export(
        model,
        (),
        sizes.example,
        dynamic_shapes={"inputs": sizes.dims(freedom)},
        # The guards that torch.export adds otherwise cannot read inputs given by name.
        prefer_deferred_runtime_asserts_over_guards=True,
    )
