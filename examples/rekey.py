"""Replaces the key of an encrypted model, as its owner and as a server without keys: the paper's section 3.3.

    python examples/rekey.py --output outputs/rekey.json
    python examples/rekey.py --dataset data/camvid --ignore_labels 11 --limit 4 --families permutation orthogonal

For every pair of families it measures the seconds of `rekey_model(old, new)` (the owner, who has both keys), of
`RekeyUpdate.between` (the owner, once) with the size of its file, and of `apply_rekey_update` (the server, which has
neither key). No training is needed. The predictions under the new key are then compared with those under the old one,
and so is the mIoU of a data set.

Afterwards the key is replaced many times, in both ways, and the patch embedding is decrypted at the end. Its relative
distance from the plain one tells whether rounding errors add up.
"""

import copy
import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from rich.box import SIMPLE_HEAD
from rich.table import Table
from tqdm.auto import tqdm

from hf_privseg import RekeyUpdate, SecretKey, SetrForSemanticSegmentation
from hf_privseg.experiments.figure_images import FigureImage, ImageArguments, load_images
from hf_privseg.experiments.plain_models import PlainSetr, load_plain_model, seeded_key
from hf_privseg.experiments.tables import write_json
from hf_privseg.reporting.tables import terminal
from hf_privseg.setr.keys import FAMILIES
from hf_privseg.training.arguments import parse_arguments, run_script
from hf_privseg.training.evaluation import predict_maps
from hf_privseg.training.metrics import MeanIoU

PAIR_COLUMNS = {
    "families": "old\n-> new family",
    "rekey_seconds": "rekey\nmodel\n[s]",
    "update_seconds": "make\nupdate\n[s]",
    "update_bytes": "update\n[B]",
    "apply_seconds": "apply\nupdate\n[s]",
    "weight_difference": "weights\ndiffer by",
    "equal_pixels": "equal\npixels",
}
ACCURACY_COLUMNS = {
    "families": "old\n-> new family",
    "mean_iou_before": "mIoU under\nthe old key",
    "mean_iou_after": "mIoU under\nthe new key",
}
DRIFT_COLUMNS = {"families": "families", "rekeyings": "rekeyings", "rekey_model": "rekey_model", "updates": "updates"}

Cell = str | int | float | None
Row = dict[str, Cell]
Maps = list[np.ndarray]


@dataclass(kw_only=True)
class Arguments(ImageArguments):
    """The options of the script."""

    output: str = field(default="outputs/rekey.json", metadata={"help": "Where the figures go."})
    model: str | None = field(default=None, metadata={"help": "Plain checkpoint. Default: the embedded one."})
    families: list[str] = field(default_factory=lambda: list(FAMILIES), metadata={"help": "Key families."})
    rekeyings: int = field(default=100, metadata={"help": "How often the key is replaced in a row."})
    seed: int = field(default=0, metadata={"help": "Seed of the experiment's keys (not for private images)."})
    cpu: bool = field(default=False, metadata={"help": "Use the CPU even where there is a GPU."})


def embedding(model: SetrForSemanticSegmentation) -> torch.nn.Parameter:
    """The weight that an encryption changes."""
    return model.base_model.embeddings.patch_embeddings.projection.weight


def distance(found: SetrForSemanticSegmentation, expected: SetrForSemanticSegmentation) -> float:
    """Relative distance of the patch embeddings, in the Frobenius norm."""
    first, second = (embedding(model).detach().double() for model in (found, expected))
    return ((first - second).norm() / second.norm()).item()


def update_for(old: SecretKey, new: SecretKey, model: SetrForSemanticSegmentation) -> RekeyUpdate:
    """The update that the owner sends to the server."""
    config = model.config
    return RekeyUpdate.between(old, new, patch_size=config.patch_size, num_channels=config.num_channels)


