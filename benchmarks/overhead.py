"""What encryption costs a server: a plain model on images beside the encrypted model on their ciphertexts.

    python benchmarks/overhead.py --output outputs/overhead.md

Both run in turns, every other one backwards, and with them a copy of the plain model, whose ratio is noise. Times are
seconds of processor time (on a GPU of the clock), so that other programs on the machine count little; the ratio is the
median over the turns. Modules, floating-point operations and peak memory are compared as well, and a difference ends
the run.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import torch
from costs import flops_of, peak_bytes
from interleaved import interleaved, processor_seconds_of, ratio, report, setr_config

from hf_privseg import SecretKey, SetrForSemanticSegmentation
from hf_privseg.experiments.tables import ResultTable
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.training.arguments import parse_arguments, run_script

_HEADER = [
    "decoder", "family", "modules", "GFLOPs", "peak memory, MiB", "plain, s", "its copy, s", "encrypted, s",
    "copy to plain", "encrypted to plain",
]  # fmt: skip


@dataclass(kw_only=True)
class Arguments:
    """What the command line takes."""

    output: str = field(metadata={"help": "Markdown file for the table."})
    encoder: str = field(default="small", metadata={"help": "tiny, small, base or large."})
    decoders: list[str] = field(default_factory=lambda: ["naive", "pup", "mla"], metadata={"help": "Decoders."})
    families: list[str] = field(default_factory=lambda: ["orthogonal"], metadata={"help": "Key families."})
    size: int = field(default=512, metadata={"help": "Side of the images in pixels."})
    batch: int = field(default=1, metadata={"help": "Images in a forward pass."})
    rounds: int = field(default=20, metadata={"help": "Turns."})


@dataclass(frozen=True)
class Cost:
    """What is the same for a plain and an encrypted model."""

    modules: tuple[tuple[str, str], ...]
    flops: int
    peak: int


def cost_of(model: SetrForSemanticSegmentation, run: Callable[[], object]) -> Cost:
    """A model and its forward pass -> names and classes of its modules, operations, bytes."""
    modules = tuple((name, type(module).__name__) for name, module in model.named_modules())
    return Cost(modules, flops_of(run), peak_bytes(run))


def passes(model: SetrForSemanticSegmentation, pixels: torch.Tensor) -> Callable[[], object]:
    """A forward pass without gradients."""

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return model(pixel_values=pixels).logits

    return run


def row(args: Arguments, decoder: str, family: str) -> list[str]:
    """A decoder and a key family -> their row of the table.

    Raises:
        RuntimeError: the encrypted model has other modules, or costs something else.
    """
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plain = SetrForSemanticSegmentation(setr_config(args.encoder, decoder, size=args.size, num_labels=150)).eval()
    pixels = torch.rand(args.batch, 3, args.size, args.size) * 2 - 1
    key = SecretKey.generate(family)
    encrypted = copy.deepcopy(plain).encrypt_model(key)
    ciphertexts = cipher_for(key, patch_size=plain.config.patch_size).encrypt(pixels)
    runs = {
        "plain": passes(plain.to(device), pixels.to(device)),
        "copy": passes(copy.deepcopy(plain).to(device), pixels.clone().to(device)),
        "encrypted": passes(encrypted.to(device), ciphertexts.to(device)),
    }
    runs["plain"]()  # what PyTorch sets up once
    cost = cost_of(plain, runs["plain"])
    if cost != cost_of(encrypted, runs["encrypted"]):
        raise RuntimeError(f"the encrypted model ({decoder}, {family}) costs something else than the plain one")
    seconds = interleaved({name: processor_seconds_of(run) for name, run in runs.items()}, args.rounds)
    size = [str(len(cost.modules)), f"{cost.flops / 1e9:.1f}", f"{cost.peak / 2**20:.0f}"]
    times = [f"{median(values):.3f}" for values in seconds.values()]
    ratios = [f"{ratio(seconds['plain'], seconds[name]):.3f}" for name in ("copy", "encrypted")]
    return [decoder, family, *size, *times, *ratios]


def main() -> None:
    """Measures, then writes and prints the table."""
    args = parse_arguments(Arguments, description=__doc__)
    rows = [row(args, decoder, family) for decoder in args.decoders for family in args.families]
    title = f"{args.encoder}, {args.size} x {args.size}, batch {args.batch}, medians of {args.rounds} turns"
    report(args.output, [ResultTable(title, _HEADER, rows)])


if __name__ == "__main__":
    run_script(main)
