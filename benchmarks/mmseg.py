"""SETR against mmsegmentation 1.2.2 with the same weights: seconds of a forward pass, in turns, and ratios.

    python -m venv build/mmseg
    build/mmseg/bin/pip install torch==2.14.1 mmsegmentation==1.2.2 mmengine==0.10.7 mmcv-lite==2.1.0 ftfy regex
    python benchmarks/mmseg.py --peer build/mmseg/bin/python --encoders base large --output outputs/mmseg.md

The peer runs in its own environment and process, with the same number of threads and in inference mode. It draws the
model and the image; ours is converted from its checkpoint, and must give its logits. Both are timed in float32 and in
bfloat16, in seconds of processor time, so that other programs on the machine count little. Without the peer, ours is
timed alone. `--means` adds a table of what each means of speed brings: the whole without it, or with its alternative,
beside the whole.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from unittest import mock

import numpy as np
import torch
from interleaved import encoder_sizes, interleaved, processor_seconds_of, ratio, report, setr_config
from peer_process import PeerProcess, reason_to_skip
from torch import nn

from hf_privseg import SetrForSemanticSegmentation
from hf_privseg.convert import convert_checkpoint
from hf_privseg.experiments.tables import ResultTable
from hf_privseg.setr import fast_layers, modeling_setr
from hf_privseg.training.arguments import parse_arguments, run_script

DTYPES = ("float32", "bfloat16")
_HEADER = [
    "encoder", "decoder", "mmsegmentation, s", "ours, s", "ratio", "mmsegmentation bf16, s", "ours bf16, s",
    "ratio to float32", "ratio to bf16", "largest difference", "mmsegmentation from float64", "ours from float64",
    "largest logit",
]  # fmt: skip


@dataclass(kw_only=True)
class Arguments:
    """What the command line takes."""

    output: str = field(metadata={"help": "Markdown file for the tables."})
    peer: str | None = field(default=None, metadata={"help": "Python of mmsegmentation's environment."})
    encoders: list[str] = field(default_factory=lambda: ["base"], metadata={"help": "tiny, small, base, large."})
    decoders: list[str] = field(default_factory=lambda: ["naive", "pup", "mla"], metadata={"help": "Decoders."})
    size: int = field(default=512, metadata={"help": "Side of the image in pixels."})
    batch: int = field(default=1, metadata={"help": "Images in a forward pass."})
    num_labels: int = field(default=150, metadata={"help": "Classes."})
    rounds: int = field(default=5, metadata={"help": "Turns; medians are taken."})
    threads: int = field(default=torch.get_num_threads(), metadata={"help": "Threads of each side."})
    means: bool = field(default=False, metadata={"help": "Also measure what each means of speed brings."})


def started(python: Path, folder: Path, encoder: str, decoder: str, args: Arguments) -> PeerProcess:
    """mmsegmentation with a model, which it writes into the folder with an image and its logits."""
    hidden_size, layers, heads = encoder_sizes(encoder)
    sizes = {"hidden_size": hidden_size, "layers": layers, "heads": heads}
    model = {"decoder": decoder, **sizes, "size": args.size, "classes": args.num_labels}
    request = {"folder": str(folder), "threads": args.threads, "batch": args.batch, "model": model}
    return PeerProcess(python, "setr_of_mmseg.py", request)


def in_dtype(model: SetrForSemanticSegmentation, dtype: str) -> SetrForSemanticSegmentation:
    """A copy as `from_pretrained(dtype=...)` loads it: the patch embedding stays in float32."""
    converted = copy.deepcopy(model).to(getattr(torch, dtype))
    projection = converted.setr.embeddings.patch_embeddings.projection
    projection.load_state_dict(model.setr.embeddings.patch_embeddings.projection.float().state_dict(), assign=True)
    return converted


def forward(model: SetrForSemanticSegmentation, pixels: torch.Tensor, mode: Callable = torch.inference_mode) -> None:
    """One forward pass without gradients."""
    with mode():
        model(pixel_values=pixels)


def compare(encoder: str, decoder: str, args: Arguments, python: Path | None) -> tuple[list[str], str]:
    """An encoder and a decoder -> their row of the table, and the peer's versions, or an empty text without it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        peer = None if python is None else stack.enter_context(started(python, folder, encoder, decoder, args))
        if peer is None:
            model, pixels = drawn(encoder, decoder, args)
            cells = ["-"] * 4
        else:
            model = convert_checkpoint(folder / "model.pth").model
            pixels, expected = (torch.from_numpy(np.load(folder / f"{kind}.npy")) for kind in ("pixels", "logits"))
            cells = differences(model, pixels, expected)
        timed: dict[str, Callable[[], float]] = {}
        for dtype in DTYPES:
            if peer is not None:
                timed[f"peer {dtype}"] = partial(peer.ask, dtype)
            timed[dtype] = processor_seconds_of(partial(forward, in_dtype(model, dtype), pixels))
        seconds = interleaved(timed, args.rounds)

    def both(dtype: str) -> list[str]:
        theirs = f"{median(seconds[f'peer {dtype}']):.3f}" if peer else "-"
        return [theirs, f"{median(seconds[dtype]):.3f}"]

    def times(ours: str, theirs: str) -> str:
        return f"{ratio(seconds[ours], seconds[f'peer {theirs}']):.2f}" if peer else "-"

    ratios = times("float32", "float32"), times("bfloat16", "float32"), times("bfloat16", "bfloat16")
    row = [encoder, decoder, *both("float32"), ratios[0], *both("bfloat16"), *ratios[1:], *cells]
    versions = "" if peer is None else ", ".join(f"{name} {version}" for name, version in peer.versions.items())
    return row, versions


