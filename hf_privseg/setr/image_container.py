"""The file of an encrypted image: its encrypted pixels, and a header with the public facts about them.

A ciphertext is never resampled: resizing, cropping or lossy compression after encryption destroys it. There are two
file forms, told apart by their first bytes:

    8-bit pixels   PNG of mode L, LA, RGB or RGBA, for one to four channels; the header is the text chunk "privseg"
    otherwise      safetensors; "values" (channels, height, width), uint8, or int16 with "scale" float32 (1,) and
                   pixels = values * scale; the header is the metadata entry "privseg".
                   Of the family "embedding", "values" are (height / patch_size, width / patch_size, r):
                   of each block, flattened (channel, row, column), the first r numbers; the others are 0.
                   In the compact form, "packed" uint8 (n,) and the header entry "packed" are in place of "values":
                   `packed_integers` restores the values from the one, and the other is their shape.
                   In the 8-bit form, "values" int8 (rows, columns, n), "scale", "axis" and "along" are those of
                   `eight_bit_blocks`

The permutation families have 8-bit pixels. The header is a JSON object with exactly these entries:

    format          1, the version of this layout
    family          key family           version      format version of the key
    fingerprint     of the key              patch_size   side of a block in pixels
    num_channels    only where it is not 3
    packed          only in the compact form: the shape of the values, three numbers
    original_size   [height, width] of the plain image before the processor resized it
    valid_region    [height, width] of the part, at the top left, that the image covers; the rest is padding up to the
                    next multiple of patch_size
    sha256          hexadecimal, over "<dtype>[<shape>]", as in "uint8[3, 32, 48]", and the values in the order of that
                    shape; then, where there are a scale, axis and along, over each of them in the same way, as in
                    "float32[1]"; numbers little-endian

The hash covers the decoded pixels, so that a program may recompress the PNG losslessly. It finds accidents, not
attackers: it is not keyed. Nothing in a container is secret, and nothing is ever pickled.
"""

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .bounded_json import parse_json
from .counts import counted
from .eight_bit_blocks import EightBitBlocks
from .errors import CiphertextError, HeaderError
from .packed_integers import packed, unpacked
from .png_file import SIGNATURE, png_bytes
from .setting_checks import MAX_CHANNELS
from .stored_pixels import check_num_pixels, digest_of, restored, stored, with_zeros, without_zeros
from .tensor_files import arrays_from_bytes, arrays_to_bytes, header_from_bytes

FACTS = ("family", "version", "fingerprint", "patch_size", "original_size", "valid_region")
PNG_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # by number of channels

