"""Replacing the key of an encrypted model, by its owner or by a server without any: the paper's section 3.3, measured.

    python examples/rotate_key.py --output outputs/rotate_key.json
    python examples/rotate_key.py --dataset data/camvid --ignore_labels 11 --limit 4 --families permutation orthogonal

For every pair of families: the seconds of `rekey_model(old, new)` (the owner has both keys), of `RekeyUpdate.between`
(the owner, once) with the size of its file, and of `apply_rekey_update` (the server, which has neither key). Training
anew takes no part in any of it. Then the predictions under the new key are compared with those under the old one, and
of a data set the mIoU.

Afterwards the key is replaced many times over, by the one way and by the other, and the patch embedding is decrypted
at the end: its relative distance from the plain one tells whether rounding adds up.
"""

import copy
import itertools
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm.auto import tqdm

from hf_privseg import RekeyUpdate, SecretKey, SetrForSemanticSegmentation
from hf_privseg.experiments.figure_images import ImageArguments, Photo, load_images
from hf_privseg.experiments.plain_models import PlainModel, load_plain_model, seeded_key
from hf_privseg.experiments.tables import write_json
from hf_privseg.setr.keys import FAMILIES
from hf_privseg.training.arguments import parse_arguments
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
DRIFT_COLUMNS = {"families": "families", "rotations": "rotations", "rekey_model": "rekey_model", "updates": "updates"}


@dataclass(kw_only=True)
class Arguments(ImageArguments):
    """What the command line takes."""

    output: str = field(default="outputs/rotate_key.json", metadata={"help": "Where the figures go."})
    model: str | None = field(default=None, metadata={"help": "Plain checkpoint. Default: the embedded one."})
    families: list[str] = field(default_factory=lambda: list(FAMILIES), metadata={"help": "Cipher families."})
    rotations: int = field(default=100, metadata={"help": "How often the key is replaced in a row."})
    seed: int = field(default=0, metadata={"help": "Seed of the experiment's keys (not for private images)."})
    cpu: bool = field(default=False, metadata={"help": "Use the CPU even where there is a GPU."})


def embedding(model: SetrForSemanticSegmentation) -> torch.nn.Parameter:
    """The one weight that an encryption touches."""
    return model.base_model.embeddings.patch_embeddings.projection.weight


def distance(found: SetrForSemanticSegmentation, expected: SetrForSemanticSegmentation) -> float:
    """Relative distance of the patch embeddings, in the Frobenius norm."""
    first, second = (embedding(model).detach().double() for model in (found, expected))
    return ((first - second).norm() / second.norm()).item()


def update_for(old: SecretKey, new: SecretKey, model: SetrForSemanticSegmentation) -> RekeyUpdate:
    """What the owner sends to the server."""
    config = model.config
    return RekeyUpdate.between(old, new, patch_size=config.patch_size, num_channels=config.num_channels)


class Watch:
    """Seconds since the last look."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def look(self) -> float:
        now = time.perf_counter()
        self._last, passed = now, now - self._last
        return passed


def predict(model: SetrForSemanticSegmentation, plain: PlainModel, photos: list[Photo], key: SecretKey) -> list:
    """A label map of each photo, encrypted with the key."""
    pictures = [photo.picture for photo in photos]
    return list(predict_maps(model, plain.processor, pictures, secret_key=key, disable=True))


def mean_iou(maps: list[np.ndarray], photos: list[Photo], num_labels: int) -> float | None:
    """Over all photos; None where there is no truth."""
    if any(photo.labels is None for photo in photos):
        return None
    metric = MeanIoU(num_labels)
    metric.add_batch(predictions=maps, references=[photo.labels for photo in photos])
    return float(metric.compute()["mean_iou"])


def replace_key(plain: PlainModel, photos: list[Photo], before: list, families: tuple[str, str], seed: int) -> dict:
    """One pair of families: what its two ways cost, and what became of weights and predictions.

    The keys are new objects, which have derived nothing yet: its time counts.
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
    after = predict(by_server, plain, photos, new)
    num_labels = plain.model.config.num_labels
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
        "mean_iou_before": mean_iou(before, photos, num_labels),
        "mean_iou_after": mean_iou(after, photos, num_labels),
    }


def replace_in_every_pair(plain: PlainModel, photos: list[Photo], args: Arguments) -> list[dict[str, Any]]:
    """`replace_key` for every pair of families, the predictions under each old key made once."""
    before, rows = {}, []
    pairs = list(itertools.product(args.families, repeat=2))
    for families in tqdm(pairs, desc="pairs of families", leave=False):
        if families[0] not in before:
            key = seeded_key(args.seed, families[0])
            before[families[0]] = predict(copy.deepcopy(plain.model).encrypt_model(key), plain, photos, key)
        rows.append(replace_key(plain, photos, before[families[0]], families, args.seed))
    return rows


def rotate(plain: PlainModel, families: list[str], args: Arguments) -> dict[str, Any]:
    """Replaces the key `args.rotations` times, the families in turn -> relative error of the decrypted embedding."""
    key = seeded_key(args.seed, families[0])
    by_owner = copy.deepcopy(plain.model).encrypt_model(key)
    by_server = copy.deepcopy(by_owner)
    name = " -> ".join(families)
    for number in tqdm(range(1, args.rotations + 1), desc=name, leave=False):
        old, key = key, seeded_key(args.seed + number, families[number % len(families)])
        by_owner.rekey_model(old, key)
        by_server.apply_rekey_update(update_for(old, key, plain.model))
    errors = [distance(model.decrypt_model(key), plain.model) for model in (by_owner, by_server)]
    return {"families": name, "rotations": args.rotations, "rekey_model": errors[0], "updates": errors[1]}


def shown(value: Any) -> str:
    """A cell of a table."""
    if isinstance(value, float) and value:
        return f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.4f}"
    return str(value)


def print_table(rows: list[dict[str, Any]], columns: dict[str, str], title: str) -> None:
    table = Table(box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False, title=title, title_justify="left")
    for header in columns.values():
        table.add_column(escape(header), no_wrap=True)
    for row in rows:
        table.add_row(*(shown(row[name]) for name in columns))
    Console().print(table)


def main() -> None:
    args: Arguments = parse_arguments(Arguments, description=__doc__)
    plain = load_plain_model(args.model, Accelerator(cpu=args.cpu).device)
    photos = load_images(args, plain.model.config.num_labels)
    pairs = replace_in_every_pair(plain, photos, args)
    print_table(pairs, PAIR_COLUMNS, f"A new key, no training, {len(photos)} photos")
    if pairs[0]["mean_iou_before"] is not None:
        print_table(pairs, ACCURACY_COLUMNS, "Accuracy before and after")
    turns = [[family] for family in args.families] + [args.families] * (len(args.families) > 1)
    drift = [rotate(plain, families, args) for families in turns]
    print_table(drift, DRIFT_COLUMNS, "Relative error of the decrypted patch embedding after many keys")
    output = Path(args.output)
    write_json(output, {"model": plain.facts, "pairs": pairs, "drift": drift})
    print(f"Wrote {output}")


if __name__ == "__main__":
    main()
