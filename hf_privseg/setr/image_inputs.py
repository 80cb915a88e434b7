"""Whatever holds an image -> its 8-bit channels, upright.

Images may be PIL images of any mode, numpy arrays, torch tensors, paths, URLs or base64 text. With three channels,
which are red, green and blue, there is one rule for each case:

    orientation     the EXIF tag is applied, so that sizes are those of the upright image
    transparency    composited over white, as transformers' processors do: what one sees is what is processed
    grey, 1 bit, CMYK, palette, ...   as `PIL.Image.convert("RGB")`
    16 bits         scaled to 8 (65535 -> 255), never clipped
    animations      the frame at hand, which is the first of a freshly opened file
    float arrays    hold [0, 1], the convention of torch, and are rounded to 8 bits
    integer arrays  hold 0..255

With one channel, images are grey: the same rules hold, and red, green and blue have to be equal. With any other number
the channels are taken as they are (so that RGBA is four channels and LA two), and have to be as many. The pages of a
TIFF file, where they all have one size and one channel each, are the channels of one image. A .npy file is its array.

Everything else raises `InvalidImageError`, which names what was expected, what came and what to do.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Union

import numpy as np
from PIL import Image

from .arrays import is_tensor, to_array
from .errors import InvalidImageError
from .image_files import decoded, decoded_pages, open_source

if TYPE_CHECKING:
    import torch

PlainImage = Union[Image.Image, np.ndarray, "torch.Tensor", str, os.PathLike[str]]

_IMAGE_NDIM = 3
_FIRST, _LAST = "channels_first", "channels_last"  # as transformers calls them


def is_single(images: object) -> bool:
    """Whether this is one image, not a list of images nor a batch of them in one array."""
    if isinstance(images, np.ndarray) or is_tensor(images):
        return images.ndim <= _IMAGE_NDIM
    return isinstance(images, str | bytes) or not isinstance(images, Sequence)


def flat_images(images: Any) -> list[Any]:
    """An image, a batch as one array, or (nested) lists of them -> flat list of single images, files opened."""
    if isinstance(images, str | os.PathLike):
        return [open_source(images)]
    if not is_single(images):
        return [image for item in images for image in flat_images(item)]
    return [images]


def image_to_levels(
    image: Any,
    *,
    num_channels: int = 3,
    convert: bool = True,
    keep_floats: bool = False,
    channels: str | None = None,
) -> np.ndarray:
    """One image -> (num_channels, height, width) uint8.

    Args:
        image: PIL image, numpy array, torch tensor, or a file of one; (height, width), channels first or last.
        num_channels: of the result; the rules are above.
        convert: False takes one or three channels as they are, too.
        keep_floats: True keeps float arrays as they are, for a caller who has scaled them already.
        channels: where the channels are, "channels_first" or "channels_last"; None infers it.

    Raises:
        InvalidImageError: no image, no pixels, damaged, too large, other channels, or values outside of the range.
    """
    as_colours = convert and num_channels in (1, 3)
    if isinstance(image, str | os.PathLike):
        image = open_source(image)
    if isinstance(image, Image.Image):
        image = _pillow_to_array(image, num_channels, as_colours)
        channels = _FIRST
    array = _channels_first(as_array(image), channels, (1, 3, 4) if as_colours else (num_channels,))
    levels = array if keep_floats and array.dtype.kind == "f" else _to_8_bits(array)
    if as_colours:
        levels = _as_rgb(levels)
        levels = levels if num_channels == 3 else _as_grey(levels)
    if len(levels) != num_channels:
        raise _other_channels(num_channels, f"{len(levels)}")
    return np.ascontiguousarray(levels)


def _pillow_to_array(image: Image.Image, num_channels: int, as_colours: bool) -> np.ndarray:
    """PIL image -> (channels, height, width): colours over white, or else its channels as they are."""
    pages = decoded_pages(image, num_channels)
    if pages and len(pages) != num_channels:
        raise _other_channels(
            num_channels,
            f"a TIFF file of {'more' if len(pages) > num_channels else len(pages)} pages, which are its channels; "
            "the page at hand alone is image.copy()",
        )
    frames = []
    for frame in pages or [decoded(image)]:
        try:
            if frame.mode in ("I", "F") or frame.mode.startswith("I;16"):  # Pillow would clip to 8 bits
                frames.append(_from_16_bits(np.array(frame)))
            else:
                frames.append(np.array(_over_white(frame) if as_colours and not pages else _without_palette(frame)))
        except (ValueError, MemoryError) as error:
            raise InvalidImageError(
                f"Pillow cannot convert an image of mode {frame.mode!r} and {frame.width} x {frame.height} pixels "
                f"({type(error).__name__}: {error})"
            ) from error
    return np.stack(frames) if frames[0].ndim < _IMAGE_NDIM else frames[0].transpose(2, 0, 1)


def _over_white(image: Image.Image) -> Image.Image:
    """PIL image of any 8-bit mode -> RGB, transparent parts over white."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _without_palette(image: Image.Image) -> Image.Image:
    """PIL image of a mode with a palette -> its colours, whose numbers mean something; other modes as they are."""
    if image.mode not in ("P", "PA"):
        return image
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _from_16_bits(array: np.ndarray) -> np.ndarray:
    """uint16 0..65535 -> uint8 0..255, rounded; other dtypes as they are."""
    return ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8) if array.dtype.kind == "u" else array


