"""Segmentation maps as pictures for people: a palette, an indexed PNG, an overlay on the image, shares of classes."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from transformers import PreTrainedConfig

MAX_LABELS = 256  # what an indexed PNG holds
_SHOWN_SHARE = 0.001  # of the pixels of any map: classes below it have neither colour nor name of their own
_MAX_NAMES = 40  # in a legend
_OTHER = "other"  # what a legend calls them
_OTHER_COLOUR = (128, 128, 128)
_MIN_TEXT = 12  # pixels

# What a picture of ciphertexts says beside them.
PROTECTION_NOTE = (
    "Encrypted images are visually protected, not encrypted in the cryptographic sense: a thumbnail can be recovered "
    "from any of them, more from many, and all of it by anyone who knows the patch embedding, as with a public "
    "checkpoint. See SECURITY.md."
)

# Twelve colours, any two of which stay apart (CIEDE2000 of 12 or more) for readers of normal sight, protanopes,
# deuteranopes and tritanopes: the schemes of Okabe and Ito and of Paul Tol, moved apart by a search. For street scenes
# in the usual order of classes they are also the expected ones: sky, building, pole, road, ...
_COLOURS = bytes.fromhex("8BD1F3 D2667A E2CA7E 3D3F62 A34E9A 14834D F3F532 831438 1D78DF C79C14 B64614 40AB9A")


def palette_for(config: "PreTrainedConfig") -> np.ndarray:
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


def segment_palette() -> np.ndarray:
    """(256, 3) uint8, a colour for each segment of a map, and black for the pixels without one, 0."""
    return np.array([(0, 0, 0), *map(_colour, range(MAX_LABELS - 1))], np.uint8)


def segmentation_map_to_picture(segmentation_map: np.ndarray, palette: np.ndarray) -> Image.Image:
    """(height, width) integers in [0, num_labels) -> palette picture, whose pixels *are* the classes or segments."""
    picture = Image.fromarray(segmentation_map.astype(np.uint8))
    picture.putpalette(palette.tobytes())
    return picture


def overlay(
    image: Image.Image, segmentation_map: np.ndarray, palette: np.ndarray, opacity: float = 0.55
) -> Image.Image:
    """RGB image and its (height, width) segmentation map -> RGB picture of the image, tinted by class."""
    colours = segmentation_map_to_picture(segmentation_map, palette).convert("RGB")
    return Image.blend(image.convert("RGB"), colours, opacity)


def class_shares(segmentation_maps: Sequence[np.ndarray], num_labels: int) -> np.ndarray:
    """Segmentation maps of any sizes -> (num_labels,) float, the share of each class in all pixels; sums to 1."""
    counts = sum(np.bincount(each.ravel(), minlength=num_labels) for each in segmentation_maps)
    return np.asarray(counts / np.sum(counts))


@dataclass(frozen=True)
class Colouring:
    """The colours of a picture, and their names.

    Args:
        palette: (num_labels, 3) uint8; what has no name in the legend has the colour of "other".
        legend: name -> (3,) uint8, of every colour that a picture can show, "other" included where it does.
    """

    palette: np.ndarray
    legend: dict[str, np.ndarray]

    @classmethod
    def of(cls, names: Mapping[int, str], palette: np.ndarray, segmentation_maps: Sequence[np.ndarray]) -> "Colouring":
        """The colouring for pictures of these maps: no colour is without a name.

        A class that fills less than a thousandth of every map is "other", and so is one after the 40 largest.

        Args:
            names: class -> its name.
            palette: (num_labels, 3) uint8.
            segmentation_maps: of any sizes; values that are no class count as none.
        """
        inside = [each[(each >= 0) & (each < len(palette))] for each in segmentation_maps]
        shares = np.max(
            [np.zeros(len(palette)), *(class_shares([labels], len(palette)) for labels in inside if labels.size)],
            axis=0,
        )
        largest = np.argsort(-shares, kind="stable")[:_MAX_NAMES]
        shown = sorted(int(index) for index in largest if shares[index] >= _SHOWN_SHARE)
        painted = np.full_like(palette, _OTHER_COLOUR)
        painted[shown] = palette[shown]
        legend = {names[index]: palette[index] for index in shown}
        if np.delete(shares, shown).any():
            legend[_OTHER] = np.array(_OTHER_COLOUR, np.uint8)
        return cls(painted, legend)


def colouring_for(config: "PreTrainedConfig", segmentation_maps: Sequence[np.ndarray]) -> Colouring:
    """The colours of a model's classes for pictures of these maps, and their names."""
    return Colouring.of(cast("dict[int, str]", config.id2label), palette_for(config), segmentation_maps)


