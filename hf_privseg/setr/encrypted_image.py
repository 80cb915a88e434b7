"""The ciphertext container: an encrypted image with its public facts, and the lossless file that carries both.

A ciphertext is never resampled: resizing, cropping or lossy compression after encryption destroys it. There are two
file forms, told apart by their first bytes:

    permutation families   PNG, 8-bit RGB; the header is the text chunk "privseg"
    float families         safetensors; "values" int16 (3, height, width) and "scale" float32 (1,) with
                           pixels = values * scale; the header is the metadata entry "privseg".
                           Of the family "embedding", "values" are (height / patch_size, width / patch_size, r):
                           of each block, flattened (channel, row, column), the first r numbers; the others are 0

The header is a JSON object with exactly these entries:

    format          1, the version of this layout
    family          cipher family           version      format version of the key
    fingerprint     of the key              patch_size   side of a block in pixels
    original_size   [height, width] of the photo before the processor resized it
    valid_region    [height, width] of the part, at the top left, that the photo covers; the rest is padding up to the
                    next multiple of patch_size
    sha256          hexadecimal, over "uint8[3, <height>, <width>]" and the pixels in the order channel, row, column;
                    for float families over "int16[<shape of the values>]", as in "int16[3, 32, 48]", the values,
                    "float32[1]" and the scale, numbers little-endian

The hash covers the decoded pixels, so that a program may recompress the PNG losslessly. It finds accidents, not
attackers: it is not keyed. Nothing in a container is secret, and nothing is ever pickled.
"""

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeGuard

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from .ciphers import CIPHERS
from .errors import CiphertextError, EncryptionStateError, HeaderError, InvalidImageError
from .files import write_whole
from .public_facts import FORMAT_VERSION, KeyFacts
from .stored_pixels import digest_of, restored, stored, with_zeros, without_zeros
from .tensor_files import header_from_bytes, parse_json, tensors_from_bytes, tensors_to_bytes

MAX_PIXELS = 2**26  # 8192 x 8192; read from the file's own header before anything is decoded

