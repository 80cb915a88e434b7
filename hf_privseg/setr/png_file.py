"""Levels of 8 bits as a PNG file, written several times as fast as an image library does; any such library reads it.

Pixels that look random hold no repetitions to search for, so deflate looks for runs alone (`zlib.Z_RLE`). Of PNG's
filters, one serves the whole file, none or Average, whichever packs a sample of the rows better.
"""

import struct
import zlib
from collections.abc import Mapping

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # grey, grey and alpha, RGB, RGBA, by number of channels
_NONE, _AVERAGE = 0, 3  # PNG's numbers of the filters
_SAMPLE = 16  # one row in so many
_MEMORY = 9  # of deflate, its most


def png_bytes(levels: np.ndarray, texts: Mapping[str, str]) -> bytes:
    """(1 to 4, height, width) uint8 and texts by keyword (Latin-1) -> a PNG file of mode L, LA, RGB or RGBA."""
    channels, height, width = levels.shape
    rows = np.empty((height, channels * width), np.uint8)
    for channel, plane in enumerate(levels):
        rows[:, channel::channels] = plane
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    chunks = [_chunk(b"tEXt", f"{keyword}\0{text}".encode("latin-1")) for keyword, text in texts.items()]
    return b"".join(
        [SIGNATURE, _chunk(b"IHDR", header), *chunks, _chunk(b"IDAT", _filtered(rows, channels)), _chunk(b"IEND", b"")]
    )


def _filtered(rows: np.ndarray, channels: int) -> bytes:
    """(height, bytes of a row) -> the content of IDAT, with the filter that packs better."""
    above = np.zeros_like(rows)
    above[1:] = rows[:-1]
    samples = {kind: rows[::_SAMPLE] for kind in (_NONE, _AVERAGE)}
    samples[_AVERAGE] = _average(samples[_AVERAGE], above[::_SAMPLE], channels)
    kind = min(samples, key=lambda kind: len(_deflated(samples[kind], kind)))
    return _deflated(_average(rows, above, channels) if kind == _AVERAGE else rows, kind)


def _average(rows: np.ndarray, above: np.ndarray, channels: int) -> np.ndarray:
    """Each byte less the mean, rounded down, of its neighbours to the left and above, modulo 256."""
    left = np.zeros_like(rows)
    left[:, channels:] = rows[:, :-channels]
    return rows - ((left & above) + ((left ^ above) >> 1))  # the mean of two bytes, within a byte


def _deflated(rows: np.ndarray, kind: int) -> bytes:
    with_kinds = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    with_kinds[:, 0], with_kinds[:, 1:] = kind, rows
    deflate = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, _MEMORY, zlib.Z_RLE)
    return deflate.compress(with_kinds.data) + deflate.flush()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