_FORMAT = 1
_ENTRY = "privseg"
_OTHER_ENTRY = "privseg_inputs"  # of `any_vit.encrypted_inputs`
_MAX_HEADER_BYTES = 4096
_FOREIGN = {b"\xff\xd8\xff": "JPEG", b"RIFF": "WebP", b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_KINDS = (  # of the tensors in a safetensors form: dtype and number of dimensions
    {"values": ("U8", 3)},
    {"values": ("I16", 3), "scale": ("F32", 1)},
    {"packed": ("U8", 1), "scale": ("F32", 1)},
    {"values": ("I8", 3), "scale": ("F32", 2), "axis": ("F32", 1), "along": ("F32", 2)},
)
_ARRAYS = ("values", "scale", "axis", "along")


@dataclass(frozen=True)
class ImageContainer:
    """What the file of an encrypted image holds.

    Args:
        header: all entries; those in FACTS are not checked.
        arrays: the stored pixels, as `stored` or, for a family whose blocks end in zeros, `without_zeros` gives them;
            in the 8-bit form those of `EightBitBlocks`.
    """

    header: dict[str, Any]
    arrays: tuple[np.ndarray, ...]

    @classmethod
    def of(
        cls,
        pixels: np.ndarray,
        facts: Mapping[str, Any],
        *,
        ends_in_zeros: bool,
        step: float | None = None,
        blocks: EightBitBlocks | None = None,
    ) -> "ImageContainer":
        """(channels, height, width) pixels and the FACTS about them -> what their file holds.

        With a `step`, of which the pixels are multiples, it is the compact form; with `blocks`, which are the pixels,
        the 8-bit form.
        """
        header: dict[str, Any] = {"format": _FORMAT, **{name: facts[name] for name in FACTS}}
        if len(pixels) != 3:
            header["num_channels"] = len(pixels)
        arrays = stored(pixels, step) if blocks is None else blocks.arrays
        if ends_in_zeros and blocks is None:
            arrays = (without_zeros(arrays[0], facts["patch_size"]), *arrays[1:])
        if step is not None:
            header["packed"] = list(arrays[0].shape)
        return cls({**header, "sha256": digest_of(*arrays)}, arrays)

    @property
    def num_channels(self) -> int:
        """Channels of the image, as the header says."""
        return int(self.header.get("num_channels", 3))

    @property
    def step(self) -> float | None:
        """The step of the quantiser in the compact form, else None."""
        return float(self.arrays[1][0]) if "packed" in self.header else None

    @property
    def blocks(self) -> EightBitBlocks | None:
        """The blocks in the 8-bit form, else None.

        Raises:
            CiphertextError: shapes that do not fit, or numbers out of range.
        """
        return EightBitBlocks(*self.arrays) if len(self.arrays) == len(_ARRAYS) else None

    def pixels(self, *, patch_size: int, ends_in_zeros: bool, max_pixels: int) -> np.ndarray:
        """The encrypted pixels, (channels, height, width).

        Raises:
            CiphertextError: more pixels than `max_pixels`, or other channels than the header says.
        """
        blocks = self.blocks
        if ends_in_zeros or blocks is not None:
            found = restored(self.arrays) if blocks is None else blocks.restored()
            return with_zeros(found, patch_size, self.num_channels, max_pixels)
        num_channels, height, width = self.arrays[0].shape
        if num_channels != self.num_channels:
            raise CiphertextError(
                f"expected pixels of {counted(self.num_channels, 'channel')}, as the header of the encrypted image "
                f"says, got {num_channels}; keep the file as to_file wrote it"
            )
        check_num_pixels(num_channels, height, width, max_pixels)
        return restored(self.arrays)

    def is_intact(self) -> bool:
        """Whether the pixels are those that the header was written for."""
        return bool(self.header["sha256"] == digest_of(*self.arrays))

    def to_bytes(self) -> bytes:
        """The content of the file."""
        text = json.dumps(self.header)
        if len(self.arrays) == 1 and self.num_channels in PNG_MODES:
            return png_bytes(self.arrays[0], {_ENTRY: text})
        if "packed" in self.header:
            values, scale = self.arrays
            return arrays_to_bytes({"packed": packed(values), "scale": scale}, {_ENTRY: text})
        return arrays_to_bytes(dict(zip(_ARRAYS, self.arrays, strict=False)), {_ENTRY: text})

    @classmethod
    def from_bytes(cls, data: bytes, *, max_pixels: int) -> "ImageContainer":
        """The content of a file that `to_bytes` wrote, or that a program recompressed -> what it holds.

        Args:
            data: the content.
            max_pixels: of a PNG file and of a compact form, whose sizes are read before they are decoded; the size of
                other files bounds them.

        Raises:
            CiphertextError: another format, no header, another version, too large or damaged.
        """
        return _read_png(data, max_pixels) if data.startswith(SIGNATURE) else _read_safetensors(data, max_pixels)


def _read_png(data: bytes, max_pixels: int) -> ImageContainer:
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:  # reads the size and decodes nothing yet
            check_num_pixels(3, image.height, image.width, max_pixels)
            image.load()  # the first frame, should there be several; `image.text` would decode them all
            header = _parsed_header(image.info.get(_ENTRY), max_pixels)
            if "packed" in header:
                raise CiphertextError("expected 8-bit pixels in a PNG file, got a header of the compact form")
            mode = PNG_MODES.get(header.get("num_channels", 3))
            if mode is None:
                raise CiphertextError(
                    f"expected an encrypted image of 1 to {len(PNG_MODES)} channels in a PNG file, got a header that "
                    f"says {header['num_channels']}"
                )
            levels = np.atleast_3d(np.array(image.convert(mode))).transpose(2, 0, 1)
    except CiphertextError:
        raise
    except Exception as error:  # on damaged data Pillow raises OSError, SyntaxError, ValueError, zlib.error, ...
        raise CiphertextError(f"the PNG file is truncated or damaged ({error}); transfer it again") from error
    return ImageContainer(header, (np.ascontiguousarray(levels),))


def _read_safetensors(data: bytes, max_pixels: int) -> ImageContainer:
    other = next((name for magic, name in _FOREIGN.items() if data.startswith(magic)), None)
    if other:
        raise CiphertextError(
            f"expected a PNG or safetensors file, got {other}: lossy compression or another format after encryption "
            "destroys a ciphertext; send the file exactly as to_file wrote it"
        )
    if data[8:9] != b"{":
        raise CiphertextError("expected an encrypted image (a PNG or safetensors file of ours), got unknown content")
    try:
        found = header_from_bytes(data, max_header_bytes=2 * _MAX_HEADER_BYTES)
        kinds = {name: (entry.dtype, len(entry.shape)) for name, entry in found.tensors.items()}
        if _OTHER_ENTRY in found.metadata:
            raise CiphertextError(
                "expected an encrypted image, got encrypted inputs of a model of another class than SETR, which "
                "EncryptedInputs reads; encrypt the image with the processor of the model that segments it"
            )
        if _ENTRY not in found.metadata or kinds not in _KINDS:
            raise CiphertextError(
                "expected a safetensors file with 'values' (U8, or I16 and a 'scale' F32; 3 dimensions), or 'packed' "
                "(U8) and a 'scale' F32, or 'values' (I8) and 'scale', 'axis' and 'along' (F32), and a 'privseg' "
                f"header, got {kinds!r:.200}; it is no encrypted image"
            )
        header = _parsed_header(found.metadata[_ENTRY], max_pixels)
        arrays = arrays_from_bytes(data)
    except HeaderError as error:
        raise CiphertextError(f"the safetensors file is truncated or damaged ({error}); transfer it again") from error
    if ("packed" in header) != ("packed" in arrays):
        raise CiphertextError("expected the shape of packed numbers in the header, and of no others; it is damaged")
    if "axis" in arrays:
        return ImageContainer(header, tuple(arrays[name] for name in _ARRAYS))
    scale = arrays.get("scale")
    if scale is not None and (scale.size != 1 or not 0 < scale[0] < np.inf):
        raise CiphertextError(f"the scale of an encrypted image is one positive number, got {scale.tolist()!r:.80}")
    values = unpacked(arrays["packed"], tuple(header["packed"])) if "packed" in arrays else arrays["values"]
    return ImageContainer(header, (values,) if scale is None else (values, scale))


def _parsed_header(text: object, max_pixels: int) -> dict[str, Any]:
    """JSON text from a file -> the header, its entries complete; the values in FACTS are checked elsewhere."""
    if not isinstance(text, str):
        raise CiphertextError(
            "the PNG file has no 'privseg' header: it is an ordinary image, or a ciphertext whose header a program "
            "removed, which cannot be told apart; keep the file as to_file wrote it, or encrypt the plain image first"
        )
    try:
        header = parse_json(text, max_bytes=_MAX_HEADER_BYTES)
    except HeaderError as error:
        raise CiphertextError(
            f"the header of the encrypted image is not JSON of at most {_MAX_HEADER_BYTES} bytes"
        ) from error
    found = header.get("format") if isinstance(header, dict) else None
    if type(found) is not int or found != _FORMAT:
        raise CiphertextError(
            f"expected an encrypted image of format {_FORMAT}, got {found!r:.80}; "
            "a later version of this package may have written it"
        )
    expected = {"format", *FACTS, "sha256"}
    if set(header) - {"num_channels", "packed"} != expected:
        odd = sorted(expected.symmetric_difference(header))
        raise CiphertextError(f"the header's entries should be {sorted(expected)}; missing or unknown: {odd!r:.200}")
    num_channels = header.get("num_channels", 3)
    if type(num_channels) is not int or not 1 <= num_channels <= MAX_CHANNELS:
        raise CiphertextError(
            f"num_channels of an encrypted image is an int from 1 to {MAX_CHANNELS}, got {num_channels!r:.80}"
        )
    shape = header.get("packed", [1, 1, 1])
    if not isinstance(shape, list) or len(shape) != 3 or not all(type(side) is int and side > 0 for side in shape):
        raise CiphertextError(f"the shape of packed numbers is three positive ints, got {shape!r:.80}")
    if math.prod(shape) > 3 * max_pixels:
        raise CiphertextError(f"expected at most {3 * max_pixels} packed numbers, got {math.prod(shape):.6g}")
    return header
