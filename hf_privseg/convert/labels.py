"""Class names of two data sets in the order of their usual training labels.

The names are those of the data sets' makers: ADE20K (SceneParse150), Zhou et al., CVPR 2017; Cityscapes, Cordts et
al., CVPR 2016.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConversionError

_ADE20K = """
wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door, table,
mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field, armchair, seat,
fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard, chest of drawers, counter,
sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway, case, pool table, pillow,
screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower, book, hill, bench, countertop,
stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine, hovel, bus, towel, light, truck, tower,
chandelier, awning, streetlight, booth, television receiver, airplane, dirt track, apparel, pole, land, bannister,
escalator, ottoman, bottle, buffet, poster, stage, van, ship, fountain, conveyer belt, canopy, washer, plaything,
swimming pool, stool, barrel, basket, waterfall, tent, bag, minibike, cradle, oven, ball, food, step, tank, trade name,
microwave, pot, animal, bicycle, lake, dishwasher, screen, blanket, sculpture, hood, sconce, vase, traffic light, tray,
ashcan, fan, pier, crt screen, plate, monitor, bulletin board, shower, radiator, glass, clock, flag
"""
_CITYSCAPES = """
road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person, rider, car,
truck, bus, train, motorcycle, bicycle
"""


@dataclass(frozen=True)
class LabelSet:
    """The classes of a data set, and how SETR's published models see its photos.

    Args:
        names: of the classes, in order.
        processor: settings of the processor. ADE20K's photos come at 512 pixels a side and its label 0 is what belongs
            to no class; Cityscapes' come at their own size.
        credit: who made the data set.
    """

    names: tuple[str, ...]
    processor: dict[str, Any]
    credit: str


LABEL_SETS = {
    "ade20k": LabelSet(
        tuple(" ".join(name.split()) for name in _ADE20K.split(",")),
        {"size": {"shortest_edge": 512, "longest_edge": 2048}, "do_reduce_labels": True},
        "ADE20K (Zhou et al., CVPR 2017)",
    ),
    "cityscapes": LabelSet(
        tuple(" ".join(name.split()) for name in _CITYSCAPES.split(",")), {}, "Cityscapes (Cordts et al., CVPR 2016)"
    ),
}


@dataclass(frozen=True)
class Classes:
    """The classes of a model: fields of `SetrConfig`, settings of the processor, and who named them."""

    fields: dict[str, Any]
    processor: dict[str, Any]
    named_by: str


def classes_for(
    count: int | None, labels: str | None, names: Sequence[str] | None, palette: list[list[int]] | None
) -> Classes:
    """Names the classes of a model: as asked, else as the source says, else by the number of classes.

    Args:
        count: classes of the source; None for one without a decoder.
        labels: a label set that was asked for.
        names: what the source calls them.
        palette: the source's colours.

    Raises:
        ConversionError: an unknown label set, or one (or names or colours of the source's) of another length.
    """
    if labels is not None and labels not in LABEL_SETS:
        raise ConversionError(f"expected labels {' or '.join(LABEL_SETS)}, or none, got {labels!r}")
    if labels is None and names is None:
        labels = next((name for name, known in LABEL_SETS.items() if len(known.names) == count), None)
    chosen = LABEL_SETS[labels].names if labels is not None else names
    if count is not None:
        for what, found in (("class names", chosen), ("colours", palette)):
            if found is not None and len(found) != count:
                raise ConversionError(
                    f"expected {count} {what}, one for each class of the checkpoint, got {len(found)}; choose other "
                    f"labels ({', '.join(LABEL_SETS)})"
                )
    if chosen is None:
        return Classes({} if count is None else {"num_labels": count}, {}, "none are known, so that they are numbered")
    fields: dict[str, Any] = {
        "id2label": dict(enumerate(chosen)),
        "label2id": {name: index for index, name in enumerate(chosen)},
    }
    if palette is not None:
        fields["palette"] = palette
    known = next((known for known in LABEL_SETS.values() if tuple(chosen) == known.names), None)
    named_by = "as the source has them" if labels is None else "the data set's own"
    return Classes(fields, known.processor if known else {}, f"{named_by}, {known.credit}" if known else named_by)
