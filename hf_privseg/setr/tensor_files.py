"""Safetensors files from strangers: every part of the header is checked before NumPy or torch see anything.

A safetensors file is the length of its header (8 bytes, little-endian), the header, and the numbers of all tensors one
after another. The header is a JSON object: {name: {"dtype", "shape", "data_offsets": [begin, end]}}, and
{"__metadata__": {name: text}} where there is metadata.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from .bounded_json import parse_json
from .errors import HeaderError

if TYPE_CHECKING:
    import torch

MAX_HEADER_BYTES = 2**16  # of our own files
MAX_MODEL_HEADER_BYTES = 2**24  # of a checkpoint's file, about 100,000 tensors

_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
_MAX_DIMENSIONS = 8


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as a header describes it: the format's name of its dtype, its shape, and its bytes in the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class TensorHeader:
    """The checked header of a safetensors file: its metadata, and name -> entry of every tensor."""

    metadata: dict[str, str]
    tensors: dict[str, TensorEntry]

    def json_entry(self, name: str) -> Any:
        """The JSON value in the metadata entry `name`.

        Raises:
            HeaderError: there is no such entry, or it is no JSON within the bounds.
        """
        if name not in self.metadata:
            raise HeaderError(f"expected a metadata entry {name!r}, got the entries {sorted(self.metadata)!r:.160}")
        return parse_json(self.metadata[name], max_bytes=MAX_HEADER_BYTES)


def header_from_bytes(data: bytes, *, max_header_bytes: int = MAX_HEADER_BYTES) -> TensorHeader:
    """The content of a safetensors file -> its header. Nothing is read from the numbers.

    Raises:
        HeaderError: no safetensors file, a truncated or padded one, or a header out of bounds.
    """
    length = _header_length(data[:9], len(data), max_header_bytes)
    return _checked_header(data[8 : 8 + length], len(data) - 8 - length)


def header_from_file(path: str | os.PathLike[str], *, max_header_bytes: int = MAX_MODEL_HEADER_BYTES) -> TensorHeader:
    """Path of a safetensors file -> its header; the rest of the file is not read.

    Raises:
        HeaderError: as `header_from_bytes`; names the file.
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        num_bytes = os.fstat(file.fileno()).st_size
        try:
            length = _header_length(file.read(9), num_bytes, max_header_bytes)
            file.seek(8)
            return _checked_header(file.read(length), num_bytes - 8 - length)
        except HeaderError as error:
            raise HeaderError(f"{path}: {error}") from error


def arrays_to_bytes(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> bytes:
    """Arrays and metadata -> the content of a safetensors file."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return safetensors.numpy.save(contiguous, metadata=None if metadata is None else dict(metadata))


def arrays_from_bytes(data: bytes) -> dict[str, np.ndarray]:
    """The content of a safetensors file whose header `header_from_bytes` has checked -> its arrays.

    Raises:
        HeaderError: the safetensors library refuses the file, or a dtype is none of NumPy.
    """
    try:
        return safetensors.numpy.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise HeaderError(f"expected a safetensors file with dtypes that NumPy has, got {error}") from error


def tensors_to_bytes(tensors: "Mapping[str, torch.Tensor]", metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors on the CPU, of any dtype of torch, and metadata -> the content of a safetensors file."""
    import safetensors.torch

    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(contiguous, metadata=None if metadata is None else dict(metadata))


def tensors_from_bytes(data: bytes) -> "dict[str, torch.Tensor]":
    """As `arrays_from_bytes`, but tensors on the CPU, of any dtype of torch."""
    import safetensors.torch

    try:
        return safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise HeaderError(f"expected a safetensors file with dtypes that torch has, got {error}") from error


def _header_length(start: bytes, num_bytes: int, max_header_bytes: int) -> int:
    """The first 9 bytes of a file and its size -> the length of its header in bytes."""
    if start[8:9] != b"{":
        raise HeaderError("expected a safetensors file, got content without a JSON object after the first 8 bytes")
    length = int.from_bytes(start[:8], "little")
    if length > max_header_bytes:
        raise HeaderError(f"expected a header of at most {max_header_bytes} bytes, got {length}")
    if 8 + length > num_bytes:
        raise HeaderError(f"expected a header of {length} bytes, got a file of {num_bytes}; it is truncated")
    return length


def _checked_header(text: bytes, num_data_bytes: int) -> TensorHeader:
    """The text of a header, and the number of bytes behind it -> the header, every part of it checked."""
    content = parse_json(text, max_bytes=len(text))
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise HeaderError(f"expected metadata of names and texts, got {metadata!r:.80}")
    tensors = {name: _checked_entry(name, entry) for name, entry in content.items()}
    end = 0
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != end:
            raise HeaderError(f"expected the numbers of {name!r:.80} to begin at byte {end}, got {entry.begin}")
        end = entry.end
    if end != num_data_bytes:
        raise HeaderError(f"expected {end} bytes of numbers after the header, got {num_data_bytes}")
    return TensorHeader(metadata, tensors)


def _checked_entry(name: str, entry: object) -> TensorEntry:
    """A value of the header -> the entry, of a known dtype and as many bytes as dtype and shape make."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise HeaderError(f"expected dtype, shape and data_offsets of {name!r:.80}, got {entry!r:.80}")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BITS:
        raise HeaderError(f"expected a dtype of {name!r:.80} among {', '.join(_BITS)}, got {dtype!r:.80}")
    if not _are_natural(shape) or len(shape) > _MAX_DIMENSIONS:
        raise HeaderError(
            f"expected a shape of {name!r:.80} with at most {_MAX_DIMENSIONS} sides of 0 or more, got {shape!r:.80}"
        )
    if not _are_natural(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise HeaderError(f"expected data_offsets of {name!r:.80} as [begin, end], got {offsets!r:.80}")
    num_bits = math.prod(shape) * _BITS[dtype]
    if 8 * (offsets[1] - offsets[0]) != num_bits:
        raise HeaderError(
            f"expected data_offsets of {name!r:.80} with {-(-num_bits // 8)} bytes between them ({dtype} of shape "
            f"{shape}), got {offsets}"
        )
    return TensorEntry(dtype, tuple(shape), *offsets)


def _are_natural(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
