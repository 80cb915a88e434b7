"""Is an encrypted model useless without its key? mIoU after learning a fresh patch embedding on n labelled images.

    python benchmarks/model_theft.py --dataset data/camvid --preset camvid --public_base path/to/vit \\
        --output_dir outputs/theft

The thief has the encrypted model, no key, and n public labelled images of its classes (evenly spaced ones of the
training split). The encrypted patch embedding is thrown away, and another one is learned in its place with all other
weights frozen: from random weights, and from the patch embedding of public weights near the model's. mIoU on images of
the test split, beside that of the plain model and that of the encrypted one on plain images.

It writes results.json and theft.md; a killed run goes on with the trainings that are missing.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from hf_privseg import SetrForSemanticSegmentation
from hf_privseg.attacks.model_theft import TheftBudget, mean_iou, steal_embedding, with_weight
from hf_privseg.audit.embeddings import load_embedding
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.experiments.plain_models import seeded_key
from hf_privseg.experiments.records import Records
from hf_privseg.experiments.tables import ResultTable, print_tables, write_tables
from hf_privseg.training.arguments import DataArguments, parse_arguments, run_script
from hf_privseg.training.data import evenly_spaced


@dataclass(kw_only=True)
class Arguments(DataArguments):
    """What the command line takes."""

    output_dir: str = field(metadata={"help": "Where results.json and theft.md go."})
    model: str | None = field(default=None, metadata={"help": "Plain checkpoint. Default: the embedded one."})
    public_base: str | None = field(default=None, metadata={"help": "Public weights that the model came from."})
    family: str = field(default="orthogonal", metadata={"help": "Key family; it makes no difference to the thief."})
    counts: list[int] = field(default_factory=lambda: [10, 50, 200], metadata={"help": "Labelled images."})
    starts: list[str] = field(
        default_factory=lambda: ["random"], metadata={"help": "Where trainings start: random, public (--public_base)."}
    )
    train_split: str = field(default="train", metadata={"help": "Split that the thief's images are from."})
    split: str = field(default="test", metadata={"help": "Split to evaluate."})
    limit: int = field(default=24, metadata={"help": "Evenly spaced images to evaluate."})
    steps: int = field(default=200, metadata={"help": "Updates of a training."})
    batch_size: int = field(default=2, metadata={"help": "Images an update."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate (Adam)."})
    precision: str = field(default="bf16", metadata={"help": "bf16 or fp32.", "choices": ["bf16", "fp32"]})

    def __post_init__(self) -> None:
        possible = ["random"] if self.public_base is None else ["random", "public"]
        impossible = [start for start in self.starts if start not in possible]
        if impossible:
            raise ValueError(
                f"--starts takes {' and '.join(possible)}, got {', '.join(impossible)}; public needs --public_base"
            )


def load_tensors(args: Arguments, split: str, count: int, num_labels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Evenly spaced images (n, 3, h, w) in [-1, 1], cropped to patches of 16, and segmentation maps (n, h, w)."""
    label_map, images, labels = args.load_label_map(num_labels), [], []
    for row in evenly_spaced(args.load_split(split), count):
        pixels = torch.from_numpy(np.asarray(row["image"].convert("RGB")).copy()).permute(2, 0, 1) / 127.5 - 1
        height, width = (side // 16 * 16 for side in pixels.shape[1:])
        images.append(pixels[:, :height, :width])
        labels.append(torch.from_numpy(label_map(np.asarray(row["annotation"])).astype(np.int64))[:height, :width])
    return torch.stack(images), torch.stack(labels)


def starts_for(args: Arguments, shape: torch.Size) -> dict[str, torch.Tensor | None]:
    """{name: weight that the thief starts from, None for a random one}."""
    starts: dict[str, torch.Tensor | None] = {"random": None}
    if args.public_base is not None:
        starts["public"] = torch.from_numpy(load_embedding(args.public_base).T.copy()).reshape(shape).float()
    return starts


def write_table(args: Arguments, records: Records) -> None:
    """theft.md, and the same on the terminal."""
    cells = [[name, f"{row['mean_iou']:.4f}"] for name, row in records.rows.items()]
    title = f"mIoU on {args.limit} images, {args.steps} updates of {args.batch_size} images each"
    table = ResultTable(title, ["what the thief has", "mIoU"], cells)
    write_tables(Path(args.output_dir) / "theft.md", [table], runs=records.runs)
    print_tables([table], "", [])


def main() -> None:
    """Runs what is missing, then writes and prints the table."""
    args = parse_arguments(Arguments, description=__doc__)
    model = SetrForSemanticSegmentation.from_pretrained(args.model or default_checkpoint()).eval()
    num_labels = model.config.num_labels
    projection = model.base_model.embeddings.patch_embeddings.projection.weight
    starts = starts_for(args, projection.shape)
    plain = projection.detach().clone()
    model.encrypt_model(seeded_key(0, args.family)).requires_grad_(False)

    def segment(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            return model(pixel_values=images).logits.float()

    names = ("dataset", "public_base", "family", "split", "limit", "steps", "batch_size", "learning_rate", "precision")
    facts = {name: getattr(args, name) for name in names}
    records = Records(Path(args.output_dir) / "results.json", facts, writes=True)
    images, labels = load_tensors(args, args.split, args.limit, num_labels)

    def evaluate(name: str, weight: Callable[[], torch.Tensor]) -> None:
        if name not in records.rows:
            with with_weight(projection, weight()), torch.inference_mode():
                records.add(name, {"mean_iou": mean_iou(segment, images, labels, num_labels)})

    def stolen(name: str, start: torch.Tensor | None, count: int) -> torch.Tensor:
        own = load_tensors(args, args.train_split, count, num_labels)
        budget = TheftBudget(steps=args.steps, batch_size=args.batch_size, learning_rate=args.learning_rate)
        with tqdm(total=args.steps, desc=name) as bar:
            found = steal_embedding(
                segment, projection, *own, start=start, budget=budget, progress=lambda *_: bar.update()
            )
        return found.weight

    evaluate("plain model", lambda: plain)
    evaluate("encrypted model, plain images", projection.detach().clone)
    public = starts.get("public")
    if public is not None:
        evaluate("public embedding, not trained", public.clone)
    for start in args.starts:
        for count in args.counts:
            name = f"{start} start, {count} images"
            evaluate(name, partial(stolen, name, starts[start], count))
    write_table(args, records)


if __name__ == "__main__":
    run_script(main)