@torch.inference_mode()
def differences(model: SetrForSemanticSegmentation, pixels: torch.Tensor, expected: torch.Tensor) -> list[str]:
    """The largest differences of ours from the peer's logits, and of both from those in float64; the largest logit."""
    found = model(pixel_values=pixels).logits
    exact = copy.deepcopy(model).double()(pixel_values=pixels.double()).logits
    pairs = (found, expected), (expected, exact), (found, exact)
    return [*(f"{(one - other).abs().max().item():.1e}" for one, other in pairs), f"{exact.abs().max().item():.1f}"]


def drawn(encoder: str, decoder: str, args: Arguments) -> tuple[SetrForSemanticSegmentation, torch.Tensor]:
    """A random model in evaluation mode, and pixels for it."""
    torch.manual_seed(0)
    config = setr_config(encoder, decoder, size=args.size, num_labels=args.num_labels)
    pixels = torch.rand(args.batch, 3, args.size, args.size) * 2 - 1
    return SetrForSemanticSegmentation(config).eval(), pixels


# ------------------------------------------------------------------------------------------- each means of speed


def _modules_as_they_are(conv: nn.Conv2d, norm: nn.BatchNorm2d, feature_map: torch.Tensor) -> torch.Tensor:
    return nn.functional.relu(norm(conv(feature_map)))


def _channels_first(norm: nn.Module, feature_map: torch.Tensor) -> torch.Tensor:
    return norm(feature_map.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


def _classifier_last(head: modeling_setr.SetrUpHead, feature_maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
    feature_map = modeling_setr.normalize_channels(head.norm, feature_maps[-1])
    for stage in head.up_convs:
        feature_map = modeling_setr.upsample(stage(feature_map), head.scale_factor)
    found: torch.Tensor = head.conv_seg(feature_map)
    return found


def _mla_classifier_last(head: modeling_setr.SetrMLAHead, feature_maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
    streams = [modeling_setr.upsample(s(level), 4) for s, level in zip(head.up_convs, feature_maps, strict=True)]
    found: torch.Tensor = head.conv_seg(torch.cat(streams, dim=1))
    return found


@contextmanager
def _eager_attention(model: SetrForSemanticSegmentation) -> Iterator[None]:
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    yield
    model.set_attn_implementation(before)


@contextmanager
def _classifiers_last() -> Iterator[None]:
    with (
        mock.patch.object(modeling_setr.SetrUpHead, "forward", _classifier_last),
        mock.patch.object(modeling_setr.SetrMLAHead, "forward", _mla_classifier_last),
    ):
        yield


def _linear_layers(by_onednn: bool) -> AbstractContextManager:
    return mock.patch.object(fast_layers, "onednn_is_faster", return_value=by_onednn)


def without_each(model: SetrForSemanticSegmentation, pixels: torch.Tensor) -> dict[str, Callable[[], float]]:
    """{what is different: a timed forward pass}, the first one with everything as it is."""
    other = not fast_layers.onednn_is_faster()
    contexts: dict[str, Callable[[], AbstractContextManager]] = {
        "as it is": nullcontext,
        "batch norm on its own": lambda: mock.patch.object(modeling_setr, "conv_norm_relu", _modules_as_they_are),
        "decoder with channels first": lambda: mock.patch.object(modeling_setr, "normalize_channels", _channels_first),
        "classifier after the last up-sampling": _classifiers_last,
        "attention by its formula (eager)": lambda: _eager_attention(model),
        f"linear layers by {'oneDNN' if other else 'MKL'}": lambda: _linear_layers(other),
    }

    def run(context: Callable[[], AbstractContextManager], mode: Callable = torch.inference_mode) -> None:
        with context():
            forward(model, pixels, mode)

    timed = {name: processor_seconds_of(partial(run, context)) for name, context in contexts.items()}
    return timed | {
        "no_grad instead of inference_mode": processor_seconds_of(partial(run, nullcontext, torch.no_grad))
    }


def means_table(args: Arguments) -> ResultTable:
    """A row an encoder, decoder and dtype: how many times longer a forward pass takes without each means."""
    rows, header = [], ["encoder", "decoder", "dtype"]
    for encoder in args.encoders:
        for decoder in args.decoders:
            model, pixels = drawn(encoder, decoder, args)
            for dtype in DTYPES:
                seconds = interleaved(without_each(in_dtype(model, dtype), pixels), args.rounds)
                whole, *others = seconds
                header = ["encoder", "decoder", "dtype", f"{whole}, s", *others]
                ratios = [f"{ratio(seconds[whole], seconds[name]):.2f}" for name in others]
                rows.append([encoder, decoder, dtype, f"{median(seconds[whole]):.3f}", *ratios])
    return ResultTable("How many times longer a forward pass takes with one thing different", header, rows)


def main() -> None:
    """Measures, then writes and prints the tables."""
    args = parse_arguments(Arguments, description=__doc__)
    torch.set_num_threads(args.threads)
    skipped = reason_to_skip(args.peer, "mmsegmentation", "mmengine, mmcv")
    python = None if skipped or args.peer is None else Path(args.peer).absolute()
    pairs = [(encoder, decoder) for encoder in args.encoders for decoder in args.decoders]
    found = [compare(*pair, args, python) for pair in pairs]
    title = (
        f"A forward pass at {args.size} x {args.size}, batch {args.batch}, processor time, medians of {args.rounds}"
    )
    tables = [ResultTable(title, _HEADER, [row for row, _ in found])]
    if args.means:
        tables.append(means_table(args))
    report(args.output, tables, skipped or f"mmsegmentation's environment: {found[0][1]}")


if __name__ == "__main__":
    run_script(main)
