"""Whatever holds an image becomes 8-bit channels, upright, or is refused with a reason."""

import base64
import io
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image

from helpers.leaks import assert_no_secret
from hf_privseg import InvalidImageError, SecretKey
from hf_privseg.client.http_calls import httpx
from hf_privseg.setr.image_inputs import flat_images, image_to_levels, is_single
from hf_privseg.setr.segmentation_map_inputs import flat_segmentation_maps, segmentation_map_to_indices

RNG = np.random.default_rng(7)
PIXELS = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)  # height 20, width 30
IMAGE = Image.fromarray(PIXELS)


def levels(image: Any, **options: Any) -> np.ndarray:
    """image_to_levels, channels last."""
    result = image_to_levels(image, **options)
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous
    return result.transpose(1, 2, 0)


def file_bytes(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_every_opaque_mode_is_what_pillow_converts_it_to(mode):
    image = IMAGE.convert(mode)
    assert np.array_equal(levels(image), np.array(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGBa"])
def test_transparency_is_shown_over_white(mode):
    rgba = IMAGE.convert("RGBA")
    rgba.putalpha(Image.fromarray(np.repeat([[0, 128, 255]], 20, axis=0).repeat(10, axis=1).astype(np.uint8)))
    image = rgba.convert(mode)
    shown = levels(image).astype(int)
    solid = np.array(image.convert("RGBA").convert("RGB")).astype(int)
    assert (shown[:, :10] == 255).all()
    assert abs(shown[:, 10:20] - (solid[:, 10:20] * 128 + 255 * 127) / 255).max() <= 1
    assert np.array_equal(shown[:, 20:], solid[:, 20:])


@pytest.mark.parametrize("format", ["GIF", "PNG"])
def test_a_palette_with_a_transparent_colour_is_shown_over_white(format):
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    loaded = Image.open(io.BytesIO(file_bytes(image, format, transparency=0)))
    assert levels(loaded).tolist() == [[[255, 255, 255], [200, 100, 50]]]


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_16_bits_are_scaled_and_not_clipped(mode):
    values = np.array([[0, 128, 129, 257, 32768, 65534, 65535]], "<u2" if mode == "I;16" else ">u2")
    image = Image.frombytes(mode, (7, 1), values.tobytes())
    assert levels(image)[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255, 255]


def test_a_16_bit_png_from_a_file_is_scaled(tmp_path):
    Image.fromarray((np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)).save(tmp_path / "x.png")
    (image,) = flat_images(tmp_path / "x.png")
    assert levels(image)[..., 1].ravel().tolist() == list(range(256))


def test_32_bit_integers_and_floats_of_pillow_follow_the_rules_of_arrays():
    assert levels(Image.fromarray(np.array([[0, 255]], np.int32)))[0, :, 2].tolist() == [0, 255]
    assert levels(Image.fromarray(np.array([[0, 1]], np.float32)))[0, :, 2].tolist() == [0, 255]
    with pytest.raises(InvalidImageError, match=r"integers in 0\.\.255, got int32 from 0 to 65535; 16-bit"):
        levels(Image.fromarray(np.array([[0, 65535]], np.int32)))
    with pytest.raises(InvalidImageError, match=r"floats in \[0, 1\], got float32 from 0 to 255; floats in 0\.\.255"):
        levels(Image.fromarray(np.array([[0, 255]], np.float32)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.open(io.BytesIO(file_bytes(IMAGE, "PNG", exif=exif)))
    turned = {1: 0, 2: 0, 3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}[orientation]
    upright = np.rot90(PIXELS, turned)
    if orientation in (2, 4):
        upright = upright[:, ::-1]
    if orientation in (5, 7):
        upright = upright[::-1]
    assert np.array_equal(levels(stored), upright)


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    (image,) = flat_images(str(tmp_path / "x.gif"))
    assert levels(image)[0, 0].tolist() == [255, 0, 0]


CHANNELS_FIRST = PIXELS.transpose(2, 0, 1)


@pytest.mark.parametrize(
    "image",
    [
        PIXELS,
        CHANNELS_FIRST,
        torch.from_numpy(PIXELS),
        torch.from_numpy(CHANNELS_FIRST.copy()),
        PIXELS[::-1][::-1],
        PIXELS.astype(np.int64),
        PIXELS.astype(">u2"),
        torch.from_numpy(PIXELS.astype(np.uint16)),
        PIXELS / 255,
        (PIXELS / 255).astype(np.longdouble),
        torch.from_numpy(PIXELS).float() / 255,
        torch.from_numpy(PIXELS).half() / 255,
        PIXELS / 255 + 1e-7,
        np.dstack([PIXELS, np.full((20, 30), 255, np.uint8)]),
        np.dstack([PIXELS, np.full((20, 30), 255)]) / 255,
    ],
    ids=[
        *("HWC", "CHW", "torch HWC", "torch CHW", "strides", "int64", "big endian", "torch uint16"),
        *("float64", "longdouble", "torch float32", "torch float16", "rounding above 1", "RGBA", "float RGBA"),
    ],
)
def test_arrays_of_every_layout_and_dtype_give_the_same_pixels(image):
    assert np.array_equal(levels(image), PIXELS)


@pytest.mark.parametrize(
    "image",
    [
        PIXELS[..., 0],
        PIXELS[..., :1],
        CHANNELS_FIRST[:1],
        torch.from_numpy(PIXELS)[..., 0],
        Image.fromarray(PIXELS[..., 0]),
    ],
    ids=["HW", "HW1", "1HW", "torch HW", "PIL"],
)
def test_grey_images_are_repeated(image):
    assert np.array_equal(levels(image), PIXELS[..., :1].repeat(3, axis=2))


def test_one_bit_arrays_are_black_and_white():
    assert levels(np.array([[True, False]]))[0, :, 0].tolist() == [255, 0]


def test_transparent_arrays_and_pictures_agree():
    rgba = RNG.integers(0, 256, (20, 30, 4), dtype=np.uint8)
    expected = levels(Image.fromarray(rgba))
    assert np.array_equal(levels(rgba), expected)
    assert np.array_equal(levels(torch.from_numpy(rgba).permute(2, 0, 1)), expected)


def test_the_layout_can_be_told_where_it_is_ambiguous():
    image = RNG.integers(0, 256, (3, 5, 3), dtype=np.uint8)
    assert np.array_equal(levels(image, channels="channels_last"), image)
    assert np.array_equal(levels(image, channels="channels_first"), image.transpose(1, 2, 0))


def test_channels_stay_as_they_are_without_conversion():
    hsv = IMAGE.convert("HSV")
    assert np.array_equal(levels(hsv, convert=False), np.array(hsv))
    with pytest.raises(InvalidImageError, match="an image of 3 channels, the processor's num_channels, got 1"):
        image_to_levels(IMAGE.convert("L"), convert=False)
    with pytest.raises(InvalidImageError, match=r"expected 3 channels, first or last, got .* \(20, 30, 4\)"):
        image_to_levels(np.zeros((20, 30, 4), np.uint8), convert=False)


def test_floats_that_the_caller_scaled_can_be_kept():
    image = torch.randn(3, 4, 5)
    assert np.array_equal(image_to_levels(image, keep_floats=True), image.numpy())
    transparent = torch.cat([torch.ones(3, 1, 1), torch.tensor([[[0.25]]])])
    assert image_to_levels(transparent - torch.tensor([1.0, 0, 0, 0])[:, None, None], keep_floats=True)[
        :, 0, 0
    ].tolist() == [0.75, 1.0, 1.0]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((4, 6, 3), np.nan), "expected finite pixels, got NaN or infinity; repair or drop"),
        (torch.full((3, 4, 6), float("inf")), "expected finite pixels, got NaN or infinity"),
        (np.full((4, 6, 3), 1.5), r"floats in \[0, 1\], got float64 from 1\.5 to 1\.5"),
        (np.full((4, 6, 3), -0.25), r"from -0\.25 to -0\.25"),
        (np.full((4, 6, 3), -3), r"integers in 0\.\.255, got int64 from -3 to -3"),
        (np.full((4, 6, 3), 256, np.uint16), r"got uint16 from 256 to 256; 16-bit values become 8-bit"),
        (np.zeros((0, 6, 3), np.uint8), r"image with pixels, got an array of shape \(0, 6, 3\)"),
        (torch.zeros(3, 5, 0), r"got an array of shape \(3, 5, 0\)"),
        (Image.new("RGB", (0, 5)), "image with pixels, got one of 0 x 5"),
        (np.zeros((5, 6, 2), np.uint8), r"1, 3 or 4 channels, first or last, got an array of shape \(5, 6, 2\)"),
        (np.zeros(5, np.uint8), r"\(height, width, channels\), got \(5,\)"),
        (np.zeros((5, 6, 3), complex), "array or tensor of numbers, a path or a URL, got an array of complex128"),
        (np.array([["a"]]), "got an array of <U1"),
        (np.array([[object()]]), "got an array of object"),
        (torch.zeros(3, 4, 6, dtype=torch.complex64), r"got an array of torch\.complex64"),
        (None, "got a NoneType"),
        ({"image": IMAGE}, "got a dict"),
        (
            Image.new("La", (4, 4)),
            "Pillow cannot convert an image of mode 'La' and 4 x 4 pixels \\(ValueError: conversion",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_image_is_refused_with_what_came(image, message):
    with pytest.raises(InvalidImageError, match=message):
        image_to_levels(image)


def test_five_channels_are_refused_even_if_their_place_is_told():
    with pytest.raises(InvalidImageError, match=r"expected 1, 3 or 4 channels, got 5 \(shape \(5, 4, 6\)\)"):
        image_to_levels(np.zeros((4, 6, 5), np.uint8), channels="channels_last")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WebP"])
def test_truncated_files_are_refused(format, tmp_path):
    data = file_bytes(IMAGE.resize((300, 200)), format)
    (tmp_path / "cut.img").write_bytes(data[: len(data) // 2])
    # WebP is decoded when it is opened, the others when their pixels are needed
    with pytest.raises(
        InvalidImageError, match=r"cannot be decoded; .*truncated, damaged|cut\.img', which cannot be read"
    ):
        image_to_levels(flat_images(tmp_path / "cut.img")[0])


def test_a_closed_file_is_refused(tmp_path):
    IMAGE.save(tmp_path / "x.png")
    image = Image.open(tmp_path / "x.png")
    image.close()
    with pytest.raises(InvalidImageError, match="cannot be decoded"):
        image_to_levels(image)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch):
    image = Image.open(io.BytesIO(file_bytes(IMAGE, "PNG")))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20 * 30 - 1)
    monkeypatch.setattr(image, "load", lambda: pytest.fail("decoded"))
    with pytest.raises(InvalidImageError, match="at most 599 pixels, got 30 x 20; if it is no decompression bomb"):
        image_to_levels(image)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert image_to_levels(IMAGE).shape == (3, 20, 30)


class Web:
    """A stand-in for the HTTP session: one picture, everything else is missing."""

    def get(self, url: str, follow_redirects: bool) -> httpx.Response:
        found = url == "https://example.org/image" and follow_redirects
        request = httpx.Request("GET", url)
        return httpx.Response(
            200 if found else 404, content=file_bytes(IMAGE, "PNG") if found else b"", request=request
        )


def test_paths_urls_and_base64_are_opened(tmp_path, monkeypatch):
    IMAGE.save(tmp_path / "x.png")
    monkeypatch.setattr(huggingface_hub, "get_session", Web)
    text = base64.b64encode((tmp_path / "x.png").read_bytes()).decode()
    sources = [
        tmp_path / "x.png",
        str(tmp_path / "x.png"),
        "https://example.org/image",
        text,
        f"data:image/png;base64,{text}",
    ]
    for source in sources:
        assert np.array_equal(levels(flat_images(source)[0]), PIXELS)
    assert len(flat_images(sources)) == len(sources)
    (opened,) = flat_segmentation_maps(tmp_path / "x.png")
    assert np.array_equal(segmentation_map_to_indices(opened.getchannel(0)), PIXELS[..., 0])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("missing.png", r"got 'missing\.png', which cannot be read \(Error\); check the name"),
        (Path("no/such/image.jpeg"), r"got 'no/such/image\.jpeg'"),
        ("https://example.org/gone.jpg", r"gone\.jpg', which cannot be read \(HTTPStatusError\)"),
        ("", r"got a text of 0 characters, which cannot be read \(UnidentifiedImageError\)"),
        ("x" * 44, "got a text of 44 characters"),
        (".", r"got .\.., which cannot be read \(IsADirectoryError\)"),
    ],
    ids=["name", "path", "URL", "empty", "text", "folder"],
)
def test_sources_that_cannot_be_read_are_refused(source, message, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_session", Web)
    with pytest.raises(InvalidImageError, match=message) as caught:
        flat_images(source)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("form", ["text", "hex", "bytes", "object"])
def test_a_key_in_the_place_of_an_image_is_not_repeated(form):
    key = SecretKey.generate()
    secret = base64.urlsafe_b64decode(key.to_text().rpartition(".")[2] + "=")
    value = {"text": key.to_text(), "hex": secret.hex(), "bytes": secret, "object": key}[form]
    for use in (
        lambda: image_to_levels(flat_images(value)[0]),
        lambda: segmentation_map_to_indices(flat_segmentation_maps(value)[0]),
    ):
        with pytest.raises(InvalidImageError) as caught:
            use()
        assert_no_secret(str(caught.value), key)


def test_nested_lists_and_batches_are_flattened():
    batch = np.stack([PIXELS, PIXELS])
    assert len(flat_images([[IMAGE, batch], (PIXELS,)])) == 4
    assert flat_images([]) == []
    assert len(flat_images(batch)) == 2


@pytest.mark.parametrize(
    ("images", "single"),
    [
        (IMAGE, True),
        (PIXELS, True),
        (PIXELS[..., 0], True),
        ("x.png", True),
        (Path("x.png"), True),
        ([IMAGE], False),
        ((IMAGE,), False),
        (PIXELS[None], False),
        (torch.zeros(1, 3, 4, 4), False),
    ],
    ids=["PIL", "HWC", "HW", "str", "path", "list", "tuple", "batch", "torch batch"],
)
def test_single_images_are_told_from_batches(images, single):
    assert is_single(images) is single