_CONTAINER_FORMAT = 1
_ENTRY = "privseg"
_FACTS = ("family", "version", "fingerprint", "patch_size", "original_size", "valid_region")
_MAX_HEADER_BYTES = 4096
_MAX_FILE_BYTES = 3 * 2 * MAX_PIXELS + 2**16
_FOREIGN = {b"\xff\xd8\xff": "JPEG", b"RIFF": "WebP", b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, eq=False, repr=False)
class EncryptedImage:
    """(3, height, width) encrypted pixels, uint8 or float32 by family, and the public facts about them.

    Made by `SetrImageProcessor.encrypt`; `SetrImageProcessor` turns it into `pixel_values` without a key.

    Args:
        pixels: uint8 for the permutation families; float32 for the others, already centred (encrypted values of
            pixels in [-1, 1]; of any size up to sqrt(3) patch_size, or what a client embedding makes of them). Sides
            are multiples of patch_size.
        family: the cipher family, a name in `CIPHERS`.
        fingerprint: of the key, 16 hexadecimal characters.
        patch_size: side of a block in pixels.
        original_size: (height, width) of the photo; what post-processing takes as target size.
        valid_region: (height, width) at the top left that the photo covers.
        version: format version of the key.

    Raises:
        CiphertextError: a fact of the wrong type or range, or pixels that do not fit the facts.
    """

    _privseg_kind: ClassVar[str] = "encrypted image"  # recognises the class in another copy of this module

    pixels: torch.Tensor
    family: str
    fingerprint: str
    patch_size: int
    original_size: tuple[int, int]
    valid_region: tuple[int, int]
    version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        _check_facts({name: getattr(self, name) for name in _FACTS})
        for name in ("original_size", "valid_region"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _check_pixels(self.pixels, self.family, self.patch_size, self.valid_region)

    @property
    def facts(self) -> KeyFacts:
        """The public facts about the key that encrypted the image."""
        return KeyFacts(self.family, self.version, self.fingerprint)

    @property
    def suffix(self) -> str:
        """The ending of this image's file: '.png' or '.safetensors'."""
        return ".png" if self.pixels.dtype == torch.uint8 else ".safetensors"

    def to_bytes(self) -> bytes:
        """The content of the file form. Exact for uint8 pixels.

        Float pixels are rounded to 16 bits: they change by at most half the scale, max |pixels| / 65534, and the
        image that `from_bytes` returns then keeps its values through further round trips, up to float32 rounding.
        """
        facts = {name: getattr(self, name) for name in _FACTS}
        arrays = stored(self.pixels)
        if CIPHERS[self.family].ends_in_zeros:
            arrays = (without_zeros(arrays[0], self.patch_size), *arrays[1:])
        header = json.dumps({"format": _CONTAINER_FORMAT, **facts, "sha256": digest_of(*arrays)})
        if self.pixels.dtype == torch.uint8:
            return _png_bytes(arrays[0], header)
        tensors = {"values": torch.from_numpy(arrays[0]), "scale": torch.from_numpy(arrays[1])}
        return tensors_to_bytes(tensors, {_ENTRY: header})

    @classmethod
    def from_bytes(cls, data: bytes, *, max_pixels: int | None = None) -> "EncryptedImage":
        """The content of a PNG or safetensors file that `to_bytes` wrote -> the encrypted image.

        Args:
            data: the content.
            max_pixels: of the encrypted image, height times width, MAX_PIXELS without it; a larger one is refused
                before it is decoded.

        Raises:
            CiphertextError: another format, no header, wrong types or version, too large, damaged, resized, changed.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"EncryptedImage.from_bytes expects bytes, got {type(data).__name__}")
        max_pixels = MAX_PIXELS if max_pixels is None else max_pixels
        text, arrays = _read_png(data, max_pixels) if data.startswith(_PNG) else _read_safetensors(data, max_pixels)
        header = _parsed_header(text)
        facts = {name: header[name] for name in _FACTS}
        _check_facts(facts)
        pixels = restored(arrays)
        if CIPHERS[facts["family"]].ends_in_zeros:
            pixels = with_zeros(pixels, facts["patch_size"], max_pixels)
        image = cls(pixels=pixels, **facts)
        if header["sha256"] != digest_of(*arrays):
            raise CiphertextError(
                "the pixels were changed after encryption (their SHA-256 is not the one in the header): by lossy "
                "compression, an editor or a transmission error; send the file exactly as to_file wrote it"
            )
        return image

    def to_file(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the container to `path`, which ends in `suffix`; it appears as a whole or not at all.

        Raises:
            ValueError: another ending, which would make programs treat the file as what it is not.
            FileExistsError: `path` exists and `overwrite` is False.
        """
        path = Path(path)
        if path.suffix.lower() != self.suffix:
            raise ValueError(
                f"a ciphertext of the family '{self.family}' is a {self.suffix} file, got {path.name!r}; "
                f"use {path.with_suffix(self.suffix).name!r}"
            )
        write_whole(path, self.to_bytes(), overwrite=overwrite)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> "EncryptedImage":
        """Path of a file that `to_file` wrote -> the encrypted image; the content decides, not the ending.

        Raises:
            CiphertextError: as `from_bytes`; names the file.
            OSError: the file cannot be read.
        """
        path = Path(path)
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES + 1)
        try:
            return cls.from_bytes(data)
        except CiphertextError as error:
            raise CiphertextError(f"{path.name}: {error}") from error

    def to_picture(self) -> Image.Image:
        """RGB picture that shows people what can be seen in it; float families lose data on the way (0 is grey).

        Their values from 1.5 standard deviations on become black or white. A few large values would otherwise leave
        the rest an even grey, and the ciphertext would look better protected than it is.
        """
        levels = self.pixels.cpu()
        if levels.is_floating_point():
            spread = (1.5 * levels.std()).clamp_min(torch.finfo(levels.dtype).tiny)
            levels = (levels / spread * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
        return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())

    def _repr_png_(self) -> bytes:
        """What a notebook shows: of the permutation families the PNG container itself, else a picture of it."""
        if self.pixels.dtype == torch.uint8:
            return self.to_bytes()
        buffer = io.BytesIO()
        self.to_picture().save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        return (
            f"EncryptedImage(family={self.family!r}, fingerprint={self.fingerprint!r}, patch_size={self.patch_size}, "
            f"size={tuple(self.pixels.shape[-2:])}, original_size={self.original_size})"
        )