def with_legend(picture: Image.Image, legend: Mapping[str, np.ndarray]) -> Image.Image:
    """RGB picture -> the same above a strip with class names beside their colours; wider where a name needs it."""
    size = max(_MIN_TEXT, max(picture.size) // 50)
    font, gap = ImageFont.load_default(size), size // 2
    cell = 2 * size + gap + max((round(font.getlength(name)) for name in legend), default=0)
    columns = max(1, min((picture.width - gap) // cell, len(legend)))
    line = size + gap
    width, height = max(picture.width, columns * cell + gap), line * -(-len(legend) // columns) + gap
    result = Image.new("RGB", (width, picture.height + height), "white")
    result.paste(picture)
    draw = ImageDraw.Draw(result)
    for index, (name, colour) in enumerate(legend.items()):
        row, column = divmod(index, columns)
        left, top = gap + column * cell, picture.height + gap + row * line
        draw.rectangle((left, top, left + size, top + size - 1), fill=tuple(colour.tolist()), outline="#555555")
        draw.text((left + size + gap, top + size // 2), name, fill="#1a1a1a", font=font, anchor="lm")
    return result


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
        path: of the file, overwritten if it exists; its ending (.png, .svg, .pdf) is the format.
        rows: of panels, whose pictures have one shape within a row.
        legend: class name -> (3,) uint8.
        captions: paragraphs of any length; they are broken into lines.
    """
    comparison_figure(rows, legend, captions).savefig(path, dpi=110)


def comparison_figure(
    rows: Sequence[Sequence[Panel]], legend: Mapping[str, np.ndarray], captions: Sequence[str]
) -> "Figure":
    """What `draw_comparison` writes, as a figure of matplotlib."""
    from matplotlib.figure import Figure

    panel_width, heading = 4.4, 0.65  # inches, as all lengths here
    heights = [panel_width * row[0].picture.height / row[0].picture.width + heading for row in rows]
    num_columns = max(map(len, rows))
    width = panel_width * num_columns
    columns = _legend_columns(legend, width)
    lines = [line for caption in captions for line in textwrap.wrap(caption, int(width * 15))]
    parts = [sum(heights), 0.3 + 0.25 * -(-len(legend) // columns), 0.1 + 0.17 * len(lines)]
    figure = Figure(figsize=(width, sum(parts)), facecolor="white", layout="constrained")
    cast("ConstrainedLayoutEngine", figure.get_layout_engine()).set(w_pad=0.1, h_pad=0.1)
    panels, below, bottom = cast("list[SubFigure]", figure.subfigures(3, 1, height_ratios=parts))
    grid = panels.subplots(len(rows), num_columns, squeeze=False, height_ratios=heights)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, panel in [pair for line, row in zip(grid, rows, strict=True) for pair in zip(line, row, strict=False)]:
        axes.imshow(panel.picture, interpolation="lanczos")
        axes.set_anchor("N")  # the layout leaves room for the title above the axes, of which the picture fills a part
        axes.set_title(panel.title, loc="left", fontsize=13, fontweight="bold", color="#1a1a1a", pad=22)
        note = {"fontsize": 10.5, "color": "#555555"}
        axes.annotate(panel.note, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", **note)
    _draw_legend(below, legend, columns)
    bottom.text(0.01, 1, "\n".join(lines), va="top", fontsize=8.5, color="#555555", linespacing=1.3)
    return figure


def _legend_columns(legend: Mapping[str, np.ndarray], width: float) -> int:
    """How many entries of a legend fit side by side in so many inches."""
    widest = max((len(name) for name in legend), default=0)
    return min(max(int(width / (0.6 + 0.09 * widest)), 1), max(len(legend), 1))


def _draw_legend(figure: "SubFigure", legend: Mapping[str, np.ndarray], columns: int) -> None:
    """Class names beside their colours, in rows."""
    from matplotlib.patches import Patch

    patches = [Patch(facecolor=f"#{colour.tobytes().hex()}", label=name) for name, colour in legend.items()]
    figure.legend(
        handles=patches,
        loc="center",
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