class Watch:
    """A stopwatch that tells the seconds since it was last looked at."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def look(self) -> float:
        now = time.perf_counter()
        self._last, passed = now, now - self._last
        return passed


def predict(
    model: SetrForSemanticSegmentation, plain: PlainSetr, images: list[FigureImage], key: SecretKey
) -> list[np.ndarray]:
    """A segmentation map of each image, encrypted with the key."""
    plain_images = [image.image for image in images]
    return list(predict_maps(model, plain.processor, plain_images, secret_key=key, disable=True))


def mean_iou(maps: Maps, images: list[FigureImage], num_labels: int) -> float | None:
    """The mIoU over all images; None if there is no truth."""
    references = [image.labels for image in images if image.labels is not None]
    if len(references) < len(images):
        return None
    metric = MeanIoU(num_labels)
    metric.add_batch(predictions=maps, references=references)
    return metric.compute()["mean_iou"]


def replace_key(
    plain: PlainSetr, images: list[FigureImage], before: Maps, families: tuple[str, str], seed: int
) -> Row:
    """One pair of families -> the cost of both ways, and how far weights and predictions differ.

    Every measurement makes its keys anew, because a key keeps what it has derived and the derivation counts.
    """
    old, new = (seeded_key(seed + n, family) for n, family in enumerate(families))
    by_owner = copy.deepcopy(plain.model).encrypt_model(old)
    by_server = copy.deepcopy(by_owner)
    old, new = (seeded_key(seed + n, family) for n, family in enumerate(families))
    watch = Watch()
    by_owner.rekey_model(old, new)
    rekey_seconds = watch.look()
    old, new = (seeded_key(seed + n, family) for n, family in enumerate(families))
    watch.look()
    update = update_for(old, new, plain.model)
    update_seconds, content = watch.look(), update.to_bytes()
    watch.look()
    by_server.apply_rekey_update(update)
    apply_seconds = watch.look()
    after = predict(by_server, plain, images, new)
    num_labels = plain.num_labels
    return {
        "old": families[0],
        "new": families[1],
        "families": "\n-> ".join(families),
        "rekey_seconds": rekey_seconds,
        "update_seconds": update_seconds,
        "update_bytes": len(content),
        "apply_seconds": apply_seconds,
        "weight_difference": distance(by_server, by_owner),
        "equal_pixels": float(np.mean([(a == b).mean() for a, b in zip(after, before, strict=True)])),
        "mean_iou_before": mean_iou(before, images, num_labels),
        "mean_iou_after": mean_iou(after, images, num_labels),
    }


def replace_in_every_pair(plain: PlainSetr, images: list[FigureImage], args: Arguments) -> list[Row]:
    """`replace_key` for every pair of families."""
    before, rows = {}, []
    pairs = list(itertools.product(args.families, repeat=2))
    for families in tqdm(pairs, desc="pairs of families", leave=False):
        if families[0] not in before:
            key = seeded_key(args.seed, families[0])
            before[families[0]] = predict(copy.deepcopy(plain.model).encrypt_model(key), plain, images, key)
        rows.append(replace_key(plain, images, before[families[0]], families, args.seed))
    return rows


def rekey_repeatedly(plain: PlainSetr, families: list[str], args: Arguments) -> Row:
    """Replace the key `args.rekeyings` times, the families in turn -> relative errors of the decrypted embedding."""
    key = seeded_key(args.seed, families[0])
    by_owner = copy.deepcopy(plain.model).encrypt_model(key)
    by_server = copy.deepcopy(by_owner)
    name = " -> ".join(families)
    for number in tqdm(range(1, args.rekeyings + 1), desc=name, leave=False):
        old, key = key, seeded_key(args.seed + number, families[number % len(families)])
        by_owner.rekey_model(old, key)
        by_server.apply_rekey_update(update_for(old, key, plain.model))
    errors = [distance(model.decrypt_model(key), plain.model) for model in (by_owner, by_server)]
    return {"families": name, "rekeyings": args.rekeyings, "rekey_model": errors[0], "updates": errors[1]}


def shown(value: Cell) -> str:
    """A cell of a table."""
    if isinstance(value, float) and value:
        return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.4f}"
    return str(value)


def print_table(rows: list[Row], columns: dict[str, str], title: str) -> None:
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, title=title, title_justify="left")
    for header in columns.values():
        table.add_column(header, no_wrap=True)
    for row in rows:
        table.add_row(*(shown(row[name]) for name in columns))
    terminal().print(table)


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    plain = load_plain_model(args.model, Accelerator(cpu=args.cpu).device)
    images = load_images(args, plain.num_labels)
    pairs = replace_in_every_pair(plain, images, args)
    print_table(pairs, PAIR_COLUMNS, f"A new key, no training, {len(images)} image{'s' * (len(images) != 1)}")
    if pairs[0]["mean_iou_before"] is not None:
        print_table(pairs, ACCURACY_COLUMNS, "Accuracy before and after")
    turns = [[family] for family in args.families] + [args.families] * (len(args.families) > 1)
    drift = [rekey_repeatedly(plain, families, args) for families in turns]
    print_table(drift, DRIFT_COLUMNS, "Relative error of the decrypted patch embedding after many keys")
    output = Path(args.output)
    write_json(output, {"model": plain.facts, "pairs": pairs, "drift": drift})
    print(f"Wrote {output}")


if __name__ == "__main__":
    run_script(main)
