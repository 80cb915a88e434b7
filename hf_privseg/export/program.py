"""A model as one program of torch.export, for every batch and size of image that the model itself takes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

Inputs = Mapping[str, torch.Tensor]
Run = Callable[[Inputs], list[torch.Tensor]]

FREEDOMS = ("batch and size", "batch", "nothing")  # what of the inputs may vary, the best first
_MAX_BATCH, _MAX_STEPS = 2**16, 2**12


class NamedOutputs(nn.Module):
    """A model of transformers that returns the tensors of its output in the order of `names`, and nothing else.

    Args:
        model: in evaluation mode.
        inputs: an example.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model = model
        with torch.no_grad():
            outputs = model(**inputs)
        self.names = [name for name, value in outputs.items() if isinstance(value, torch.Tensor)]

    def forward(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The inputs of the model -> its outputs that are tensors."""
        outputs = self.model(**inputs)
        return tuple(outputs[name] for name in self.names)


@dataclass(frozen=True)
class Sizes:
    """Inputs of other sizes for a model, from one example.

    Args:
        example: `pixel_values`, (batch, channels, height, width) where sizes may vary, and whatever else the model
            takes. A batch of 1 is doubled where each input has one, for torch.export takes a 1 for a constant.
        step: sides of images are multiples of this number of pixels.
    """

    example: Inputs
    step: int

    def __post_init__(self) -> None:
        if all(value.ndim and len(value) == 1 for value in self.example.values()):
            object.__setattr__(
                self, "example", {name: value.repeat_interleave(2, 0) for name, value in self.example.items()}
            )

    @property
    def freedoms(self) -> tuple[str, ...]:
        """What may vary at all: sizes only of plain pixels alone, batches only where each input has one."""
        pixels = self.example["pixel_values"]
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
            dims["pixel_values"] |= {2: self.step * rows, 3: self.step * columns}
        return dims

    def others(self, freedom: str) -> list[dict[str, torch.Tensor]]:
        """The example and what else the freedom promises: another batch, and two other sizes."""
        found = [dict(self.example)]
        if freedom != "nothing":
            found.append({name: value[:1] for name, value in self.example.items()})
        if freedom == "batch and size":
            pixels = self.example["pixel_values"]
            height, width = pixels.shape[2:]
            for size in ((height + 2 * self.step, width), (height - self.step, width + 3 * self.step)):
                others = pixels.new_empty(len(pixels), pixels.shape[1], *size).uniform_(-1, 1)
                found.append({**self.example, "pixel_values": others})
        return found


def to_program(model: NamedOutputs, sizes: Sizes, freedom: str) -> ExportedProgram:
    """A model -> its program. What fails comes as torch raises it, and that is of many classes."""
    return torch.export.export(
        model,
        (),
        dict(sizes.example),
        dynamic_shapes={"inputs": sizes.dims(freedom)},
        # The guards that torch.export adds otherwise cannot read inputs given by name.
        prefer_deferred_runtime_asserts_over_guards=True,
    )