def is_encrypted_image(value: object) -> TypeGuard[EncryptedImage]:
    """Whether `value` is an `EncryptedImage`, of this or (with remote code) another copy of this module."""
    return getattr(type(value), "_privseg_kind", None) == EncryptedImage._privseg_kind


def check_ciphertexts(images: Sequence[object], patch_size: int, settings: Mapping[str, object]) -> None:
    """Refuse what a processor cannot do to encrypted images, or not without being noticed.

    Args:
        images: what was given to the processor.
        patch_size: the processor's.
        settings: what was given beside the images, by name; None is not given.

    Raises:
        InvalidImageError: plain and encrypted images are mixed.
        EncryptionStateError: there is a secret_key.
        CiphertextError: there is a setting that would change the pixels, or an image has other blocks.
    """
    encrypted = [image for image in images if is_encrypted_image(image)]
    if len(encrypted) < len(images):
        raise InvalidImageError("expected either plain images or EncryptedImages, got both; process them in two calls")
    given = {name for name, value in settings.items() if value is not None}
    if "secret_key" in given:
        raise EncryptionStateError(
            "got a secret_key for an EncryptedImage: encrypting twice would ruin it; leave the key out"
        )
    refused = sorted(given - {"return_tensors", "device"})
    if refused:
        raise CiphertextError(
            f"got {', '.join(refused)} for an EncryptedImage, whose pixels are never resampled or scaled; pass "
            "settings to encrypt(), and compare segmentation maps with the final map"
        )
    for image in encrypted:
        if image.patch_size != patch_size:
            raise CiphertextError(
                f"expected an image encrypted in blocks of {patch_size} pixels, the processor's patch_size, got "
                f"blocks of {image.patch_size}; encrypt with the processor of the model"
            )


def _check_facts(facts: dict[str, Any]) -> None:
    """Refuse facts of the wrong type or range; they may come from a file that anyone wrote."""
    try:
        KeyFacts(facts["family"], facts["version"], facts["fingerprint"])
    except ValueError as error:
        raise CiphertextError(f"the key of an encrypted image: {error}") from None
    expectations = {
        "patch_size": ("a positive int", lambda value: type(value) is int and value > 0),
        "original_size": (f"two positive ints, {MAX_PIXELS} pixels at most", _is_size),
        "valid_region": (f"two positive ints, {MAX_PIXELS} pixels at most", _is_size),
    }
    for name, (expected, holds) in expectations.items():
        if not holds(facts[name]):
            raise CiphertextError(f"{name} of an encrypted image is {expected}, got {facts[name]!r:.80}")


