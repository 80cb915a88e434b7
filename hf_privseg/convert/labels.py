"""What a converted model calls its classes, and how it sees images: as its source says, or its data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..catalog.class_files import read_class_names
from ..catalog.datasets import PRESETS
from ..setr.errors import ConversionError

# As SETR's published models see the images of a data set: ADE20K's at 512 pixels a side, and its label 0 is what
# belongs to no class; Cityscapes' at their own size.
_PROCESSORS = {
    "ade20k": {"size": {"shortest_edge": 512, "longest_edge": 2048}, "do_reduce_labels": True},
    "cityscapes": {},
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
        labels: the name of a data set, or the path of a file with names in a form of `catalog.class_files`.
        names: what the source calls them.
        palette: the source's colours.

    Raises:
        ConversionError: neither a data set nor a file of names, or names or colours of another number.
    """
    named_by = "as the source has them" if labels is None and names is not None else "the data set's own"
    if labels is not None and labels not in _PROCESSORS:
        names, labels, named_by = _names_in(labels), None, "as asked for"
    elif labels is None and names is None:
        labels = next((name for name in _PROCESSORS if len(PRESETS[name].class_names) == count), None)
    if labels is not None:
        names, palette = PRESETS[labels].class_names, palette or [list(each) for each in PRESETS[labels].palette]
    if count is not None:
        for what, found in (("class names", names), ("colours", palette)):
            if found is not None and len(found) != count:
                raise ConversionError(
                    f"expected {count} {what}, one for each class of the checkpoint, got {len(found)}; choose other "
                    f"labels (--labels {', '.join(_PROCESSORS)}, or a file of names)"
                )
    if names is None:
        return Classes({} if count is None else {"num_labels": count}, {}, "none are known, so that they are numbered")
    fields: dict[str, Any] = {
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }
    if palette is not None:
        fields["palette"] = palette
    known = next((each for each in _PROCESSORS if tuple(names) == PRESETS[each].class_names), None)
    if known is None:
        return Classes(fields, {}, named_by)
    return Classes(fields, _PROCESSORS[known], f"{named_by}, {PRESETS[known].credit}")


def _names_in(file: str) -> list[str]:
    """The path of a file -> the names of the classes, in their order."""
    if not Path(file).is_file():
        raise ConversionError(
            f"expected labels (--labels) {' or '.join(_PROCESSORS)}, the path of a file with the names of the "
            f"classes, or none, got {file!r}"
        )
    try:
        return list(read_class_names(file).values())
    except ValueError as error:
        raise ConversionError(str(error)) from None
