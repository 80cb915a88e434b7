"""The files that an export writes, and how each of them is run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import torch
from torch.export import ExportedProgram

from .program import Inputs, Run

FACTS = "privseg"  # the name of the public facts about the key in the metadata of an ONNX file


class Format(Protocol):
    """A kind of file for the program of a model."""

    @property
    def file(self) -> str:
        """Name of the file in a model's folder."""

    def write(self, program: ExportedProgram, names: list[str], facts: Mapping[str, Any], path: Path) -> None:
        """Program, names of its outputs, public facts about the key -> the file."""

    def load(self, path: Path) -> Run:
        """The file -> what runs it on CPU: inputs by name -> outputs in the order of their names."""


@dataclass(frozen=True)
class TorchProgram:
    """The program as torch.export saves it; `torch.export.load(path).module()` is a module without this package."""

    file: str = "model.pt2"

    def write(self, program: ExportedProgram, names: list[str], facts: Mapping[str, Any], path: Path) -> None:
        """See `Format`."""
        torch.export.save(program, path, extra_files={"outputs.json": json.dumps(names), FACTS: json.dumps(facts)})

    def load(self, path: Path) -> Run:
        """See `Format`."""
        module = torch.export.load(path).module()
        return lambda inputs: list(module(**inputs))


@dataclass(frozen=True)
class Onnx:
    """An ONNX graph; weights of 2 GiB or more lie beside it in `model.onnx.data`.

    Args:
        int8: whether matrix products are quantised: weights to 8-bit integers, activations as they come. The patch
            embedding stays in float32 where it is a convolution, as in a SETR.
    """

    file: str = "model.onnx"
    int8: bool = False

    def write(self, program: ExportedProgram, names: list[str], facts: Mapping[str, Any], path: Path) -> None:
        """See `Format`."""
        import onnxruntime  # noqa: F401 # what is missing is said before the work
        import onnxscript  # noqa: F401 # torch.onnx needs it

        found = torch.onnx.export(
            program, dynamo=True, input_names=_input_names(program), output_names=names, verbose=False
        )
        assert found is not None  # dynamo=True returns the program
        found.model.metadata_props[FACTS] = json.dumps(facts)
        if not self.int8:
            found.save(path)
            return
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with TemporaryDirectory() as folder:
            found.save(Path(folder) / path.name)
            quantize_dynamic(
                Path(folder) / path.name,
                path,
                op_types_to_quantize=["MatMul", "Gemm"],
                weight_type=QuantType.QInt8,
                per_channel=True,
            )

    def load(self, path: Path) -> Run:
        """See `Format`."""
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        taken = [each.name for each in session.get_inputs()]

        def run(inputs: Inputs) -> list[torch.Tensor]:
            found = session.run(None, {name: inputs[name].numpy() for name in taken})
            return [torch.from_numpy(values) for values in found]

        return run


def _input_names(program: ExportedProgram) -> list[str]:
    """The inputs of a program by the names that the model has for them."""
    return list(program.graph_signature.user_inputs)
