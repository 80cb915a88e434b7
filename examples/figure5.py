"""FigureImage, truth and predictions under the paper's four conditions, side by side: its Figure 5.

    python examples/figure5.py --output outputs/figure5.png
    python examples/figure5.py --images street.jpg --model outputs/setr --family permutation
    python examples/figure5.py --dataset data/camvid --ignore_labels 11 --limit 3

Columns: the image, its truth (if it is a data set's), then the prediction of the plain model on the plain image
(baseline), and those of the encrypted model on the image under the correct key K, on the plain image (No-Enc) and
under another key (random K'). Without a data set, the images are those that scikit-learn and scikit-image ship; the
model then gives wrong classes to things for which it has no class, in the baseline too.
"""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image

from hf_privseg.experiments.figure_images import FigureImage, ImageArguments, load_images
from hf_privseg.experiments.plain_models import PlainSetr, load_plain_model, seeded_key
from hf_privseg.inference.pictures import PROTECTION_NOTE, Panel, colouring_for, draw_comparison, overlay
from hf_privseg.setr.keys import DEFAULT_FAMILY
from hf_privseg.training.arguments import parse_arguments, run_script
from hf_privseg.training.evaluation import predict_maps
from hf_privseg.training.metrics import MeanIoU


@dataclass(kw_only=True)
class Arguments(ImageArguments):
    """The options of the script."""

    output: str = field(default="outputs/figure5.png", metadata={"help": "The picture: .png, .svg or .pdf."})
    model: str | None = field(default=None, metadata={"help": "Plain checkpoint. Default: the embedded one."})
    family: str = field(default=DEFAULT_FAMILY, metadata={"help": "Key family."})
    seed: int = field(default=0, metadata={"help": "Seed of the experiment's keys (not for private images)."})
    cpu: bool = field(default=False, metadata={"help": "Use the CPU even where there is a GPU."})


def predictions(plain: PlainSetr, images: list[FigureImage], args: Arguments) -> dict[str, list[np.ndarray]]:
    """{condition: one segmentation map an image}."""
    correct, other = (seeded_key(args.seed * 2 + n, args.family) for n in (0, 1))
    encrypted = copy.deepcopy(plain.model).encrypt_model(correct)
    conditions = {
        "Baseline": (plain.model, None),
        "Correct K": (encrypted, correct),
        "No-Enc": (encrypted, None),
        "Random K'": (encrypted, other),
    }
    plain_images = [image.image for image in images]
    return {
        name: list(
            predict_maps(model, plain.processor, plain_images, secret_key=key, desc=name, total=len(plain_images))
        )
        for name, (model, key) in conditions.items()
    }


def tinted(image: FigureImage, segmentation_map: np.ndarray, palette: np.ndarray) -> Image.Image:
    """The image tinted by class, and unchanged where a pixel has no class."""
    known = segmentation_map < len(palette)
    picture = overlay(image.image, np.where(known, segmentation_map, 0), palette, 0.7)
    return Image.composite(picture, image.image, Image.fromarray(known))


def note(image: FigureImage, segmentation_map: np.ndarray, baseline: np.ndarray, num_labels: int) -> str:
    """The mIoU of this image if it has truth, else the share of pixels on which the plain model agrees."""
    if image.labels is None and segmentation_map is baseline:
        return "plain model, plain image"
    if image.labels is None:
        return f"as the baseline on {(segmentation_map == baseline).mean():.2%} of pixels"
    metric = MeanIoU(num_labels)
    metric.add(prediction=segmentation_map, reference=image.labels)
    return f"mIoU of this image {metric.compute()['mean_iou']:.4f}"


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    plain = load_plain_model(args.model, Accelerator(cpu=args.cpu).device)
    config = plain.model.config
    images = load_images(args, plain.num_labels)
    with torch.inference_mode():
        maps = predictions(plain, images, args)
    shown = [segmentation_map for segmentation_maps in maps.values() for segmentation_map in segmentation_maps]
    colouring = colouring_for(config, shown + [image.labels for image in images if image.labels is not None])
    palette = colouring.palette
    rows = []
    for index, image in enumerate(images):
        panels = [Panel(image.image, "Image", image.name)]
        if image.labels is not None:
            panels.append(Panel(tinted(image, image.labels, palette), "Truth", "untinted where nothing is labelled"))
        for name, segmentation_maps in maps.items():
            text = note(image, segmentation_maps[index], maps["Baseline"][index], plain.num_labels)
            panels.append(Panel(tinted(image, segmentation_maps[index], palette), name, text))
        rows.append(panels)
    captions = [
        "Baseline: plain model, plain image. Correct K: model and image encrypted with one key. No-Enc: encrypted "
        f"model, plain image. Random K': encrypted model, image under another key. Family: {args.family}.",
        PROTECTION_NOTE,
        *dict.fromkeys(image.credit for image in images if image.credit),
    ]
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    draw_comparison(Path(args.output), rows, colouring.legend, captions)
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    run_script(main)
