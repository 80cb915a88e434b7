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
TIFF file, where they all have one size and one channel each, are the channels of one image.

Everything else raises `InvalidImageError`, which names what was expected, what came and what to do.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format

from .errors import InvalidImageError
from .image_files import decoded, decoded_pages, open_source

PlainImage = Image.Image | np.ndarray | torch.Tensor | str | os.PathLike[str]

_ARRAY = (np.ndarray, torch.Tensor)
_IMAGE_NDIM = 3


def is_single(images: object) -> bool:
    """Whether this is one image, not a list of images nor a batch of them in one array."""
    if isinstance(images, _ARRAY):
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
    channels: str | ChannelDimension | None = None,
) -> torch.Tensor:
    """One image -> (num_channels, height, width) uint8, on the CPU or on the device of the tensor that came.

    Args:
        image: PIL image, numpy array or torch tensor; (height, width), channels first or channels last.
        num_channels: of the result; the rules are above.
        convert: False takes one or three channels as they are, too.
        keep_floats: True keeps float arrays as they are, for a caller who has scaled them already.
        channels: where the channels are, "channels_first" or "channels_last"; None infers it.

    Raises:
        InvalidImageError: no image, no pixels, damaged, too large, other channels, or values outside of the range.
    """
    as_colours = convert and num_channels in (1, 3)
    if isinstance(image, Image.Image):
        image = _pillow_to_array(image, num_channels, as_colours)
        channels = ChannelDimension.FIRST
    array = _channels_first(as_tensor(image), channels, (1, 3, 4) if as_colours else (num_channels,))
    levels = array if keep_floats and array.is_floating_point() else _to_8_bits(array)
    if as_colours:
        levels = _as_rgb(levels)
        levels = levels if num_channels == 3 else _as_grey(levels)
    if len(levels) != num_channels:
        raise _other_channels(num_channels, f"{len(levels)}")
    return levels.contiguous()


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


def as_tensor(image: Any) -> torch.Tensor:
    """numpy array or torch tensor of numbers -> tensor with at least one pixel."""
    if isinstance(image, np.ndarray) and image.dtype.kind in "buif":
        # torch knows neither foreign byte orders, nor negative strides, nor extended precision
        dtype = np.dtype(np.float64 if image.dtype.itemsize > 8 else image.dtype.newbyteorder("="))
        image = torch.from_numpy(np.ascontiguousarray(image, dtype))
    if not isinstance(image, torch.Tensor) or image.is_complex():
        came = f"an array of {image.dtype}" if isinstance(image, _ARRAY) else f"a {type(image).__name__}"
        raise InvalidImageError(f"expected a PIL image, an array or tensor of numbers, a path or a URL, got {came}")
    if not image.numel():
        raise InvalidImageError(f"expected an image with pixels, got an array of shape {tuple(image.shape)}")
    if image.is_floating_point() and not torch.isfinite(image).all():
        raise InvalidImageError("expected finite pixels, got NaN or infinity; repair or drop this image")
    return image


def _channels_first(
    array: torch.Tensor, channels: str | ChannelDimension | None, counts: tuple[int, ...]
) -> torch.Tensor:
    """(height, width), (channels, height, width) or (height, width, channels) -> (channels, height, width)."""
    if array.ndim == _IMAGE_NDIM - 1:
        return array[None]
    if array.ndim != _IMAGE_NDIM:
        raise InvalidImageError(
            f"expected an image of shape (height, width), (channels, height, width) or (height, width, channels), "
            f"got {tuple(array.shape)}"
        )
    if channels is None:
        try:
            channels = infer_channel_dimension_format(array, num_channels=counts)  # type: ignore[arg-type]
        except ValueError:
            expected = "1, 3 or 4" if len(counts) > 1 else counts[0]
            raise InvalidImageError(
                f"expected {expected} channels, first or last, got an array of shape {tuple(array.shape)}"
            ) from None
    return array.permute(2, 0, 1) if ChannelDimension(channels) == ChannelDimension.LAST else array


def _to_8_bits(array: torch.Tensor) -> torch.Tensor:
    """uint8, bool, float in [0, 1] or integers in 0..255 -> the same shape, uint8."""
    if array.dtype == torch.uint8:
        return array
    if array.dtype == torch.bool:
        return array.to(torch.uint8) * 255
    if array.is_floating_point():
        levels = (array.to(torch.float64) * 255).round()
        advice = "floats in 0..255 become an image by .astype('uint8'); normalised ones cannot be taken"
    else:
        levels = array.to(torch.int64)
        advice = "16-bit values become 8-bit ones by (array // 257).astype('uint8')"
    lowest, highest = array.to(levels.dtype).aminmax()
    if levels.min() < 0 or levels.max() > 255:
        expected = "floats in [0, 1]" if array.is_floating_point() else "integers in 0..255"
        raise InvalidImageError(
            f"expected {expected}, got {array.dtype} from {lowest.item():g} to {highest.item():g}; {advice}"
        )
    return levels.to(torch.uint8)


def _as_rgb(levels: torch.Tensor) -> torch.Tensor:
    """(1, 3 or 4, height, width) -> (3, height, width): grey is repeated, transparent parts are shown over white."""
    count = levels.shape[0]
    if count not in (1, 3, 4):
        raise InvalidImageError(f"expected 1, 3 or 4 channels, got {count} (shape {tuple(levels.shape)})")
    if count < 4:
        return levels.expand(3, -1, -1)
    if levels.is_floating_point():
        return levels[:3] * levels[3:] + (1 - levels[3:])
    image = Image.fromarray(levels.permute(1, 2, 0).cpu().contiguous().numpy())
    return torch.from_numpy(np.array(_over_white(image))).permute(2, 0, 1).to(levels.device)


def _as_grey(levels: torch.Tensor) -> torch.Tensor:
    """(3, height, width) -> (1, height, width): the grey that all three are."""
    if not (levels == levels[:1]).all():
        raise InvalidImageError(
            "expected a grey image, since num_channels is 1, got one in colours; make it grey as your data needs it, "
            'for example by image.convert("L")'
        )
    return levels[:1]


def levels_to_pillow(levels: torch.Tensor) -> Image.Image:
    """(1 to 4, height, width) uint8 -> PIL image of mode L, LA, RGB or RGBA, whose bands are the channels."""
    array = levels.permute(1, 2, 0).cpu().contiguous().numpy()
    return Image.fromarray(array[..., 0] if len(levels) == 1 else array)


def levels_to_picture(levels: torch.Tensor) -> Image.Image:
    """(channels, height, width) uint8 -> RGB picture for people: the first three channels, of one or two the first."""
    return levels_to_pillow(levels[: 3 if len(levels) >= 3 else 1]).convert("RGB")


def _other_channels(expected: int, came: str) -> InvalidImageError:
    return InvalidImageError(
        f"expected an image of {expected} channels, the processor's num_channels, got {came}; give all channels in "
        "one array or TIFF file, or set num_channels to what the model takes"
    )
