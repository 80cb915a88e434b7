"""Files that people write about their classes: the names of the classes, and the classes of stored labels.

Names of classes, in JSON or, with the ending .txt, one a line in the order of their ids:

    {"0": "road", "1": "rest"}              {"id2label": {"0": "road", "1": "rest"}, ...}
    {"road": 0, "rest": 1}                  {"label2id": {"road": 0, "rest": 1}, ...}
    ["road", "rest"]                        {"classes": ...}, {"names": ...}, {"categories": ...} around any of these
    [{"id": 0, "name": "road"}, ...]        [{"id": 0, "name": "road", "color": [128, 64, 128]}, ...], with colours

Classes of stored labels, in JSON: {"7": 0, "26": 1, "4": null}. A label with null is void, and so are all labels that
the file does not name.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from ..setr.class_names import check_class_names
from .datasets import PRESETS, Colour, preset_named

Key = TypeVar("Key")
Value = TypeVar("Value")

_WRAPPERS = ("id2label", "label2id", "classes", "class_names", "names", "labels", "categories")


def class_names_of(source: str | Path, file: str | Path | None = None, preset: str | None = None) -> dict[int, str]:
    """{class: name} from a file, else from a preset, else from the file <source>/classes.json.

    Args:
        source: folder of a data set.
        file: in one of the forms above.
        preset: name of a known data set.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no such preset, or the file is wrong.
    """
    if preset and not file:
        return dict(enumerate(preset_named(preset).class_names))
    path = Path(file) if file else Path(source) / "classes.json"
    if not path.is_file():
        why = "" if file or Path(source).is_dir() else f", but there is no folder {source}; check its name, or"
        raise FileNotFoundError(
            f"expected the names of the classes in {path}{why or ';'} give a JSON file {{id: name}} or [name, ...] "
            f"with --id2label, or one of the presets {', '.join(PRESETS)}"
        )
    return read_class_names(path)


def palette_of(source: str | Path, file: str | Path | None = None, preset: str | None = None) -> list[Colour] | None:
    """A colour for each class from where `class_names_of` has the names; None where there are none.

    Raises:
        As `class_names_of`.
        ValueError: the file has colours for some of its classes alone, or something else in place of a colour.
    """
    if preset and not file:
        return list(preset_named(preset).palette)
    return _read_palette(Path(file) if file else Path(source) / "classes.json")


def read_class_names(path: str | Path) -> dict[int, str]:
    """A file in one of the forms above -> {class id: name}, sorted by ids, which are 0, 1, ... without gaps.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has another form, fewer than two classes, gaps, or a name that is no text or not unique. The
            message names the file and the line or key at fault.
    """
    try:
        content = _lines(path) if Path(path).suffix.lower() == ".txt" else _json(path)
        names = _numbered(content)
        check_class_names(names)
        for index, name in names.items():
            first = next(other for other, known in names.items() if known == name)
            if first != index:
                raise ValueError(f"expected a different name for each class, got {name!r} for {first} and {index}")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return dict(sorted(names.items()))


def _read_palette(path: Path) -> list[Colour] | None:
    """The colours in a file of names, in the order of the classes; None for a file without any."""
    content = None if path.suffix.lower() == ".txt" else _json(path)
    while isinstance(content, dict):
        content = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), dict | list)), None)
    entries = content if isinstance(content, list) else []
    records = {entry["id"]: entry for entry in entries if isinstance(entry, dict)}
    if not any("color" in record for record in records.values()):
        return None
    for index, record in records.items():
        colour = record.get("color")
        numbers = colour if isinstance(colour, list) and len(colour) == 3 else [None]
        if not all(type(number) is int and 0 <= number <= 255 for number in numbers):
            raise ValueError(
                f'{path}: expected "color": [red, green, blue], three numbers in 0 .. 255, for every class, got '
                f"{_shown(colour)} for class {index}"
            )
    return [tuple(records[index]["color"]) for index in sorted(records)]


def read_label_map(path: str | Path) -> dict[int, int | None]:
    """A JSON file {stored label: class} -> the same with integers, None for void.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has another form. The message names the file and the line or key at fault.
    """
    try:
        content = _json(path)
        if not isinstance(content, dict) or not content:
            raise ValueError(f"expected {{stored label: class}}, got {_shown(content)}")
        for stored, label in content.items():
            if not _is_integer_text(stored):
                raise ValueError(f"expected stored labels to be integers, got the key {stored!r}")
            if label is not None and type(label) is not int:
                raise ValueError(f"expected a class or null for the stored label {stored}, got {_shown(label)}")
        return _unique((int(stored), label) for stored, label in content.items())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _numbered(content: object) -> dict[int, str]:
    """The content of a file of names, in any of its forms -> {class id: name}; the ids are not checked."""
    if isinstance(content, dict):
        inside = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), dict | list)), None)
        return _of_object(content) if inside is None else _numbered(inside)
    if not isinstance(content, list):
        raise ValueError(f"expected {{id: name}}, {{name: id}} or [name, ...], got {_shown(content)}")
    if content and all(isinstance(entry, dict) for entry in content):
        return _of_records(content)
    for index, name in enumerate(content):
        if not isinstance(name, str):
            raise ValueError(f"expected the name of class {index} to be a text, got {_shown(name)}")
    return dict(enumerate(content))


def _of_object(content: dict[str, object]) -> dict[int, str]:
    """{id: name} or {name: id} -> {id: name}."""
    pairs: list[tuple[int, str]] = []
    has_ids_first = all(map(_is_integer_text, content))
    for key, value in content.items():
        if has_ids_first and not isinstance(value, str):
            raise ValueError(f"expected a name under the key {key!r}, got {_shown(value)}")
        if has_ids_first and isinstance(value, str):
            pairs.append((int(key), value))
        elif isinstance(value, int) and not isinstance(value, bool):
            pairs.append((value, key))
        else:
            raise ValueError(
                f"expected {{id: name}} or {{name: id}}, got {_shown(value)} under the key {key!r}, which is no id"
            )
    return _unique(pairs)


def _of_records(content: list[dict[str, object]]) -> dict[int, str]:
    """[{"id": id, "name": name}, ...] -> {id: name}."""
    pairs: list[tuple[int, str]] = []
    for index, record in enumerate(content):
        number, name = record.get("id"), record.get("name")
        if not isinstance(number, int) or isinstance(number, bool) or not isinstance(name, str):
            raise ValueError(f'expected {{"id": integer, "name": text}} as entry {index}, got {_shown(record)}')
        pairs.append((number, name))
    return _unique(pairs)


def _unique(pairs: Iterable[tuple[Key, Value]]) -> dict[Key, Value]:
    """Pairs -> a dictionary; a key that comes twice is refused."""
    found: dict[Key, Value] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} is there twice, with {_shown(found[key])} and {_shown(value)}")
        found[key] = value
    return found


def _json(path: str | Path) -> object:
    """A JSON file without duplicate names -> its content."""
    try:
        return json.loads(_text(path), object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"expected JSON, got a mistake in line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    except RecursionError:
        raise ValueError("expected JSON, got one that is nested too deeply") from None


def _lines(path: str | Path) -> list[str]:
    """A text file with one name a line -> the names."""
    lines = [line.strip() for line in _text(path).rstrip().splitlines()]
    if "" in lines:
        raise ValueError(f"expected one name a line, got an empty line {lines.index('') + 1}")
    return lines


def _text(path: str | Path) -> str:
    """A file in UTF-8, or in UTF-16 with its mark -> its text, without a byte order mark."""
    content = Path(path).read_bytes()
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"expected text in UTF-8, got other bytes at position {error.start}; save it as UTF-8"
        ) from None


def _is_integer_text(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii() and len(text) < 20


def _shown(value: object) -> str:
    """A JSON value as a message repeats it: what it is, and the beginning of it."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
