"""Levels of 8 bits as a PNG file, written many times as fast as an image library does; any such library reads it.

Pixels that look random hold no repetitions worth a search, so they are packed by the deflate of Intel's ISA-L, which
hardly searches. Where it has no wheels, zlib looks for runs alone (`zlib.Z_RLE`), and takes several times as long. Of
PNG's filters, one serves the whole file, none or Average, whichever packs a sample of the rows better.
"""

import struct
import zlib
from collections.abc import Iterable, Mapping
from functools import reduce

import numpy as np

try:
    from isal import isal_zlib
except ImportError:  # a platform that ISA-L is not made for
    isal_zlib = None  # type: ignore[assignment]

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # grey, grey and alpha, RGB, RGBA, by number of channels
_NONE, _AVERAGE = 0, 3  # PNG's numbers of the filters
_SAMPLE = 16  # one row in so many
_STRIP_BYTES = 1 << 19  # of the rows that are packed at once
_MEMORY = 9  # of deflate, its most


def png_bytes(levels: np.ndarray, texts: Mapping[str, str]) -> bytes:
    """(1 to 4, height, width) uint8 and texts by keyword (Latin-1) -> a PNG file of mode L, LA, RGB or RGBA."""
    channels, height, width = levels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    pieces = [SIGNATURE, *_chunk(b"IHDR", [header])]
    for keyword, text in texts.items():
        pieces += _chunk(b"tEXt", [f"{keyword}\0{text}".encode("latin-1")])
    return b"".join([*pieces, *_chunk(b"IDAT", _packed(levels)), *_chunk(b"IEND", [])])


def _packed(levels: np.ndarray) -> list[bytes]:
    """(channels, height, width) -> the content of IDAT, with the filter that packs a sample of the rows better."""
    height = levels.shape[1]
    sample = range(0, height, _SAMPLE)
    kind = min((_NONE, _AVERAGE), key=lambda kind: sum(map(len, _deflated([_scanlines(levels, sample, kind)]))))
    step = max(1, _STRIP_BYTES // (len(levels) * levels.shape[2]))
    strips = (range(first, min(first + step, height)) for first in range(0, height, step))
    return _deflated(_scanlines(levels, rows, kind) for rows in strips)


def _scanlines(levels: np.ndarray, rows: range, kind: int) -> np.ndarray:
    """(channels, height, width) and numbers of rows -> (len(rows), 1 + channels * width), the rows as PNG has them."""
    channels, _, width = levels.shape
    values = _interleaved(levels, rows)
    lines = np.empty((len(rows), 1 + channels * width), np.uint8)
    lines[:, 0] = kind
    if kind == _NONE:
        lines[:, 1:] = values
    else:
        np.subtract(values, _mean_of_neighbours(levels, rows, values), out=lines[:, 1:])
    return lines


def _interleaved(levels: np.ndarray, rows: range) -> np.ndarray:
    """(channels, height, width) and numbers of rows, -1 for one of zeros -> (len(rows), width * channels)."""
    channels, _, width = levels.shape
    found = np.zeros((len(rows), channels * width), np.uint8)
    outside = rows[0] < 0
    inside = rows[1:] if outside else rows
    for channel, plane in enumerate(levels):
        found[int(outside) :, channel::channels] = plane[inside.start : inside.stop : inside.step]
    return found


def _mean_of_neighbours(levels: np.ndarray, rows: range, values: np.ndarray) -> np.ndarray:
    """Of each byte of some rows the mean, rounded down, of the bytes to the left and above, which may be outside."""
    above = _interleaved(levels, range(rows.start - 1, rows.stop - 1, rows.step))
    left = np.zeros_like(values)
    left[:, len(levels) :] = values[:, : -len(levels)]
    mean = left ^ above  # (left & above) + ((left ^ above) >> 1) stays within a byte
    mean >>= 1
    left &= above
    mean += left
    return mean


def _deflated(parts: Iterable[np.ndarray]) -> list[bytes]:
    if isal_zlib is not None:
        deflate = isal_zlib.compressobj(1, isal_zlib.DEFLATED, isal_zlib.MAX_WBITS, _MEMORY)
    else:
        deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, _MEMORY, zlib.Z_RLE)
    return [*[deflate.compress(part.data) for part in parts], deflate.flush()]


def _chunk(kind: bytes, pieces: list[bytes]) -> list[bytes]:
    crc32 = zlib.crc32 if isal_zlib is None else isal_zlib.crc32
    check = reduce(lambda check, piece: crc32(piece, check), [kind, *pieces], 0)
    return [struct.pack(">I", sum(map(len, pieces))), kind, *pieces, struct.pack(">I", check)]
