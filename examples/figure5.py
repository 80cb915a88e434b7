"""Photo, truth and predictions under the paper's four conditions, side by side: its Figure 5.

    python examples/figure5.py --output outputs/figure5.png
    python examples/figure5.py --images street.jpg --model outputs/setr --family permutation
    python examples/figure5.py --dataset data/camvid --ignore_labels 11 --limit 3

Columns: the photo, its truth (of a data set), then the prediction of the plain model on the plain photo (baseline),
and of the encrypted model on the photo under the correct key K, on the plain photo (No-Enc) and under another key
(random K'). Without a data set, photos that scikit-learn and scikit-image ship are used; what the model has no class
for is then taken for something else, in the baseline too.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from hf_privseg.experiments.figure_images import ImageArguments, Photo, load_images
from hf_privseg.experiments.plain_models import PlainModel, load_plain_model, seeded_key
from hf_privseg.inference.pictures import PROTECTION_NOTE, Panel, draw_comparison, legend_for, overlay, palette_for
from hf_privseg.setr.keys import DEFAULT_FAMILY
from hf_privseg.training.arguments import parse_arguments
from hf_privseg.training.evaluation import predict_maps
from hf_privseg.training.metrics import MeanIoU


@dataclass(kw_only=True)
class Arguments(ImageArguments):
    """What the command line takes."""

    output: str = field(default="outputs/figure5.png", metadata={"help": "The picture: .png, .svg or .pdf."})
    model: str | None = field(default=None, metadata={"help": "Plain checkpoint. Default: the embedded one."})
    family: str = field(default=DEFAULT_FAMILY, metadata={"help": "Cipher family."})
    seed: int = field(default=0, metadata={"help": "Seed of the experiment's keys (not for private images)."})
    cpu: bool = field(default=False, metadata={"help": "Use the CPU even where there is a GPU."})


def predictions(plain: PlainModel, photos: list[Photo], args: Arguments) -> dict[str, list[np.ndarray]]:
    """{condition: a label map for each photo}."""
    correct, other = (seeded_key(args.seed * 2 + n, args.family) for n in (0, 1))
    encrypted = copy.deepcopy(plain.model).encrypt_model(correct)
    conditions = {
        "Baseline": (plain.model, None),
        "Correct K": (encrypted, correct),
        "No-Enc": (encrypted, None),
        "Random K'": (encrypted, other),
    }
    pictures = [photo.picture for photo in photos]
    return {
        name: list(predict_maps(model, plain.processor, pictures, secret_key=key, desc=name, total=len(pictures)))
        for name, (model, key) in conditions.items()
    }


def tinted(photo: Photo, label_map: np.ndarray, palette: np.ndarray) -> Image.Image:
    """The photo tinted by class; as it is where a pixel has none."""
    known = label_map < len(palette)
    picture = overlay(photo.picture, np.where(known, label_map, 0), palette, 0.7)
    return Image.composite(picture, photo.picture, Image.fromarray(known))


def note(photo: Photo, label_map: np.ndarray, baseline: np.ndarray, num_labels: int) -> str:
    """mIoU of this image where there is truth, else how much of it the plain model says too."""
    if photo.labels is None and label_map is baseline:
        return "plain model, plain photo"
    if photo.labels is None:
        return f"as the baseline on {(label_map == baseline).mean():.2%} of pixels"
    metric = MeanIoU(num_labels)
    metric.add(prediction=label_map, reference=photo.labels)
    return f"mIoU of this image {metric.compute()['mean_iou']:.4f}"


def main() -> None:
    args: Arguments = parse_arguments(Arguments, description=__doc__)
    plain = load_plain_model(args.model, Accelerator(cpu=args.cpu).device)
    config = plain.model.config
    photos, palette = load_images(args, config.num_labels), palette_for(config)
    with torch.inference_mode():
        maps = predictions(plain, photos, args)
    rows = []
    for index, photo in enumerate(photos):
        panels = [Panel(photo.picture, "Photo", photo.name)]
        if photo.labels is not None:
            panels.append(Panel(tinted(photo, photo.labels, palette), "Truth", "untinted where nothing is labelled"))
        for name, label_maps in maps.items():
            text = note(photo, label_maps[index], maps["Baseline"][index], config.num_labels)
            panels.append(Panel(tinted(photo, label_maps[index], palette), name, text))
        rows.append(panels)
    shown = [label_map for label_maps in maps.values() for label_map in label_maps]
    legend = legend_for(config, shown + [photo.labels for photo in photos if photo.labels is not None])
    captions = [
        "Baseline: plain model, plain photo. Correct K: model and photo encrypted with one key. No-Enc: encrypted "
        f"model, plain photo. Random K': encrypted model, photo under another key. Family: {args.family}.",
        PROTECTION_NOTE,
        *dict.fromkeys(photo.credit for photo in photos if photo.credit),
    ]
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    draw_comparison(Path(args.output), rows, legend, captions)
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    main()
