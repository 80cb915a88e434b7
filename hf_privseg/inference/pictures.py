"""Label maps as pictures for people: a palette, an indexed PNG, an overlay on the photo, and shares of classes."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image
from transformers import PreTrainedConfig

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_LABELS = 256  # what an indexed PNG holds
_SHOWN_SHARE = 0.005  # of the pixels of any map: classes below it are left out of a legend

# What a picture of ciphertexts says beside them.
PROTECTION_NOTE = (
    "Encrypted images are visually protected, not encrypted in the cryptographic sense: a thumbnail can be recovered "
    "from any of them, more from many, and all of it by anyone who knows the patch embedding, as with a public "
    "checkpoint. See SECURITY.md."
)

# Twelve colours that stay apart for most colour-blind readers, after the schemes of Okabe and Ito and of Paul Tol. For
# street scenes in the usual order of classes they are also the expected ones: sky, building, pole, road, ...
_COLOURS = bytes.fromhex("88CCEE CC6677 DDCC77 4B4B6E AA4499 117733 F0E442 882255 0072B2 E69F00 D55E00 44AA99")


def palette_for(config: PreTrainedConfig) -> np.ndarray:
    """(num_labels, 3) uint8, a colour for each label: the configuration's own `palette`, or else ours.

    Args:
        config: of a segmentation model; may carry `palette`, a list of at least num_labels colours [red, green, blue].

    Raises:
        ValueError: more labels than an indexed PNG holds, or a `palette` of another form.
    """
    count = len(config.id2label or ())
    if count > MAX_LABELS:
        raise ValueError(f"expected at most {MAX_LABELS} labels, as an indexed PNG holds, got {count}")
    own = getattr(config, "palette", None)
    if own is None:
        return np.array([_colour(index) for index in range(count)], np.uint8)
    colours = np.array(own)
    if colours.ndim != 2 or colours.shape[1] != 3 or len(colours) < count or colours.min() < 0 or colours.max() > 255:
        raise ValueError(
            f"expected config.palette to hold {count} or more colours [red, green, blue] in 0..255, got an array of "
            f"shape {colours.shape}; correct config.json or remove the field"
        )
    return colours[:count].astype(np.uint8)


def segmentation_map_to_picture(label_map: np.ndarray, palette: np.ndarray) -> Image.Image:
    """(height, width) integers in [0, num_labels) -> palette picture, whose pixels *are* the labels."""
    picture = Image.fromarray(label_map.astype(np.uint8))
    picture.putpalette(palette.tobytes())
    return picture


def overlay(photo: Image.Image, label_map: np.ndarray, palette: np.ndarray, opacity: float = 0.55) -> Image.Image:
    """RGB photo and its (height, width) label map -> RGB picture of the photo, tinted by class."""
    return Image.blend(photo.convert("RGB"), segmentation_map_to_picture(label_map, palette).convert("RGB"), opacity)


def class_shares(label_maps: Sequence[np.ndarray], num_labels: int) -> np.ndarray:
    """Label maps of any sizes -> (num_labels,) float, the share of each class in all pixels; sums to 1."""
    counts = sum(np.bincount(label_map.ravel(), minlength=num_labels) for label_map in label_maps)
    return np.asarray(counts / np.sum(counts))


def legend_for(config: PreTrainedConfig, label_maps: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Names and colours, (3,) uint8, of the classes that fill half a percent of a map at least.

    Args:
        config: of the model.
        label_maps: of any sizes; values that are no class are left out.
    """
    palette = palette_for(config)
    inside = [label_map[(label_map >= 0) & (label_map < len(palette))] for label_map in label_maps]
    shares = np.max([class_shares([labels], len(palette)) for labels in inside if labels.size], axis=0)
    names = cast("dict[int, str]", config.id2label)
    return {names[index]: palette[index] for index in range(len(palette)) if shares[index] >= _SHOWN_SHARE}


@dataclass(frozen=True)
class Panel:
    """One picture of a comparison, with a title and a line below the title."""

    picture: Image.Image
    title: str
    note: str


def draw_comparison(
    path: Path, rows: Sequence[Sequence[Panel]], legend: Mapping[str, np.ndarray], captions: Sequence[str]
) -> None:
    """Panels in rows, a legend of class names and their colours, and captions -> one picture file.

    Args:
        path: of the file, replaced if it exists; its ending (.png, .svg, .pdf) is the format.
        rows: of equally many panels, whose pictures have one shape within a row.
        legend: class name -> (3,) uint8.
        captions: paragraphs of any length; they are broken into lines.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    margin, gap, title, panel_width = 0.2, 0.2, 0.72, 4.4  # inches, as all lengths here
    heights = [panel_width * min(max(row[0].picture.height / row[0].picture.width, 0.3), 1.6) for row in rows]
    width = 2 * margin + len(rows[0]) * panel_width + (len(rows[0]) - 1) * gap
    lines = [line for caption in captions for line in textwrap.wrap(caption, int(width * 15.5))]
    columns = _legend_columns(legend, width)
    legend_height = 0.2 + 0.25 * -(-len(legend) // columns)
    legend_bottom = 0.17 * len(lines) + 0.2
    height = legend_bottom + legend_height + sum(heights) + len(rows) * title
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    y = height
    for panels, panel_height in zip(rows, heights, strict=True):
        y -= panel_height + title
        for column, panel in enumerate(panels):
            x = margin + column * (panel_width + gap)
            axes = figure.add_axes((x / width, y / height, panel_width / width, panel_height / height))
            axes.imshow(panel.picture, interpolation="lanczos")
            axes.set_axis_off()
            above = (y + panel_height) / height
            figure.text(x / width, above + 0.33 / height, panel.title, fontsize=13, weight="bold", color="#1a1a1a")
            figure.text(x / width, above + 0.11 / height, panel.note, fontsize=10.5, color="#555555")
    _draw_legend(figure, legend, columns, y=(legend_bottom + legend_height / 2) / height)
    figure.text(margin / width, 0.12 / height, "\n".join(lines), fontsize=8.5, color="#555555", linespacing=1.3)
    figure.savefig(path, dpi=110)


def _legend_columns(legend: Mapping[str, np.ndarray], width: float) -> int:
    """How many entries of a legend fit side by side in so many inches."""
    widest = max((len(name) for name in legend), default=0)
    return min(max(int(width / (0.6 + 0.09 * widest)), 1), max(len(legend), 1))


def _draw_legend(figure: "Figure", legend: Mapping[str, np.ndarray], columns: int, y: float) -> None:
    """Class names beside their colours in rows, centred at the height `y` of the figure."""
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=f"#{colour.tobytes().hex()}", label=name) for name, colour in legend.items()]
    figure.legend(
        handles=patches,
        loc="center",
        bbox_to_anchor=(0.5, y),
        ncols=columns,
        frameon=False,
        fontsize=11,
        handlelength=1.2,
        columnspacing=1.4,
    )


def _colour(index: int) -> tuple[int, ...]:
    """A colour of the list; after its end the list again, ever darker, so that no two labels look the same."""
    lap, position = divmod(index, len(_COLOURS) // 3)
    return tuple(round(level * 0.9**lap) for level in _COLOURS[3 * position : 3 * position + 3])
