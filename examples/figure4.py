"""Photos beside their ciphertexts, with a red-framed detail of each enlarged: the paper's Figure 4.

    python examples/figure4.py --output outputs/figure4.png
    python examples/figure4.py --images street.jpg --details 420,300,96,48 --families permutation orthogonal
    python examples/figure4.py --dataset data/camvid --limit 2

The paper enlarges licence plates; where a detail lies in your photos, --details says, one for each. Without photos of
yours, those that scikit-learn and scikit-image ship are used. Every ciphertext is shown as it would look to someone at
the server; of the float families, whose values are no colours, the larger ones are cut off at black and white. Whole
pictures are drawn smaller than they are, which averages pixels as an eye at a distance does.
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
from hf_privseg.experiments.figure_images import ImageArguments, Photo, load_images
from hf_privseg.experiments.plain_models import seeded_key
from hf_privseg.inference.pictures import PROTECTION_NOTE
from hf_privseg.setr.keys import FAMILIES
from hf_privseg.training.arguments import parse_arguments

RED = "#D81B1B"
FAMILY_TITLES = {
    "permutation": "permutation",
    "signed_permutation": "signed permutation",
    "orthogonal": "orthogonal (default)",
    "matrix": "matrix",
}


@dataclass(kw_only=True)
class Arguments(ImageArguments):
    """What the command line takes."""

    images: list[str] = field(
        default_factory=lambda: ["china", "astronaut"],
        metadata={"help": f"Photo files, or sample photos: {', '.join(SAMPLE_IMAGES)}."},
    )
    details: list[str] = field(
        default_factory=list,
        metadata={"help": "LEFT,TOP,WIDTH,HEIGHT in pixels of each (reduced) photo. Default: the middle, or our own."},
    )
    output: str = field(default="outputs/figure4.png", metadata={"help": "The picture: .png, .svg or .pdf."})
    families: list[str] = field(default_factory=lambda: list(FAMILIES), metadata={"help": "Cipher families."})
    patch_size: int = field(default=16, metadata={"help": "Side of a block in pixels."})
    seed: int = field(default=0, metadata={"help": "Seed of the experiment's keys (not for private images)."})


def chosen_details(args: Arguments, photos: list[Photo]) -> list[tuple[int, ...]]:
    """A detail (left, top, width, height) for each photo, inside of it."""
    if not args.details:
        return [photo.detail for photo in photos]
    details = [tuple(int(value) for value in text.split(",")) for text in args.details]
    if len(details) != len(photos) or any(len(detail) != 4 for detail in details):
        raise SystemExit(f"--details takes LEFT,TOP,WIDTH,HEIGHT for each of {len(photos)} photos, got {args.details}")
    for (left, top, width, height), photo in zip(details, photos, strict=True):
        columns, rows = photo.picture.size
        if min(left, top) < 0 or min(width, height) < 1 or left + width > columns or top + height > rows:
            raise SystemExit(
                f"the detail {left},{top},{width},{height} is not inside {photo.name}, {columns} x {rows}"
            )
    return details


def panels(photo: Photo, args: Arguments) -> dict[str, Image.Image]:
    """{title: picture} of the photo as it was resized, and of its ciphertext in every family."""
    processor = SetrImageProcessor(patch_size=args.patch_size)
    encrypted = {family: processor.encrypt(photo.picture, seeded_key(args.seed, family)) for family in args.families}
    height, width = next(iter(encrypted.values())).valid_region
    plain = photo.picture.resize((width, height), Image.Resampling.BILINEAR)
    return {"plain": plain} | {FAMILY_TITLES[family]: image.to_picture() for family, image in encrypted.items()}


def scaled(detail: tuple[int, ...], photo: Image.Image, picture: Image.Image) -> tuple[float, ...]:
    """The detail in pixels of the picture, which is the photo resized to whole blocks."""
    across, down = picture.width / photo.width, picture.height / photo.height
    left, top, width, height = detail
    return left * across, top * down, width * across, height * down


def draw(path: Path, photos: list[Photo], args: Arguments) -> None:
    """A row of pictures a photo, and below it a row of its enlarged details."""
    details = chosen_details(args, photos)
    across, gap, margin, title = 3.2, 0.14, 0.2, 0.36  # inches, as all lengths here
    heights = [
        [across * photo.picture.height / photo.picture.width, across * min(detail[3] / detail[2], 1.0)]
        for photo, detail in zip(photos, details, strict=True)
    ]
    columns = 1 + len(args.families)
    width = 2 * margin + columns * across + (columns - 1) * gap
    note = f"Blocks of {args.patch_size} x {args.patch_size} pixels; red frames: the details below. {PROTECTION_NOTE}"
    captions = [note, *dict.fromkeys(photo.credit for photo in photos if photo.credit)]
    lines = [line for caption in captions for line in textwrap.wrap(caption, int(width * 14.5))]
    height = 0.2 + 0.17 * len(lines) + title + sum(sum(pair) + 2 * gap for pair in heights) + gap
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    y = height - title
    for photo, detail, (tall, low) in zip(photos, details, heights, strict=True):
        for column, (name, picture) in enumerate(panels(photo, args).items()):
            x = margin + column * (across + gap)
            if photo is photos[0]:
                figure.text(
                    (x + across / 2) / width, (y + 0.1) / height, name, ha="center", fontsize=12, weight="bold"
                )
            box = scaled(detail, photo.picture, picture)
            place = [(x / width, (y - tall) / height, across / width, tall / height)]
            place.append((x / width, (y - tall - gap - low) / height, across / width, low / height))
            draw_pair(figure, picture, box, place)
        y -= tall + low + 2 * gap + gap
    figure.text(margin / width, 0.12 / height, "\n".join(lines), fontsize=8.5, color="#555555", linespacing=1.3)
    figure.savefig(path, dpi=130)


def draw_pair(figure: Figure, picture: Image.Image, box: tuple[float, ...], places: list[tuple]) -> None:
    """The picture with the frame around its detail, and the detail, each in its place."""
    left, top, width, height = box
    whole, enlarged = (figure.add_axes(place) for place in places)
    whole.imshow(picture, interpolation="lanczos")
    for colour, line_width in (("white", 3.4), (RED, 1.8)):  # seen on red things as well
        whole.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=colour, linewidth=line_width))
    whole.set_axis_off()
    enlarged.imshow(picture.crop((left, top, left + width, top + height)), interpolation="nearest")
    enlarged.set(xticks=[], yticks=[])
    for spine in enlarged.spines.values():
        spine.set(edgecolor=RED, linewidth=1.8)


def main() -> None:
    args: Arguments = parse_arguments(Arguments, description=__doc__)
    photos = load_images(args)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    draw(Path(args.output), photos, args)
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    main()