def as_array(image: Any) -> np.ndarray:
    """numpy array or torch tensor of numbers -> array with at least one pixel."""
    came = f"a {type(image).__name__}"
    if isinstance(image, np.ndarray) or is_tensor(image):
        came = f"an array of {image.dtype}"
        image = to_array(image)
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "buif":
        raise InvalidImageError(f"expected a PIL image, an array or tensor of numbers, a path or a URL, got {came}")
    # torch, to which an array may go, knows neither foreign byte orders, nor negative strides, nor extended precision
    array = np.ascontiguousarray(image, np.float64 if image.dtype.itemsize > 8 else image.dtype.newbyteorder("="))
    if not array.size:
        raise InvalidImageError(f"expected an image with pixels, got an array of shape {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidImageError("expected finite pixels, got NaN or infinity; repair or drop this image")
    return array


def _channels_first(array: np.ndarray, channels: str | None, counts: tuple[int, ...]) -> np.ndarray:
    """(height, width), (channels, height, width) or (height, width, channels) -> (channels, height, width)."""
    if array.ndim == _IMAGE_NDIM - 1:
        return array[None]
    if array.ndim != _IMAGE_NDIM:
        raise InvalidImageError(
            f"expected an image of shape (height, width), (channels, height, width) or (height, width, channels), "
            f"got {array.shape}"
        )
    if channels is None and array.shape[0] not in counts and array.shape[-1] not in counts:
        expected = "1, 3 or 4" if len(counts) > 1 else counts[0]
        raise InvalidImageError(f"expected {expected} channels, first or last, got an array of shape {array.shape}")
    channels = channels or (_FIRST if array.shape[0] in counts else _LAST)  # both: first, as in transformers
    if channels not in (_FIRST, _LAST):
        raise ValueError(f"input_data_format is {_FIRST!r} or {_LAST!r}, got {channels!r:.80}")
    return array.transpose(2, 0, 1) if channels == _LAST else array


def _to_8_bits(array: np.ndarray) -> np.ndarray:
    """uint8, bool, float in [0, 1] or integers in 0..255 -> the same shape, uint8."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    is_float = array.dtype.kind == "f"
    if is_float:
        levels = (array.astype(np.float64) * 255).round()
        advice = "floats in 0..255 become an image by .astype('uint8'); normalised ones cannot be taken"
    else:
        levels = array
        advice = "16-bit values become 8-bit ones by (array // 257).astype('uint8')"
    if levels.min() < 0 or levels.max() > 255:
        expected = "floats in [0, 1]" if is_float else "integers in 0..255"
        raise InvalidImageError(
            f"expected {expected}, got {array.dtype} from {array.min():g} to {array.max():g}; {advice}"
        )
    return levels.astype(np.uint8)


def _as_rgb(levels: np.ndarray) -> np.ndarray:
    """(1, 3 or 4, height, width) -> (3, height, width): grey is repeated, transparent parts are shown over white."""
    count = levels.shape[0]
    if count not in (1, 3, 4):
        raise InvalidImageError(f"expected 1, 3 or 4 channels, got {count} (shape {levels.shape})")
    if count < 4:
        return levels if count == 3 else levels.repeat(3, axis=0)
    if levels.dtype.kind == "f":
        return levels[:3] * levels[3:] + (1 - levels[3:])
    image = Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)))
    return np.array(_over_white(image)).transpose(2, 0, 1)


def _as_grey(levels: np.ndarray) -> np.ndarray:
    """(3, height, width) -> (1, height, width): the grey that all three are."""
    if not (levels == levels[:1]).all():
        raise InvalidImageError(
            "expected a grey image, since num_channels is 1, got one in colours; make it grey as your data needs it, "
            'for example by image.convert("L")'
        )
    return levels[:1]


def levels_to_pillow(levels: np.ndarray) -> Image.Image:
    """(1 to 4, height, width) uint8 -> PIL image of mode L, LA, RGB or RGBA, whose bands are the channels."""
    array = np.ascontiguousarray(levels.transpose(1, 2, 0))
    return Image.fromarray(array[..., 0] if len(levels) == 1 else array)


def levels_to_picture(levels: np.ndarray) -> Image.Image:
    """(channels, height, width) uint8 -> RGB picture for people: the first three channels, of one or two the first."""
    return levels_to_pillow(levels[: 3 if len(levels) >= 3 else 1]).convert("RGB")


def _other_channels(expected: int, came: str) -> InvalidImageError:
    return InvalidImageError(
        f"expected an image of {expected} channels, the processor's num_channels, got {came}; give all channels in "
        "one array or TIFF file, or set num_channels to what the model takes"
    )
