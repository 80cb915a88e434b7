"""An encrypted image and its public facts, for a server that has no key; `image_container` describes its file."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeGuard

import numpy as np
from PIL import Image

from .arrays import is_tensor, to_array
from .block_cipher import to_blocks
from .ciphers import CIPHERS
from .ciphertext_file import CiphertextFile
from .counts import counted
from .eight_bit_blocks import EightBitBlocks
from .errors import CiphertextError, EncryptionStateError, InvalidImageError
from .image_container import FACTS, PNG_MODES, ImageContainer
from .image_inputs import levels_to_picture
from .public_facts import FORMAT_VERSION, KeyFacts
from .setting_checks import MAX_CHANNELS

MAX_PIXELS = 2**26  # 8192 x 8192; read from the file's own header before anything is decoded


@dataclass(frozen=True, eq=False, repr=False)
class EncryptedImage(CiphertextFile):
    """(channels, height, width) encrypted pixels, uint8 or float32 by family, and the public facts about them.

    Made by `SetrImageProcessor.encrypt`; `SetrImageProcessor` turns it into `pixel_values` without a key.

    Args:
        pixels: an array; a tensor becomes one. uint8 for the permutation families; float32 for the others, already
            centred (encrypted values of pixels in [-1, 1]; of any size up to sqrt(channels) patch_size, or what a
            client embedding makes of them). Sides are multiples of patch_size.
        family: the key family, a name in `CIPHERS`.
        fingerprint: of the key, 16 hexadecimal characters.
        patch_size: side of a block in pixels.
        original_size: (height, width) of the plain image; what post-processing takes as target size.
        valid_region: (height, width) at the top left that the plain image covers.
        version: format version of the key.
        step: of the compact form, whose pixels are multiples of it and take few bytes; None of every other image.
        blocks: of the 8-bit form, the pixels as `EightBitBlocks`; None of every other image.

    Raises:
        CiphertextError: a fact of the wrong type or range, or pixels that do not fit the facts.
    """

    _privseg_kind: ClassVar[str] = "encrypted image"  # recognises the class in another copy of this module
    _max_file_bytes: ClassVar[int] = 3 * 2 * MAX_PIXELS + 2**16

    pixels: np.ndarray
    family: str
    fingerprint: str
    patch_size: int
    original_size: tuple[int, int]
    valid_region: tuple[int, int]
    version: int = FORMAT_VERSION
    step: float | None = None
    blocks: EightBitBlocks | None = None

    def __post_init__(self) -> None:
        _check_facts({name: getattr(self, name) for name in FACTS})
        for name in ("original_size", "valid_region"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if is_tensor(self.pixels):
            object.__setattr__(self, "pixels", to_array(self.pixels))
        _check_pixels(self.pixels, self.family, self.patch_size, self.valid_region)
        _check_step(self.step, self.pixels.dtype)
        _check_blocks(self.blocks, self.pixels, self.patch_size, self.step)

    @property
    def facts(self) -> KeyFacts:
        """The public facts about the key that encrypted the image."""
        return KeyFacts(self.family, self.version, self.fingerprint)

    @property
    def bits(self) -> int | None:
        """Bits of a number in the file; None of the compact form, whose numbers take as many as each needs."""
        if self.step is not None:
            return None
        return 8 if self.blocks is not None or self.pixels.dtype == np.uint8 else 16

    @property
    def num_channels(self) -> int:
        """Channels of the image, as many as the plain one had."""
        return len(self.pixels)

    @property
    def suffix(self) -> str:
        """The ending of this image's file: '.png' or '.safetensors'."""
        return file_suffix(self.family, self.num_channels)

    def to_bytes(self) -> bytes:
        """The content of the file form. Exact for uint8 pixels.

        Float pixels are rounded to 16 bits: they change by at most half the scale, max |pixels| / 65534, and the
        image that `from_bytes` returns then keeps its values through further round trips, up to float32 rounding.
        The compact and the 8-bit form, which were rounded when they were made, come back bit for bit.
        """
        facts = {name: getattr(self, name) for name in FACTS}
        ends_in_zeros = CIPHERS[self.family].ends_in_zeros
        return ImageContainer.of(
            self.pixels, facts, ends_in_zeros=ends_in_zeros, step=self.step, blocks=self.blocks
        ).to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes, *, max_pixels: int | None = None) -> "EncryptedImage":
        """The content of a PNG or safetensors file that `to_bytes` wrote -> the encrypted image.

        Args:
            data: the content.
            max_pixels: of the encrypted image, height times width, MAX_PIXELS without it; a larger one is refused
                before it is decoded. Of more than three channels there are fewer pixels in proportion.

        Raises:
            CiphertextError: another format, no header, wrong types or version, too large, damaged, resized, changed.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"EncryptedImage.from_bytes expects bytes, got {type(data).__name__}")
        max_pixels = MAX_PIXELS if max_pixels is None else max_pixels
        container = ImageContainer.from_bytes(data, max_pixels=max_pixels)
        facts = {name: container.header[name] for name in FACTS}
        _check_facts(facts)
        ends_in_zeros = CIPHERS[facts["family"]].ends_in_zeros
        pixels = container.pixels(patch_size=facts["patch_size"], ends_in_zeros=ends_in_zeros, max_pixels=max_pixels)
        image = cls(pixels=pixels, **facts, step=container.step, blocks=container.blocks)
        if not container.is_intact():
            raise CiphertextError(
                "the pixels were changed after encryption (their SHA-256 is not the one in the header): by lossy "
                "compression, an editor or a transmission error; send the file exactly as to_file wrote it"
            )
        return image

    def to_picture(self) -> Image.Image:
        """RGB picture that shows people what can be seen in it; float families lose data on the way (0 is grey).

        Of more than three channels it shows the first three, of two the first.
        Their values from 1.5 standard deviations on become black or white. A few large values would otherwise leave
        the rest an even grey, and the ciphertext would look better protected than it is.
        """
        levels = self.pixels
        if levels.dtype.kind == "f":
            spread = max(1.5 * levels.std(dtype=np.float64), float(np.finfo(levels.dtype).tiny))
            levels = (levels / spread * 127.5 + 127.5).round().clip(0, 255).astype(np.uint8)
        return levels_to_picture(levels)

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the PNG container itself where it is grey or RGB, else a picture."""
        if self.suffix == ".png" and self.num_channels in (1, 3):
            return self.to_bytes()
        buffer = io.BytesIO()
        self.to_picture().save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        return (
            f"EncryptedImage(family={self.family!r}, fingerprint={self.fingerprint!r}, patch_size={self.patch_size}, "
            f"num_channels={self.num_channels}, size={tuple(self.pixels.shape[-2:])}, "
            f"original_size={self.original_size})"
        )


