"""What the package does on one GPU: inference, ciphers, batches of mixed keys, and training.

    python benchmarks/gpu.py --output outputs/gpu.md
    python benchmarks/overhead.py --output outputs/overhead.md --encoder base --batch 16
    python benchmarks/cost_by_size.py --output outputs/cost.md --dtype bfloat16 --minutes 5

Written for 25 minutes on one H100. Without a GPU it measures the CPU, and is of use as a test alone:
`--encoders tiny --sizes 64 --batches 1 2 --tenants 2 4 --cipher_images 2`.

MFU, model FLOPs utilisation: the operations of forward and backward pass a second, as a share of what the data sheet
gives for dense products in bfloat16, or, for a device that is not listed here, of the fastest product measured.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from statistics import median

import torch
from cost_by_size import measured
from costs import flops_of, peak_bytes
from interleaved import interleaved, ratio, report, seconds_of, setr_config
from mmseg import forward, in_dtype

from hf_privseg import SecretKey, SetrForSemanticSegmentation
from hf_privseg.experiments.tables import ResultTable
from hf_privseg.service.mixed_keys import with_weights
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.public_facts import FAMILIES
from hf_privseg.training.arguments import parse_arguments, run_script

DATA_SHEETS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}  # dense bfloat16 operations a second, of the SXM forms
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(kw_only=True)
class Arguments:
    """What the command line takes."""

    output: str = field(metadata={"help": "Markdown file for the tables."})
    encoders: list[str] = field(default_factory=lambda: ["base", "large"], metadata={"help": "Encoders."})
    decoder: str = field(default="mla", metadata={"help": "naive, pup or mla."})
    sizes: list[int] = field(default_factory=lambda: [512], metadata={"help": "Sides of images in pixels."})
    batches: list[int] = field(default_factory=lambda: [1, 4, 16, 64], metadata={"help": "Batches of inference."})
    tenants: list[int] = field(default_factory=lambda: [16, 256, 4096], metadata={"help": "Keys that are registered."})
    cipher_images: int = field(default=64, metadata={"help": "Images that the ciphers encrypt at once."})
    train_batches: list[int] = field(default_factory=lambda: [8, 32], metadata={"help": "Batches of training."})
    rounds: int = field(default=10, metadata={"help": "Runs that count; medians are taken."})
    compile: bool = field(default=True, metadata={"help": "Whether torch.compile is measured."})


def drawn(encoder: str, args: Arguments, *, auxiliary: bool = False) -> SetrForSemanticSegmentation:
    """A random model on the device."""
    torch.manual_seed(0)
    config = setr_config(encoder, args.decoder, size=max(args.sizes), num_labels=150)
    config.use_auxiliary_head = auxiliary
    with torch.device(DEVICE):
        return SetrForSemanticSegmentation(config)


def noise(batch: int, size: int) -> torch.Tensor:
    """(batch, 3, size, size) in [-1, 1] on the device."""
    return torch.rand(batch, 3, size, size, device=DEVICE) * 2 - 1


def inference(args: Arguments) -> ResultTable:
    """Latency, throughput and memory in float32, bfloat16 and compiled."""
    header, rows = ["encoder", "size", "batch", "numbers", "ms a batch", "images/s", "memory, MiB", "TFLOP/s"], []
    for encoder in args.encoders:
        model = drawn(encoder, args).eval()
        half = in_dtype(model, "bfloat16")
        kinds: dict[str, torch.nn.Module] = {"float32": model, "bfloat16": half}
        if args.compile:
            kinds["bfloat16, compiled"] = torch.compile(half)  # type: ignore[assignment] # a module like the first
        for size in args.sizes:
            for batch in args.batches:
                pixels = noise(batch, size)
                flops = flops_of(partial(forward, model, pixels))
                for name, network in kinds.items():
                    run = partial(forward, network, pixels)  # type: ignore[arg-type] # it is called like a model
                    run()  # compiles
                    cost = measured(run, args.rounds)
                    figures = [f"{1e3 * cost.seconds:.2f}", f"{batch / cost.seconds:.1f}", f"{cost.peak / 2**20:.0f}"]
                    rows.append([encoder, str(size), str(batch), name, *figures, f"{flops / cost.seconds / 1e12:.2f}"])
    return ResultTable("Inference", header, rows)


def ciphers(args: Arguments) -> ResultTable:
    """Encryption of a batch beside a copy of it, which reads and writes each byte once."""
    pixels, size = noise(args.cipher_images, max(args.sizes)), max(args.sizes)
    timed = {"copy": seconds_of(pixels.clone)}
    for family in FAMILIES:
        cipher = cipher_for(SecretKey.generate(family), patch_size=16)
        timed[family] = seconds_of(partial(cipher.encrypt, pixels))
    seconds = interleaved(timed, args.rounds)
    rows = []
    for name, taken in seconds.items():
        rate, times = 2 * pixels.nbytes / median(taken) / 1e9, ratio(seconds["copy"], taken)
        rows.append([name, f"{1e3 * median(taken):.2f}", f"{rate:.1f}", f"{times:.1f}"])
    title = f"Encryption of {args.cipher_images} images, {size} x {size}, float32"
    return ResultTable(title, ["family", "ms", "GB/s read and written", "times longer than the copy"], rows)


def keyed_pass(model: SetrForSemanticSegmentation, pixels: torch.Tensor, weights: Iterator[list]) -> None:
    """A forward pass with the next weights, one an image."""
    forward(with_weights(model, next(weights)), pixels)


def mixed_keys(args: Arguments) -> ResultTable:
    """Batches whose images have keys drawn from many tenants', beside batches of one key."""
    header = ["encoder", "tenants", "their embeddings, MiB", "batch", "one key, ms", "mixed keys, ms", "ratio"]
    rows, size, batch = [], min(args.sizes), max(args.batches)
    for encoder in args.encoders:
        model = in_dtype(drawn(encoder, args).eval(), "bfloat16")
        weight = model.setr.embeddings.patch_embeddings.projection.weight.detach()
        pixels = noise(batch, size)
        for tenants in args.tenants:
            weights = [torch.randn_like(weight) for _ in range(tenants)]
            order = torch.randint(tenants, (args.rounds + 1, batch), generator=torch.Generator().manual_seed(0))
            batches = order.tolist()
            mixed = partial(keyed_pass, model, pixels, ([weights[index] for index in images] for images in batches))
            one = partial(keyed_pass, model, pixels, repeat([weights[0]] * batch))
            seconds = interleaved({"one": seconds_of(one), "mixed": seconds_of(mixed)}, args.rounds)
            times = [f"{1e3 * median(taken):.2f}" for taken in seconds.values()]
            held = f"{tenants * weight.nbytes / 2**20:.0f}"
            rows.append(
                [encoder, str(tenants), held, str(batch), *times, f"{ratio(seconds['one'], seconds['mixed']):.3f}"]
            )
    return ResultTable(f"Batches of mixed keys in bfloat16, {size} x {size}", header, rows)


