"""Writing a model for other runtimes, and the proof that the file computes what the model does."""

import inspect
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedModel

from ..any_vit.model_facts import key_facts
from ..any_vit.projection import find_projection
from ..any_vit.proof import difference
from ..inference.tasks import Task, check_takes_images
from ..setr.configuration_setr import SetrConfig
from .program import FREEDOMS, Inputs, NamedOutputs, Run, Sizes, to_program
from .runtimes import Format, Onnx, TorchProgram
from .time_limit import time_limit

FORMATS: dict[str, Format] = {"onnx": Onnx(), "onnx-int8": Onnx(int8=True), "torch": TorchProgram()}
_DAY = 86400.0  # seconds
TOLERANCE = 1e-3  # of the largest number; float32 sums in another order differ by some 1e-6


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Args:
        path: the file.
        outputs: names of the outputs, in their order; `logits` for semantic segmentation.
        varies: what of the inputs may vary: "batch and size", "batch" or "nothing".
        step: sides of images are multiples of this number of pixels, where the size may vary.
        difference: the largest difference from the model, relative to the largest number of an output.
        num_checked: inputs on which the file was run beside the model.
        fixed_because: why no more varies, where torch says so, else "".
    """

    path: Path
    outputs: list[str]
    varies: str
    step: int
    difference: float
    num_checked: int
    fixed_because: str


def export_model(
    model: PreTrainedModel,
    folder: Path,
    inputs: Mapping[str, Any],
    *,
    format: str = "onnx",
    size_seconds: float = 120.0,
) -> Exported:
    """A model, plain or encrypted -> a file in `folder` that another runtime runs, checked against the model.

    The file holds the weights as they are: of an encrypted model the encrypted patch embedding, and the public facts
    about its key. It takes the pixels that the model takes. Batch and size of the images may vary where torch.export
    finds that they may; the file is run beside the model on inputs of several sizes before that is said.

    Args:
        model: of any class of transformers, on CPU in float32.
        folder: exists; a file of the format's name in it is overwritten.
        inputs: an example of what the model takes, with a batch of 2. What is no tensor is the same for every input.
        format: "onnx", "onnx-int8" (matrix products with 8-bit weights) or "torch" (a program of torch.export).
        size_seconds: that torch.export may take for sizes that vary, with models of other classes than SETR; positive,
            at most a day. With some it would not end. It is heeded in the main thread, on systems other than Windows.

    Raises:
        ValueError: unknown format, or seconds out of range, or torch cannot export the model, or the file computes
            something else.
        ImportError: the packages of the format are missing.
    """
    if format not in FORMATS:
        raise ValueError(f"expected one of the formats {', '.join(FORMATS)}, got {format!r:.40}")
    if not 0 < size_seconds <= _DAY:
        raise ValueError(f"expected size_seconds above 0 and at most {_DAY:g}, got {size_seconds}")
    kind, facts = FORMATS[format], key_facts(model)
    sizes = Sizes(inputs, find_projection(model).patch_size)
    traced = NamedOutputs(model.eval(), sizes)
    _check_repeats(traced, sizes, format)
    path, reason = folder / kind.file, ""
    for freedom in sizes.freedoms:
        # Where a model cuts images of any size into windows, torch.export's formulas for the sizes grow for hours.
        may_not_end = freedom == FREEDOMS[0] and not isinstance(model.config, SetrConfig)
        try:
            with torch.no_grad(), _quiet():
                promised = [(inputs, list(traced(**inputs))) for inputs in sizes.others(freedom)]
                with time_limit(size_seconds, "torch.export") if may_not_end else nullcontext():
                    program = to_program(traced, sizes, freedom)
                kind.write(program, traced.names, facts.to_dict() if facts else {}, path)
                found = _differences(kind.load(path), promised)
        except ImportError:
            raise
        except Exception as error:
            reason = _reason(error)
            continue
        if format == "onnx-int8" or max(found) <= TOLERANCE:
            return Exported(path, traced.names, freedom, sizes.step, max(found), len(found), reason)
        reason = f"the largest difference from the model is {max(found):.2g} of the largest number"
    for left in folder.glob(f"{kind.file}*"):
        left.unlink()
    raise ValueError(f"{type(model).__name__} cannot be exported as {format}: {reason}")


@torch.no_grad()
def _check_repeats(model: NamedOutputs, sizes: Sizes, format: str) -> None:
    """Refuse a model that draws random numbers, such as a ViTMAEModel, which masks patches at random."""
    first, second = model(**sizes.example), model(**sizes.example)
    if max(difference(*pair) for pair in zip(first, second, strict=True)) > TOLERANCE:
        raise ValueError(
            f"{type(model.model).__name__} cannot be exported as {format}: it gives other outputs each time, for it "
            "draws random numbers; switch that off in its configuration, or pass them among its inputs (noise=...)"
        )


def _reason(error: Exception) -> str:
    """What torch raises -> one line, of its first cause, for whoever exports a model."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    if "DataDependent" in type(error).__name__:
        return (
            "its computation depends on numbers in its inputs, such as sizes of images or the places of their tokens, "
            "which torch.export cannot follow; run it with transformers, encrypted or not"
        )
    return f"{type(error).__name__}: {error}".partition("\n")[0][:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters tell their developers."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # torch.export prints whole graphs there
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def example_inputs(model: PreTrainedModel, processor: Any) -> dict[str, torch.Tensor]:
    """A model and its processor -> what the model takes for two images of noise: few blocks for a SETR.

    Raises:
        ValueError: the processor takes something else than images.
    """
    rng = np.random.default_rng(0)
    if isinstance(model.config, SetrConfig):
        patch, channels = model.config.patch_size, model.config.num_channels
        return {"pixel_values": torch.from_numpy(rng.uniform(-1, 1, (2, channels, 5 * patch, 7 * patch))).float()}
    check_takes_images(processor)
    images = [Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(2)]
    asked = {name: value * len(images) for name, value in Task().inputs(processor).items()}
    inputs = processor(images=images, return_tensors="pt", **asked)
    taken = inspect.signature(model.forward).parameters
    return {name: value for name, value in inputs.items() if name in taken and isinstance(value, torch.Tensor)}


def _differences(run: Run, promised: Iterable[tuple[Inputs, list[torch.Tensor]]]) -> list[float]:
    """What runs a file, and inputs with the model's outputs -> the largest difference for each of the inputs."""
    return [
        max(difference(own, other) for own, other in zip(run(inputs), expected, strict=True))
        for inputs, expected in promised
    ]
