"""Images beside their ciphertexts, with a red-framed detail of each enlarged: the paper's Figure 4.

    python examples/figure4.py --output outputs/figure4.png
    python examples/figure4.py --images street.jpg --details 420,300,96,48 --families permutation orthogonal
    python examples/figure4.py --dataset data/camvid --limit 2

The paper enlarges licence plates. --details says which part of each of your images is enlarged. By default the images
are those that scikit-learn and scikit-image ship. Every ciphertext is shown as it looks at the server. The values of
the float families are no colours: the largest ones are cut off at black and white. Whole images are drawn smaller than
they are, which averages pixels as an eye at a distance does.
"""

import textwrap
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from hf_privseg import SetrImageProcessor
from hf_privseg.catalog.sample_images import SAMPLE_IMAGES
from hf_privseg.experiments.figure_images import FigureImage, ImageArguments, load_images
from hf_privseg.experiments.plain_models import seeded_key
from hf_privseg.inference.pictures import PROTECTION_NOTE
from hf_privseg.setr.keys import FAMILIES
from hf_privseg.training.arguments import parse_arguments, run_script

RED = "#D81B1B"
FAMILY_TITLES = {
    "permutation": "permutation",
    "signed_permutation": "signed permutation",
    "orthogonal": "orthogonal (default)",
    "matrix": "matrix",
}


@dataclass(kw_only=True)
class Arguments(ImageArguments):
    """The options of the script."""

    images: list[str] = field(
        default_factory=lambda: ["china", "astronaut"],
        metadata={"help": f"Image files, or samples that come with packages: {', '.join(SAMPLE_IMAGES)}."},
    )
    details: list[str] = field(
        default_factory=list,
        metadata={
            "help": "LEFT,TOP,WIDTH,HEIGHT in pixels of each (reduced) image. Default: the sample's, or the middle."
        },
    )
    output: str = field(default="outputs/figure4.png", metadata={"help": "The picture: .png, .svg or .pdf."})
    families: list[str] = field(default_factory=lambda: list(FAMILIES), metadata={"help": "Key families."})
    patch_size: int = field(default=16, metadata={"help": "Side of a block in pixels."})
    seed: int = field(default=0, metadata={"help": "Seed of the experiment's keys (not for private images)."})


def _numbers(text: str) -> tuple[int, ...]:
    """ "8,4,16,8" -> (8, 4, 16, 8); () for a text that holds anything else."""
    parts = text.split(",")
    return tuple(map(int, parts)) if all(part.strip().isdecimal() for part in parts) else ()


def chosen_details(args: Arguments, images: list[FigureImage]) -> list[tuple[int, ...]]:
    """A detail (left, top, width, height) inside each image.

    Raises:
        ValueError: --details does not fit the images.
    """
    if not args.details:
        return [image.detail for image in images]
    details = [_numbers(text) for text in args.details]
    if len(details) != len(images) or any(len(detail) != 4 for detail in details):
        raise ValueError(
            f"expected --details to be LEFT,TOP,WIDTH,HEIGHT for each image ({len(images)} in all), got {args.details}"
        )
    for (left, top, width, height), image in zip(details, images, strict=True):
        columns, rows = image.image.size
        if min(left, top) < 0 or min(width, height) < 1 or left + width > columns or top + height > rows:
            raise ValueError(
                f"expected a detail inside {image.name}, which has {columns} x {rows} pixels, got "
                f"{left},{top},{width},{height}"
            )
    return details


def panels(image: FigureImage, args: Arguments) -> dict[str, Image.Image]:
    """{title: picture} of the resized image and of its ciphertext in every family."""
    processor = SetrImageProcessor(patch_size=args.patch_size)
    encrypted = {family: processor.encrypt(image.image, seeded_key(args.seed, family)) for family in args.families}
    height, width = next(iter(encrypted.values())).valid_region
    plain = image.image.resize((width, height), Image.Resampling.BILINEAR)
    return {"plain": plain} | {FAMILY_TITLES[family]: image.to_picture() for family, image in encrypted.items()}


def scaled(detail: tuple[int, ...], image: Image.Image, picture: Image.Image) -> tuple[float, ...]:
    """The detail in pixels of the picture, which is the image resized to whole blocks."""
    across, down = picture.width / image.width, picture.height / image.height
    left, top, width, height = detail
    return left * across, top * down, width * across, height * down


def draw(path: Path, images: list[FigureImage], args: Arguments) -> None:
    """Draw a row of pictures for each image, and below it a row of the enlarged details."""
    details = chosen_details(args, images)
    across, gap, margin, title = 3.2, 0.14, 0.2, 0.36  # inches, as all lengths here
    heights = [
        [across * image.image.height / image.image.width, across * min(detail[3] / detail[2], 1.0)]
        for image, detail in zip(images, details, strict=True)
    ]
    columns = 1 + len(args.families)
    width = 2 * margin + columns * across + (columns - 1) * gap
    note = f"Blocks of {args.patch_size} x {args.patch_size} pixels; red frames: the details below. {PROTECTION_NOTE}"
    captions = [note, *dict.fromkeys(image.credit for image in images if image.credit)]
    lines = [line for caption in captions for line in textwrap.wrap(caption, int(width * 14.5))]
    height = 0.2 + 0.17 * len(lines) + title + sum(sum(pair) + 2 * gap for pair in heights) + gap
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    y = height - title
    for image, detail, (tall, low) in zip(images, details, heights, strict=True):
        for column, (name, picture) in enumerate(panels(image, args).items()):
            x = margin + column * (across + gap)
            if image is images[0]:
                figure.text(
                    (x + across / 2) / width, (y + 0.1) / height, name, ha="center", fontsize=12, weight="bold"
                )
            box = scaled(detail, image.image, picture)
            place = [(x / width, (y - tall) / height, across / width, tall / height)]
            place.append((x / width, (y - tall - gap - low) / height, across / width, low / height))
            draw_pair(figure, picture, box, place)
        y -= tall + low + 2 * gap + gap
    figure.text(margin / width, 0.12 / height, "\n".join(lines), fontsize=8.5, color="#555555", linespacing=1.3)
    figure.savefig(path, dpi=130)


def draw_pair(figure: Figure, picture: Image.Image, box: tuple[float, ...], places: list[tuple]) -> None:
    """Draw the picture with a frame around its detail in the first place, and the detail in the second."""
    left, top, width, height = box
    whole, enlarged = (figure.add_axes(place) for place in places)
    whole.imshow(picture, interpolation="lanczos")
    for colour, line_width in (("white", 3.4), (RED, 1.8)):  # white makes the frame visible on red things
        whole.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=colour, linewidth=line_width))
    whole.set_axis_off()
    enlarged.imshow(picture.crop((left, top, left + width, top + height)), interpolation="nearest")
    enlarged.set(xticks=[], yticks=[])
    for spine in enlarged.spines.values():
        spine.set(edgecolor=RED, linewidth=1.8)


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    images = load_images(args)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    draw(Path(args.output), images, args)
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    run_script(main)