def training_step(model: SetrForSemanticSegmentation, pixels: torch.Tensor) -> Callable[[], None]:
    """What makes one update with AdamW in mixed precision, auxiliary heads included."""
    labels = torch.randint(150, (len(pixels), *pixels.shape[-2:]), device=DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = model(pixel_values=pixels, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def training(args: Arguments, peak: float) -> ResultTable:
    """Throughput, MFU and memory of updates."""
    header, rows = ["encoder", "size", "batch", "numbers", "ms an update", "images/s", "MFU", "memory, MiB"], []
    kinds = {"bfloat16": False} | ({"bfloat16, compiled": True} if args.compile else {})
    for encoder in args.encoders:
        for batch in args.train_batches:
            for name, compiled in kinds.items():
                model, size = drawn(encoder, args, auxiliary=True).train(), max(args.sizes)
                pixels = noise(batch, size)
                flops = flops_of(training_step(model, pixels))
                if compiled:
                    model.compile()
                step = training_step(model, pixels)
                step()  # makes the optimizer's state, and compiles
                bytes_held, timed = peak_bytes(step), seconds_of(step)
                seconds = median(timed() for _ in range(args.rounds))
                figures = [f"{1e3 * seconds:.1f}", f"{batch / seconds:.1f}", f"{flops / seconds / peak:.1%}"]
                rows.append([encoder, str(size), str(batch), name, *figures, f"{bytes_held / 2**20:.0f}"])
                del model, step
    return ResultTable("Training with AdamW, memory beside weights and optimizer", header, rows)


def operations_a_second(rounds: int) -> tuple[float, str]:
    """Of the device in bfloat16, and where the number is from."""
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "the CPU"
    for device, rate in DATA_SHEETS.items():
        if device in name:
            return rate, f"data sheet of {device}"
    side = 8192 if DEVICE == "cuda" else 512
    factor = torch.rand(side, side, device=DEVICE, dtype=torch.bfloat16)
    timed = seconds_of(lambda: factor @ factor)
    return 2 * side**3 / min(timed() for _ in range(rounds + 1)), f"a product of {side} x {side} on {name}"


def main() -> None:
    """Measures, then writes and prints the tables, after each one those that are there."""
    args = parse_arguments(Arguments, description=__doc__)
    peak, source = operations_a_second(args.rounds)
    note = f"MFU of {peak / 1e12:.4g} TFLOP/s ({source})"
    tables: list[ResultTable] = []
    for part in (inference, ciphers, mixed_keys, partial(training, peak=peak)):
        tables.append(part(args))
        report(args.output, tables, note)


if __name__ == "__main__":
    run_script(main)
