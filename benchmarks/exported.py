"""The embedded model in PyTorch and as exported files: mIoU on the same images, and times taken in turns.

    python -m venv build/openvino
    build/openvino/bin/pip install openvino==2026.4.1
    python benchmarks/exported.py --dataset data/camvid --preset camvid --openvino build/openvino/bin/python \\
        --output outputs/exported.md

The ratio says how many times faster than PyTorch in float32 each is, the median over the turns, in processor time, so
that other programs on the machine count little. Each runs with as many threads as PyTorch. OpenVINO runs in an
environment of its own, where there is one.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from input_size import resized
from interleaved import interleaved, processor_seconds_of, ratio, report
from mmseg import in_dtype
from peer_process import PeerProcess, reason_to_skip

from hf_privseg import SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.attacks.model_theft import mean_iou
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.experiments.tables import ResultTable
from hf_privseg.export import example_inputs, export_model
from hf_privseg.training.arguments import DataArguments, parse_arguments, run_script
from hf_privseg.training.data import evenly_spaced

Logits = Callable[[torch.Tensor], torch.Tensor]
Seconds = Callable[[torch.Tensor], Callable[[], float]]
_HEADER = ["runtime", "mIoU", "pixels of another class than in PyTorch", "file, MB", "s", "times faster"]


@dataclass(kw_only=True)
class Arguments(DataArguments):
    """What the command line takes."""

    output: str = field(metadata={"help": "Markdown file for the table."})
    model: str | None = field(default=None, metadata={"help": "Plain SETR checkpoint. Default: the embedded one."})
    openvino: str | None = field(default=None, metadata={"help": "Python of an environment with OpenVINO."})
    split: str = field(default="test", metadata={"help": "Split for the mIoU."})
    limit: int = field(default=12, metadata={"help": "Evenly spaced images for the mIoU."})
    height: int = field(default=480, metadata={"help": "Of the images in pixels, in their own proportions."})
    rounds: int = field(default=7, metadata={"help": "Turns; medians are taken."})


@dataclass(frozen=True)
class Runtime:
    """A model that something runs.

    Args:
        logits: (1, channels, height, width) float32 -> (1, num_labels, any, any).
        seconds: the same pixels -> what runs once and returns the seconds.
        file: what it runs, where it is one.
    """

    logits: Logits
    seconds: Seconds
    file: Path | None = None


def of_function(logits: Logits, file: Path | None = None) -> Runtime:
    """What computes logits in this process -> a runtime."""
    return Runtime(logits, lambda pixels: processor_seconds_of(partial(logits, pixels)), file)


def of_torch(model: Callable[..., Any]) -> Runtime:
    """A model, or one that is compiled."""

    @torch.inference_mode()
    def logits(pixels: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model(pixel_values=pixels).logits
        return found.float()

    return of_function(logits)


def of_onnx(path: Path) -> Runtime:
    """An ONNX file in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def logits(pixels: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(["logits"], {"pixel_values": pixels.numpy()})[0])

    return of_function(logits, path)


def of_openvino(peer: PeerProcess, folder: Path, dtype: str, path: Path) -> Runtime:
    """An ONNX file in OpenVINO, which exchanges arrays through a folder."""

    def seconds(pixels: torch.Tensor) -> Callable[[], float]:
        def timed() -> float:
            np.save(folder / "pixels.npy", pixels.numpy())
            return peer.ask(dtype)

        return timed

    def logits(pixels: torch.Tensor) -> torch.Tensor:
        seconds(pixels)()
        return torch.from_numpy(np.load(folder / "logits.npy"))

    return Runtime(logits, seconds, path)


@contextmanager
def runtimes(model: SetrForSemanticSegmentation, args: Arguments) -> Iterator[tuple[dict[str, Runtime], list[str]]]:
    """Everything that runs the model here, and what is to be said about it."""
    notes = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        found = {"PyTorch, float32": of_torch(model), "PyTorch, bfloat16": of_torch(in_dtype(model, "bfloat16"))}
        found["torch.compile, float32"] = of_torch(torch.compile(model))
        inputs = example_inputs(model, SetrImageProcessor(patch_size=model.config.patch_size))
        paths = {}
        for kind in ("onnx", "onnx-int8"):
            (folder / kind).mkdir()
            paths[kind] = export_model(model, folder / kind, inputs, format=kind).path
        found["onnxruntime, float32"] = of_onnx(paths["onnx"])
        found["onnxruntime, int8 products"] = of_onnx(paths["onnx-int8"])
        skipped = reason_to_skip(args.openvino, "OpenVINO", "openvino, numpy")
        if skipped or args.openvino is None:
            notes.append(str(skipped))
        else:
            request = {"folder": str(folder), "threads": torch.get_num_threads(), "model": str(paths["onnx"])}
            peer = stack.enter_context(PeerProcess(Path(args.openvino).absolute(), "openvino_runtime.py", request))
            notes.append(f"OpenVINO {peer.versions['openvino']}")
            for dtype in ("float32", "bfloat16"):
                found[f"OpenVINO, {dtype}"] = of_openvino(peer, folder, dtype, paths["onnx"])
        yield found, notes


def labelled_images(args: Arguments, model: SetrForSemanticSegmentation) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, channels, height, width) pixels in [-1, 1], and their labels at their own size."""
    assert model.config.num_labels is not None
    label_map, images, labels = args.load_label_map(model.config.num_labels), [], []
    for row in evenly_spaced(args.load_split(args.split), args.limit):
        images.append(torch.from_numpy(resized(row["image"], args.height, model.config.patch_size)).float())
        labels.append(torch.from_numpy(label_map(np.asarray(row["annotation"])).astype(np.int64)))
    return torch.stack(images), torch.stack(labels)


def row(
    name: str, runtime: Runtime, images: torch.Tensor, labels: torch.Tensor, num_labels: int, usual: list[torch.Tensor]
) -> list[str]:
    """Name, mIoU, share of other classes than the first runtime's, which fills `usual`, and the size of the file."""
    maps: list[torch.Tensor] = []

    def logits(batch: torch.Tensor) -> torch.Tensor:
        found = runtime.logits(batch)
        maps.append(found.argmax(dim=1))
        return found

    score = mean_iou(logits, images, labels, num_labels)
    usual.extend(maps if not usual else [])
    changed = np.mean([(own != other).float().mean().item() for own, other in zip(maps, usual, strict=True)])
    size = "-" if runtime.file is None else f"{runtime.file.stat().st_size / 1e6:.1f}"
    return [name, f"{100 * score:.2f}", f"{changed:.2%}", size]


def main() -> None:
    """Measures, then writes and prints the table."""
    args = parse_arguments(Arguments, description=__doc__)
    model = SetrForSemanticSegmentation.from_pretrained(args.model or default_checkpoint()).eval()
    images, labels = labelled_images(args, model)
    usual: list[torch.Tensor] = []
    with runtimes(model, args) as (found, notes):
        cells = [row(name, each, images, labels, model.config.num_labels, usual) for name, each in found.items()]
        seconds = interleaved({name: each.seconds(images[:1]) for name, each in found.items()}, args.rounds)
    first = next(iter(seconds.values()))
    rows = [
        [*each, f"{median(taken):.3f}", f"{ratio(taken, first):.2f}"]
        for each, taken in zip(cells, seconds.values(), strict=True)
    ]
    height, width = images.shape[-2:]
    title = f"{args.limit} images of {args.split}, {width} x {height}, processor time, medians of {args.rounds} turns"
    report(args.output, [ResultTable(title, _HEADER, rows)], *notes)


if __name__ == "__main__":
    run_script(main)
