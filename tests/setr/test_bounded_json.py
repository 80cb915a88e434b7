"""JSON within bounds: it is read as it is, and everything else is refused in no time."""

import json
import time

import pytest

from hf_privseg.setr.bounded_json import object_from_file, parse_json
from hf_privseg.setr.errors import HeaderError
from hf_privseg.setr.tensor_files import MAX_HEADER_BYTES


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" + "1," * 100 + "1]", "expected JSON of at most 100 bytes, got 203"),
        ("\N{EURO SIGN}" * 40, "expected JSON of at most 100 bytes, got 120"),
        (b"\xff", "expected JSON, got something else"),
        ("", "expected JSON, got something else"),
        ("\ud800", "expected JSON, got something else"),
        ("-Infinity", "expected finite numbers, got -Infinity"),
        ('{"a": "[[[[[[", "b": [[[[]]]]}', "nested at most 4 deep"),
    ],
)
def test_json_out_of_bounds_is_refused(text, message):
    with pytest.raises(HeaderError, match=message):
        parse_json(text, max_bytes=100)


@pytest.mark.parametrize(
    "value",
    ["[[[[[", 'quotes \\" and \\\\', {"a": [{"b": [1.5, -(2**63) + 1, None, True]}]}, 2**63 - 1, "\n\N{EURO SIGN}"],
    ids=repr,
)
def test_json_within_bounds_is_read_as_it_is(value):
    assert parse_json(json.dumps(value), max_bytes=1000) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(), max_bytes=1000) == value


@pytest.mark.parametrize("text", ['"' + '\\"' * 30000, '"' * 60001, "[" * 60000, "\\" * 60000, '{"a":' * 12000])
def test_hostile_texts_take_no_time(text):
    start = time.perf_counter()
    with pytest.raises(HeaderError):
        parse_json(text, max_bytes=MAX_HEADER_BYTES)
    assert time.perf_counter() - start < 1


def test_an_object_is_read_from_a_file_and_errors_name_it(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": [[[[[1]]]]]}')
    assert object_from_file(path) == {"a": [[[[[1]]]]]}
    with pytest.raises(HeaderError, match=rf"^{path}: expected JSON nested at most 3 deep"):
        object_from_file(path, max_depth=3)
    with pytest.raises(HeaderError, match=rf"^{path}: expected JSON of at most 5 bytes, got 6"):
        object_from_file(path, max_bytes=5)
    path.write_text("[1]")
    with pytest.raises(HeaderError, match=rf"^{path}: expected a JSON object, got \[1\]$"):
        object_from_file(path)