def file_suffix(family: str, num_channels: int) -> str:
    """The ending of the files of encrypted images of a family and number of channels: '.png' or '.safetensors'."""
    return ".png" if CIPHERS[family].acts_on_uint8 and num_channels in PNG_MODES else ".safetensors"


def is_encrypted_image(value: object) -> TypeGuard[EncryptedImage]:
    """Whether `value` is an `EncryptedImage`, of this or (with remote code) another copy of this module."""
    return getattr(type(value), "_privseg_kind", None) == EncryptedImage._privseg_kind


def check_ciphertexts(
    images: Sequence[object], patch_size: int, num_channels: int, settings: Mapping[str, object]
) -> None:
    """Refuse what a processor cannot do to encrypted images, or not without being noticed.

    Args:
        images: what was given to the processor.
        patch_size, num_channels: the processor's.
        settings: what was given beside the images, by name; None is not given.

    Raises:
        InvalidImageError: plain and encrypted images are mixed.
        EncryptionStateError: there is a secret_key.
        CiphertextError: there is a setting that would change the pixels, or an image has other blocks or channels.
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
        if image.num_channels != num_channels:
            raise CiphertextError(
                f"expected an encrypted image of {counted(num_channels, 'channel')}, the processor's num_channels, "
                f"got {image.num_channels}; encrypt with the processor of the model"
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


def _is_size(value: object) -> bool:
    """Whether value is (height, width), small enough that a server may allocate an image of this size."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    return all(type(side) is int and side > 0 for side in value) and value[0] * value[1] <= MAX_PIXELS


def _check_step(step: object, dtype: np.dtype) -> None:
    """Refuse a step that is neither None nor a positive float of float pixels."""
    if step is not None and (dtype.kind != "f" or not isinstance(step, float) or not 0 < step < np.inf):
        raise CiphertextError(
            f"the step of an encrypted image is a positive float, and only float pixels have one, got {step!r:.80} "
            f"and {dtype} pixels"
        )


def _check_blocks(blocks: EightBitBlocks | None, pixels: np.ndarray, patch_size: int, step: float | None) -> None:
    """Refuse blocks beside a step or 8-bit pixels, and other blocks than the pixels have."""
    if blocks is None:
        return
    grid = tuple(side // patch_size for side in pixels.shape[-2:])
    if pixels.dtype.kind != "f" or step is not None or blocks.scale.shape != grid:
        raise CiphertextError(
            f"only float pixels without a step have the 8-bit form, with blocks of their grid {grid}, got a grid of "
            f"{blocks.scale.shape}, {pixels.dtype} pixels and the step {step!r}"
        )
    first = to_blocks(pixels[:, :patch_size], patch_size)[0]
    length = blocks.values.shape[-1]
    if length > first.shape[-1] or not np.array_equal(blocks.restored(rows=1), first[..., :length]):
        raise CiphertextError(
            "the blocks of an encrypted image in the 8-bit form are its pixels, got those of others; leave them out "
            "where the pixels are changed"
        )


def _check_pixels(pixels: Any, family: str, patch_size: int, valid_region: tuple[int, int]) -> None:
    """Refuse pixels that do not have the dtype of the family and the size of the padded valid region."""
    dtype = np.uint8 if CIPHERS[family].acts_on_uint8 else np.float32
    height, width = (-(-side // patch_size) * patch_size for side in valid_region)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != dtype:
        came = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise CiphertextError(f"pixels of the family '{family}' are an array of {dtype.__name__}, got {came}")
    channels = len(pixels) if pixels.ndim == 3 and 1 <= len(pixels) <= MAX_CHANNELS else f"1 to {MAX_CHANNELS}"
    if pixels.shape != (channels, height, width):
        raise CiphertextError(
            f"expected pixels of shape ({channels}, {height}, {width}), which is the valid region "
            f"{tuple(valid_region)} in whole blocks of {patch_size}, got {pixels.shape}; a ciphertext that was "
            "resized or cropped afterwards is lost: resize the plain image, then encrypt"
        )
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise CiphertextError("expected finite pixels, got NaN or infinity")
