"""What a forward pass costs: seconds and memory against the size of images, the batch and the encoder; a plot too.

    python benchmarks/cost_by_size.py --output outputs/cost.md --plot outputs/cost.png

On a GPU, where there is one. The cheapest combinations run first. One that would exceed the minutes that are left, at
the rate of those before, or the memory of the machine, is left out, and its row says so.
"""

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import torch
from costs import flops_of, peak_bytes
from interleaved import processor_seconds_of, report, setr_config
from mmseg import forward, in_dtype
from torch._subclasses.fake_tensor import FakeTensorMode

from hf_privseg import SetrForSemanticSegmentation
from hf_privseg.experiments.tables import ResultTable
from hf_privseg.training.arguments import parse_arguments, run_script

_HEADER = ["encoder", "size", "batch", "GFLOPs", "s", "s an image", "GFLOP/s", "memory beside the weights, MiB"]


@dataclass(kw_only=True)
class Arguments:
    """What the command line takes."""

    output: str = field(metadata={"help": "Markdown file for the table."})
    plot: str | None = field(default=None, metadata={"help": "PNG file for a plot of seconds and memory."})
    encoders: list[str] = field(default_factory=lambda: ["small", "base", "large"], metadata={"help": "Encoders."})
    decoder: str = field(default="mla", metadata={"help": "naive, pup or mla."})
    sizes: list[int] = field(default_factory=lambda: [256, 512, 1024, 2048], metadata={"help": "Sides in pixels."})
    batches: list[int] = field(default_factory=lambda: [1, 4, 16], metadata={"help": "Images in a forward pass."})
    dtype: str = field(default="float32", metadata={"help": "float32 or bfloat16."})
    rounds: int = field(default=2, metadata={"help": "Passes that count; medians are taken."})
    minutes: float = field(
        default=20.0, metadata={"help": "For everything: of processor time, on a GPU of the clock."}
    )


@dataclass(frozen=True)
class Case:
    """A combination, and the operations of its forward pass."""

    encoder: str
    size: int
    batch: int
    flops: int


@dataclass(frozen=True)
class Cost:
    """Seconds of a forward pass, and the most bytes beside the weights."""

    seconds: float
    peak: int


def model_of(case_encoder: str, args: Arguments) -> SetrForSemanticSegmentation:
    """A random model in evaluation mode, for images of the largest size."""
    config = setr_config(case_encoder, args.decoder, size=max(args.sizes), num_labels=150)
    return SetrForSemanticSegmentation(config).eval()


def cases(models: Mapping[str, SetrForSemanticSegmentation], args: Arguments) -> list[Case]:
    """Every combination, the cheapest first; operations are counted without computing anything."""
    found = []
    for (encoder, model), size, batch in product(models.items(), args.sizes, args.batches):
        with FakeTensorMode(allow_non_fake_inputs=True):
            pixels = torch.empty(batch, 3, size, size, device=model.device)
            flops = flops_of(partial(forward, model, pixels, torch.no_grad))
        found.append(Case(encoder, size, batch, flops))
    return sorted(found, key=lambda case: case.flops)


def available_bytes() -> int:
    """Of the GPU, or of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def measured(run: Callable[[], object], rounds: int) -> Cost:
    """A forward pass -> its cost; the pass that measures memory warms up."""
    peak, timed = peak_bytes(run), processor_seconds_of(run)
    return Cost(median(timed() for _ in range(rounds)), peak)


def measure(args: Arguments) -> dict[Case, Cost | str]:
    """Every combination -> its cost, or why it is left out."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    clock = time.perf_counter if device == "cuda" else time.process_time
    with torch.device(device):
        models = {name: in_dtype(model_of(name, args), args.dtype) for name in args.encoders}
    found: dict[Case, Cost | str] = {}
    start, rate, bytes_a_pixel = clock(), float("inf"), 0.0
    for case in cases(models, args):
        left = 60 * args.minutes - (clock() - start)
        pixels = case.batch * case.size**2
        if (args.rounds + 1) * case.flops / rate > left:
            found[case] = "left out: time"
        elif bytes_a_pixel * pixels > available_bytes():
            found[case] = "left out: memory"
        else:
            run = partial(
                forward, models[case.encoder], torch.rand(case.batch, 3, case.size, case.size, device=device)
            )
            try:
                cost = measured(run, args.rounds)
            except torch.cuda.OutOfMemoryError:
                found[case] = "does not fit"
                continue
            found[case], rate = cost, case.flops / cost.seconds
            bytes_a_pixel = max(bytes_a_pixel, cost.peak / pixels)
    return found


def table(args: Arguments, found: dict[Case, Cost | str]) -> ResultTable:
    """A row a combination, by encoder, size and batch."""
    rows = []
    for case in sorted(found, key=lambda case: (args.encoders.index(case.encoder), case.size, case.batch)):
        cost, start = found[case], [case.encoder, str(case.size), str(case.batch), f"{case.flops / 1e9:.1f}"]
        if isinstance(cost, str):
            rows.append([*start, cost, "", "", ""])
            continue
        rate, memory = f"{case.flops / cost.seconds / 1e9:.0f}", f"{cost.peak / 2**20:.0f}"
        rows.append([*start, f"{cost.seconds:.3g}", f"{cost.seconds / case.batch:.3g}", rate, memory])
    clock = "of the clock" if torch.cuda.is_available() else "of processor time"
    title = f"A forward pass of {args.decoder} in {args.dtype}, seconds {clock}, medians of {args.rounds}"
    return ResultTable(title, _HEADER, rows)


def draw(path: Path, found: dict[Case, Cost | str]) -> None:
    """Seconds and memory of one image against its size, a line an encoder."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    alone = {case: cost for case, cost in found.items() if case.batch == 1 and isinstance(cost, Cost)}
    for encoder in dict.fromkeys(case.encoder for case in alone):
        points = sorted(
            (case.size, cost.seconds, cost.peak) for case, cost in alone.items() if case.encoder == encoder
        )
        sizes, seconds, peaks = zip(*points, strict=True)
        axes[0].plot(sizes, seconds, marker="o", label=encoder)
        axes[1].plot(sizes, [peak / 2**20 for peak in peaks], marker="o", label=encoder)
    for axis, name in zip(axes, ("seconds an image", "MiB beside the weights"), strict=True):
        axis.set(xlabel="side of the image in pixels", ylabel=name, xscale="log", yscale="log")
        ticks = sorted({case.size for case in alone})
        axis.set_xticks(ticks, map(str, ticks))
        axis.minorticks_off()
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 3)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
    axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def main() -> None:
    """Measures, then writes and prints the table, and draws."""
    args = parse_arguments(Arguments, description=__doc__)
    found = measure(args)
    report(args.output, [table(args, found)])
    if args.plot and any(isinstance(cost, Cost) for cost in found.values()):
        draw(Path(args.plot), found)


if __name__ == "__main__":
    run_script(main)
