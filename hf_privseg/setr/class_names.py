"""The names of a model's classes, {0: name, 1: name, ...}: which are accepted, and how gaps between ids are closed."""

import json
from collections.abc import Iterable, Mapping

_SHOWN = 8  # ids and entries that a message lists


def void_label(num_labels: int) -> int:
    """The label of pixels without a class: 255, or -100 where 255 is a class."""
    return 255 if num_labels <= 255 else -100


def check_class_names(names: Mapping[int, str]) -> None:
    """Refuse names that do not number two or more classes from 0 without gaps.

    Args:
        names: {class id: name}.

    Raises:
        ValueError: there is no class or one, an id is missing, or a name is no text. The message of a gap gives the
            label map that closes it.
    """
    if not names:
        raise ValueError("expected the names of two or more classes, got none")
    if len(names) == 1:
        raise ValueError(
            f"expected two or more classes, got one, {next(iter(names.values()))!r}: a pixel that can have one class "
            "alone teaches nothing. Let the background be a class too, for example {0: 'background', 1: 'object'}"
        )
    ids = sorted(names)
    if ids != list(range(len(ids))):
        missing = sorted(set(range(max(ids) + 1 if max(ids) < 2**16 else len(ids))) - set(ids))
        gap = f"{_listed(missing)} missing" if missing else f"{ids[0]} is negative"
        raise ValueError(
            f"expected the class ids 0 .. {len(ids) - 1} without gaps, got {_listed(ids)} ({gap}). Number the classes "
            f"from 0 and translate the stored labels with a label map, --label-map FILE with {_closing(ids)}"
        )
    for index in ids:
        if not isinstance(names[index], str) or not names[index].strip():
            raise ValueError(f"expected the name of class {index} to be a text, got {names[index]!r}")


def _closing(ids: Iterable[int]) -> str:
    """Ids as they are stored -> the JSON of the label map that numbers them from 0."""
    entries = {str(stored): index for index, stored in enumerate(ids)}
    shown = json.dumps(dict(list(entries.items())[:_SHOWN]))
    return shown if len(entries) <= _SHOWN else f"{shown[:-1]}, ...}}"


def _listed(ids: list[int]) -> str:
    """Ids in order -> "0, 2 .. 254", with runs of more than two shortened, and not too many of them."""
    runs: list[list[int]] = []
    for index in ids:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    texts = [str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a} .. {b}" for a, b in runs]
    return ", ".join(texts[:_SHOWN]) + (", ..." if len(texts) > _SHOWN else "")