def _is_size(value: Any) -> bool:
    """Whether value is (height, width), small enough that a server may allocate an image of this size."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    return all(type(side) is int and side > 0 for side in value) and value[0] * value[1] <= MAX_PIXELS


def _check_pixels(pixels: torch.Tensor, family: str, patch_size: int, valid_region: tuple[int, int]) -> None:
    """Refuse pixels that do not have the dtype of the family and the size of the padded valid region."""
    dtype = torch.uint8 if CIPHERS[family].acts_on_uint8 else torch.float32
    height, width = (-(-side // patch_size) * patch_size for side in valid_region)
    if not isinstance(pixels, torch.Tensor) or pixels.dtype != dtype:
        came = pixels.dtype if isinstance(pixels, torch.Tensor) else type(pixels).__name__
        raise CiphertextError(f"pixels of the family '{family}' are a tensor of {dtype}, got {came}")
    if tuple(pixels.shape) != (3, height, width):
        raise CiphertextError(
            f"expected pixels of shape (3, {height}, {width}), which is the valid region {tuple(valid_region)} in "
            f"whole blocks of {patch_size}, got {tuple(pixels.shape)}; a ciphertext that was resized or cropped "
            "afterwards is lost: resize the photo, then encrypt"
        )
    if pixels.is_floating_point() and not torch.isfinite(pixels).all():
        raise CiphertextError("expected finite pixels, got NaN or infinity")


def _parsed_header(text: str) -> dict[str, Any]:
    """JSON text from a file -> the header, its entries complete; their values are checked by the constructor."""
    try:
        header = parse_json(text, max_bytes=_MAX_HEADER_BYTES)
    except HeaderError as error:
        raise CiphertextError(
            f"the header of the encrypted image is not JSON of at most {_MAX_HEADER_BYTES} bytes"
        ) from error
    found = header.get("format") if isinstance(header, dict) else None
    if type(found) is not int or found != _CONTAINER_FORMAT:
        raise CiphertextError(
            f"expected an encrypted image of format {_CONTAINER_FORMAT}, got {found!r:.80}; "
            "a later version of this package may have written it"
        )
    expected = {"format", *_FACTS, "sha256"}
    if set(header) != expected:
        odd = sorted(expected.symmetric_difference(header))
        raise CiphertextError(f"the header's entries should be {sorted(expected)}; missing or unknown: {odd!r:.200}")
    return header


def _png_bytes(levels: np.ndarray, header: str) -> bytes:
    """(3, height, width) uint8 -> a PNG file with the header as text chunk before the pixels."""
    info = PngImagePlugin.PngInfo()
    info.add_text(_ENTRY, header)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0))).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def _read_png(data: bytes, max_pixels: int) -> tuple[str, tuple[np.ndarray]]:
    """PNG file -> header text and (3, height, width) uint8 pixels; the size is bounded before decoding."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as image:  # reads the size and decodes nothing yet
            _check_size(image.height, image.width, max_pixels)
            image.load()
            text = getattr(image, "text", {}).get(_ENTRY)
            levels = np.array(image.convert("RGB")).transpose(2, 0, 1)
    except CiphertextError:
        raise
    except Exception as error:  # on damaged data Pillow raises OSError, SyntaxError, ValueError, zlib.error, ...
        raise CiphertextError(f"the PNG file is truncated or damaged ({error}); transfer it again") from error
    if text is None:
        raise CiphertextError(
            "the PNG file has no 'privseg' header: it is an ordinary picture, or a ciphertext whose header a program "
            "removed, which cannot be told apart; keep the file as to_file wrote it, or encrypt the photo first"
        )
    return text, (np.ascontiguousarray(levels),)


def _read_safetensors(data: bytes, max_pixels: int) -> tuple[str, tuple[np.ndarray, np.ndarray]]:
    """safetensors file -> header text, int16 values and float32 scale; refuses every other format by name."""
    other = next((name for magic, name in _FOREIGN.items() if data.startswith(magic)), None)
    if other:
        raise CiphertextError(
            f"expected a PNG or safetensors file, got {other}: lossy compression or another format after encryption "
            "destroys a ciphertext; send the file exactly as to_file wrote it"
        )
    if data[8:9] != b"{":
        raise CiphertextError("expected an encrypted image (a PNG or safetensors file of ours), got unknown content")
    try:
        header = header_from_bytes(data, max_header_bytes=2 * _MAX_HEADER_BYTES)
        kinds = {name: (entry.dtype, len(entry.shape)) for name, entry in header.tensors.items()}
        if _ENTRY not in header.metadata or kinds != {"values": ("I16", 3), "scale": ("F32", 1)}:
            raise CiphertextError(
                "expected a safetensors file with 'values' (I16, 3 dimensions), 'scale' (F32, 1) and a 'privseg' "
                f"header, got {kinds!r:.200}; it is no encrypted image"
            )
        _, height, width = header.tensors["values"].shape
        _check_size(height, width, max_pixels)
        tensors = tensors_from_bytes(data)
    except HeaderError as error:
        raise CiphertextError(f"the safetensors file is truncated or damaged ({error}); transfer it again") from error
    values, scale = tensors["values"].numpy(), tensors["scale"].numpy()
    if scale.size != 1 or not 0 < scale[0] < np.inf:
        raise CiphertextError(f"the scale of an encrypted image is one positive number, got {scale.tolist()!r:.80}")
    return header.metadata[_ENTRY], (values, scale)


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if not 0 < height * width <= max_pixels:
        raise CiphertextError(
            f"expected an image of 1 to {max_pixels} pixels, got {height} x {width}; shrink the photo, then encrypt"
        )
