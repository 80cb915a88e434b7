"""JSON from strangers, within bounds: bytes, depth, digits, finite numbers, and every name once in an object.

Python's own reader takes NaN and Infinity, keeps the last of two equal names, runs out of recursion in deep lists, and
reads integers of any length.
"""

import json
import math
import os
import re
from pathlib import Path
from typing import Any, NoReturn

from .errors import HeaderError

_MAX_DEPTH = 4
_MAX_INTEGER = 2**63 - 1
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[\]{}]', re.DOTALL)  # possessive: linear in any text


def parse_json(text: str | bytes, *, max_bytes: int, max_depth: int = _MAX_DEPTH) -> Any:
    """JSON from a stranger -> its value.

    Args:
        text: in UTF-8 where it is bytes.
        max_bytes: how long it may be in UTF-8.
        max_depth: how deep lists and objects may be nested.

    Raises:
        HeaderError: too many bytes, no JSON, lists or objects nested too deeply, a name twice in one object, an
            integer of more than 64 bits, or a fraction that is not finite.
    """
    try:
        num_bytes = len(text if isinstance(text, bytes) else text.encode())
        if num_bytes > max_bytes:
            raise HeaderError(f"expected JSON of at most {max_bytes} bytes, got {num_bytes}")
        text = text.decode() if isinstance(text, bytes) else text
        _check_depth(text, max_depth)
        return json.loads(
            text,
            object_pairs_hook=_without_duplicates,
            parse_int=_bounded_integer,
            parse_float=_finite_number,
            parse_constant=_refuse_constant,
        )
    except HeaderError:
        raise
    except (ValueError, RecursionError) as error:
        raise HeaderError(f"expected JSON, got something else ({error})") from error


def object_from_file(
    path: str | os.PathLike[str], *, max_bytes: int = 2**24, max_depth: int = 16
) -> dict[str, object]:
    """Path of a file with a JSON object, such as a config.json -> the object.

    The bounds are wide enough for a model of 65,536 classes with names and colours.

    Raises:
        HeaderError: as `parse_json`, or other JSON than an object; names the file.
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        content = file.read(max_bytes + 1)
    try:
        value = parse_json(content, max_bytes=max_bytes, max_depth=max_depth)
    except HeaderError as error:
        raise HeaderError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise HeaderError(f"{path}: expected a JSON object, got {value!r:.80}")
    return value


def _check_depth(text: str, max_depth: int) -> None:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(match[0], 0)
        if depth > max_depth:
            raise HeaderError(f"expected JSON nested at most {max_depth} deep, got deeper lists or objects")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise HeaderError(f"expected every name once in a JSON object, got {name!r:.80} twice")
        found[name] = value
    return found


def _bounded_integer(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > _MAX_INTEGER:
        raise HeaderError(f"expected integers of at most 64 bits, got {digits:.40} of {len(digits)} characters")
    return int(digits)


def _finite_number(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise HeaderError(f"expected finite numbers, got {digits:.40}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise HeaderError(f"expected finite numbers, got {name}")
