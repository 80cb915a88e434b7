"""The bounded reader of safetensors headers: it reads what the library writes and refuses everything else."""

import json
import random

import pytest
import safetensors.torch
import torch

from hf_privseg.setr.errors import HeaderError
from hf_privseg.setr.tensor_files import (
    TensorEntry,
    header_from_bytes,
    header_from_file,
    tensors_from_bytes,
    tensors_to_bytes,
)

TENSORS = {"a": torch.arange(6, dtype=torch.int16).reshape(2, 3), "b": torch.tensor([0.5])}
ENTRY = {"dtype": "U8", "shape": [2, 2], "data_offsets": [0, 4]}


def file_of(header, num_bytes=4):
    """A file with this header, given as text or as values, and as many bytes of numbers."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8", "surrogatepass")
    return len(text).to_bytes(8, "little") + text + bytes(num_bytes)


def test_tensors_and_metadata_come_back():
    data = tensors_to_bytes(TENSORS, {"note": '{"x": [1]}'})
    header, tensors = header_from_bytes(data), tensors_from_bytes(data)
    assert header.metadata == {"note": '{"x": [1]}'}
    assert header.json_entry("note") == {"x": [1]}
    assert header.tensors == {"b": TensorEntry("F32", (1,), 0, 4), "a": TensorEntry("I16", (2, 3), 4, 16)}
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)


def test_a_transposed_tensor_is_written_as_it_is_seen():
    data = tensors_to_bytes({"a": TENSORS["a"].T})
    assert torch.equal(tensors_from_bytes(data)["a"], TENSORS["a"].T)
    assert header_from_bytes(data).metadata == {}


@pytest.mark.parametrize("dtype", safetensors.torch._TYPES.values(), ids=str)
def test_every_dtype_of_the_library_is_known(dtype):
    data = tensors_to_bytes({"a": torch.zeros(3, 5, dtype=torch.uint8).to(dtype)})
    (entry,) = header_from_bytes(data).tensors.values()
    assert entry.shape == (3, 5)
    assert entry.end == 15 * dtype.itemsize


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1, 1, 1, 1, 1, 1, 1, 2)], ids=str)
def test_scalars_empty_tensors_and_many_dimensions_are_read(shape):
    assert header_from_bytes(tensors_to_bytes({"a": torch.zeros(shape)})).tensors["a"].shape == shape


def test_a_file_is_read_by_its_header_alone(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(tensors_to_bytes(TENSORS, {"note": "x"}))
    assert header_from_file(path) == header_from_bytes(path.read_bytes())
    with path.open("rb+") as file:
        file.truncate(path.stat().st_size - 1)
    with pytest.raises(HeaderError, match=rf"^{path}: expected 16 bytes of numbers after the header, got 15$"):
        header_from_file(path)


def test_a_missing_metadata_entry_is_named():
    with pytest.raises(HeaderError, match=r"expected a metadata entry 'x', got the entries \['note'\]"):
        header_from_bytes(tensors_to_bytes(TENSORS, {"note": ""})).json_entry("x")


NESTED = '{"a": ' + "[" * 1000 + "]" * 1000 + "}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a safetensors file, got content without a JSON object after the first 8 bytes"),
        (b"privseg1.orthogonal.key", "expected a safetensors file, got content without"),
        (file_of([1]), "expected a safetensors file, got content without"),
        ((2**40).to_bytes(8, "little") + b"{}", "expected a header of at most 65536 bytes, got 1099511627776"),
        (file_of({}, 0)[:8] + b"{", "expected a header of 2 bytes, got a file of 9; it is truncated"),
        (file_of("{"), "expected JSON, got something else"),
        (file_of('{"a": \ud800}'), "expected JSON, got something else"),
        (file_of(NESTED), "expected JSON nested at most 4 deep, got deeper lists or objects"),
        (file_of('{"a": ' + "9" * 5000 + "}"), "expected integers of at most 64 bits, got 9{40} of 5000 characters"),
        (file_of('{"a": 9223372036854775808}'), "at most 64 bits, got 9223372036854775808 of 19 characters"),
        (file_of('{"a": 1e999}'), "expected finite numbers, got 1e999"),
        (file_of('{"a": NaN}'), "expected finite numbers, got NaN"),
        (file_of('{"a": {"x": 1, "x": 1}}'), "expected every name once in a JSON object, got 'x' twice"),
        (file_of({"__metadata__": {"a": 1}}), "expected metadata of names and texts, got {'a': 1}"),
        (file_of({"__metadata__": None}), "expected metadata of names and texts, got None"),
        (file_of({"a": 5}), "expected dtype, shape and data_offsets of 'a', got 5"),
        (file_of({"a": ENTRY | {"x": 1}}), "expected dtype, shape and data_offsets of 'a', got {'dtype'"),
        (file_of({"a": ENTRY | {"dtype": "U9"}}), "expected a dtype of 'a' among F64, .*, got 'U9'"),
        (file_of({"a": ENTRY | {"dtype": ["U8"]}}), r"expected a dtype of 'a' among .*, got \['U8'\]"),
        (file_of({"a": ENTRY | {"shape": [-2, -2]}}), r"shape of 'a' .*sides of 0 or more, got \[-2, -2\]"),
        (file_of({"a": ENTRY | {"shape": [2.0, 2]}}), r"sides of 0 or more, got \[2\.0, 2\]"),
        (file_of({"a": ENTRY | {"shape": [True, 4]}}), r"sides of 0 or more, got \[True, 4\]"),
        (file_of({"a": ENTRY | {"shape": 4}}), "sides of 0 or more, got 4"),
        (file_of({"a": ENTRY | {"shape": [1] * 9}}), "with at most 8 sides"),
        (
            file_of({"a": ENTRY | {"shape": [2**62, 2**62]}}),
            "data_offsets of 'a' with 2126764793.* bytes between them",
        ),
        (file_of({"a": ENTRY | {"dtype": "F4", "shape": [3]}}), r"with 2 bytes between them \(F4 of shape \[3\]\)"),
        (file_of({"a": ENTRY | {"data_offsets": [4, 0]}}), r"expected data_offsets of 'a' as .*, got \[4, 0\]"),
        (file_of({"a": ENTRY | {"data_offsets": [0, 4, 4]}}), r"as \[begin, end\], got \[0, 4, 4\]"),
        (file_of({"a": ENTRY | {"data_offsets": [-4, 0]}}), r"got \[-4, 0\]"),
        (file_of({"a": ENTRY | {"data_offsets": [1, 5]}}, 5), "numbers of 'a' to begin at byte 0, got 1"),
        (file_of({"a": ENTRY, "b": ENTRY}), "numbers of 'b' to begin at byte 4, got 0"),
        (file_of({"a": ENTRY}, 3), "expected 4 bytes of numbers after the header, got 3"),
        (file_of({"a": ENTRY}, 5), "expected 4 bytes of numbers after the header, got 5"),
    ],
)
def test_a_header_out_of_bounds_is_refused(data, message):
    with pytest.raises(HeaderError, match=message):
        header_from_bytes(data)


def test_a_dtype_that_torch_lacks_is_refused_by_the_library():
    data = file_of({"a": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [0, 3]}}, 3)
    assert header_from_bytes(data).tensors["a"].shape == (4,)
    with pytest.raises(HeaderError, match="expected a safetensors file with dtypes that torch has, got "):
        tensors_from_bytes(data)


@pytest.mark.parametrize("seed", range(20))
def test_damaged_files_are_refused_or_read_but_never_crash(seed):
    generator = random.Random(seed)
    data = tensors_to_bytes(TENSORS, {"note": "x"})
    header_end = len(data) - 16
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(header_end)] = generator.choice(b'0123456789[]{},:"-eE.\\ \xff\x00a')
        if generator.random() < 0.3:
            damaged = damaged[: generator.randrange(len(damaged))]
        try:
            header = header_from_bytes(bytes(damaged))
            tensors = tensors_from_bytes(bytes(damaged))
        except HeaderError:
            continue
        assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
            name: entry.shape for name, entry in header.tensors.items()
        }
