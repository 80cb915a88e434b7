"""Images of any number of channels: grey, two, RGBA and thirteen, from every kind of input to the encrypted model."""

import io
import json
import re
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image, PngImagePlugin

from helpers.tiny_setr import FP32, make_key, tiny_model
from hf_privseg import CiphertextError, ClientEmbedding, EncryptedImage, InvalidImageError, SetrImageProcessor
from hf_privseg.setr.image_inputs import levels_to_picture
from hf_privseg.setr.keys import FAMILIES

CHANNELS = [1, 2, 4, 13]
MODES = {1: "L", 2: "LA", 4: "RGBA"}
SIZE = (20, 28)  # on the patch grid of 4, so that nothing is resized


def levels(num_channels):
    """(channels, height, width) uint8, all levels, every channel another."""
    return np.random.default_rng(num_channels).integers(0, 256, (num_channels, *SIZE), dtype=np.uint8)


def processor(num_channels, **settings):
    return SetrImageProcessor(patch_size=4, num_channels=num_channels, **settings)


def centred(num_channels):
    return torch.from_numpy(levels(num_channels)) / 127.5 - 1


def tiff(pages):
    buffer = io.BytesIO()
    first, *others = [Image.fromarray(page) for page in pages]
    first.save(buffer, "TIFF", save_all=True, append_images=others)
    return Image.open(buffer)


# ---------------------------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize("num_channels", CHANNELS)
@pytest.mark.parametrize(
    "convert",
    [
        lambda image: image,
        lambda image: image.transpose(1, 2, 0),
        torch.from_numpy,
        lambda image: torch.from_numpy(image).permute(1, 2, 0) / 255,
        lambda image: [image],
        lambda image: image[None],
    ],
    ids=["CHW", "HWC", "torch CHW", "torch HWC float", "list", "batch"],
)
def test_arrays_keep_their_channels(num_channels, convert):
    values = processor(num_channels)(convert(levels(num_channels)), return_tensors="pt").pixel_values
    torch.testing.assert_close(values[0], centred(num_channels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_channels", MODES)
@pytest.mark.parametrize("format", [None, "PNG", "TIFF"])
def test_pillow_images_keep_their_bands_transparency_included(num_channels, format):
    image = Image.fromarray(np.squeeze(levels(num_channels).transpose(1, 2, 0)), MODES[num_channels])
    if format:
        buffer = io.BytesIO()
        image.save(buffer, format)
        image = Image.open(buffer)
    values = processor(num_channels)(image, return_tensors="pt").pixel_values
    torch.testing.assert_close(values[0], centred(num_channels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("num_channels", [2, 3, 4, 13])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_pages_of_a_tiff_file_are_channels(num_channels, dtype):
    scale = {np.uint8: 1, np.uint16: 257, np.float32: np.float32(1 / 255)}[dtype]
    image = tiff(levels(num_channels).astype(dtype) * scale)
    image.seek(1)
    values = processor(num_channels)(image, return_tensors="pt").pixel_values
    torch.testing.assert_close(values[0], centred(num_channels), rtol=0, atol=1e-6)
    assert image.tell() == 1


def test_a_tiff_file_of_other_pages_is_refused_or_the_page_at_hand_taken():
    for num_channels, came in ((13, "a TIFF file of 4 pages"), (3, "a TIFF file of more pages"), (1, "of more pages")):
        with pytest.raises(InvalidImageError, match=f"an image of {num_channels} channels, .* got .*{came}"):
            processor(num_channels)(tiff(levels(4)))
    page = processor(1)(tiff(levels(4)).copy(), return_tensors="pt").pixel_values
    torch.testing.assert_close(page[0], centred(4)[:1], rtol=0, atol=1e-6)
    with_thumbnail = tiff([levels(1)[0], levels(1)[0, ::2, ::2]])
    values = processor(1)(with_thumbnail, return_tensors="pt").pixel_values
    torch.testing.assert_close(values[0], centred(1), rtol=0, atol=1e-6)


def test_the_pixels_of_all_pages_are_bounded_before_they_are_decoded(monkeypatch):
    image = tiff(levels(13))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20 * 28 * 13 // 3)
    monkeypatch.setattr(image, "load", lambda: pytest.fail("decoded"))
    with pytest.raises(InvalidImageError, match="got 28 x 20 in 13 channels; if it is no decompression bomb"):
        processor(13)(image)


def test_grey_takes_what_is_grey_in_any_form_and_refuses_colours():
    grey = Image.fromarray(levels(1)[0])
    wide = Image.fromarray(levels(1)[0].astype(np.uint16) * 257)
    for image in (
        grey,
        grey.convert("RGB"),
        grey.convert("LA"),
        grey.convert("P"),
        wide,
        np.array(grey.convert("RGB")),
    ):
        values = processor(1)(image, return_tensors="pt").pixel_values
        torch.testing.assert_close(values[0], centred(1), rtol=0, atol=1e-6)
    with pytest.raises(InvalidImageError, match="expected a grey image, since num_channels is 1, got one in colours"):
        processor(1)(levels(3))


@pytest.mark.parametrize(
    ("num_channels", "image", "message"),
    [
        (4, Image.new("RGB", (8, 8)), "an image of 4 channels, the processor's num_channels, got 3"),
        (2, Image.new("L", (8, 8)), "of 2 channels, the processor's num_channels, got 1"),
        (4, Image.new("P", (8, 8)), "of 4 channels, the processor's num_channels, got 3"),
        (13, np.zeros((8, 8, 12), np.uint8), r"13 channels, first or last, got an array of shape \(8, 8, 12\)"),
        (13, np.zeros((8, 8), np.uint8), "of 13 channels, the processor's num_channels, got 1"),
    ],
    ids=["RGB", "L", "P", "HWC", "HW"],
)
def test_other_channels_are_refused(num_channels, image, message):
    with pytest.raises(InvalidImageError, match=message):
        processor(num_channels)(image)


# --------------------------------------------------------------------------------------------------------- settings


def test_the_settings_have_one_number_for_each_channel_and_survive_saving(tmp_path):
    ours = processor(13, do_pad=True, pad_value=[0.0] * 13)
    assert (list(ours.image_mean), list(ours.image_std)) == ([0.5] * 13, [0.5] * 13)
    ours.save_pretrained(tmp_path)
    assert SetrImageProcessor.from_pretrained(tmp_path).to_dict() == ours.to_dict()
    assert SetrImageProcessor().num_channels == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_channels": 0}, "num_channels is an int from 1 to 1024, got 0"),
        ({"num_channels": True}, "num_channels is an int from 1 to 1024, got True"),
        ({"num_channels": 4, "image_mean": [0.5] * 3}, "image_mean to be one number or 4, .* got 3"),
        ({"num_channels": 4, "pad_value": [0.5] * 3}, "pad_value to be one number or 4, .* got 3"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SetrImageProcessor(**settings)


def test_a_call_may_say_the_channels_by_its_mean_alone():
    image = np.random.default_rng(0).integers(0, 256, (4, 8, 8), dtype=np.uint8)
    settings: dict[str, Any] = {"image_mean": [0.0] * 4, "image_std": [1.0] * 4, "do_convert_rgb": False}
    found = SetrImageProcessor(patch_size=4)(image, return_tensors="pt", **settings).pixel_values[0]
    torch.testing.assert_close(found, torch.from_numpy(image) / 255)


def test_padding_has_one_value_for_each_channel():
    values = np.linspace(-1, 1, 5)
    padded = processor(5, do_pad=True, pad_value=values.tolist())(np.zeros((5, 3, 6), np.uint8), return_tensors="pt")
    assert padded.pixel_values.shape == (1, 5, 4, 8)
    for channel, value in enumerate(values):
        assert (padded.pixel_values[0, channel, 3] - value).abs().max() <= 1 / 255


# ------------------------------------------------------------------------------------------------------- encryption


@pytest.mark.parametrize("num_channels", CHANNELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_an_encrypted_image_decrypts_to_the_plain_one(num_channels, family, tmp_path):
    key, process = make_key(family), processor(num_channels)
    encrypted = process.encrypt(levels(num_channels), key)
    is_png = "permutation" in family and num_channels <= 4
    assert encrypted.suffix == (".png" if is_png else ".safetensors")
    assert encrypted.num_channels == num_channels
    encrypted.to_file(tmp_path / f"x{encrypted.suffix}")
    received = EncryptedImage.from_file(tmp_path / f"x{encrypted.suffix}")
    assert np.array_equal(process.decrypt_levels(received, key), levels(num_channels))
    assert np.abs(encrypted.pixels.astype(float) - levels(num_channels)).mean() > 10
    if is_png:
        assert Image.open(tmp_path / "x.png").mode == MODES[num_channels]
        assert np.array_equal(received.pixels, encrypted.pixels)


@pytest.mark.parametrize("num_channels", MODES)
def test_decrypt_gives_an_image_with_as_many_bands(num_channels):
    key, process = make_key("permutation"), processor(num_channels)
    image = process.decrypt(process.encrypt(levels(num_channels), key), key)
    assert image.mode == MODES[num_channels]
    assert np.array_equal(np.array(image).reshape(*SIZE, num_channels), levels(num_channels).transpose(1, 2, 0))


def test_decrypt_refuses_what_pillow_cannot_hold():
    process = processor(13)
    with pytest.raises(InvalidImageError, match=r"at most 4 channels, .* got 13; .* decrypt_levels\(image"):
        process.decrypt(process.encrypt(levels(13), make_key()), make_key())


@torch.no_grad()
@pytest.mark.parametrize("num_channels", CHANNELS)
@pytest.mark.parametrize("family", [*FAMILIES, "embedding"])
def test_the_encrypted_model_gives_the_result_of_the_plain_one(num_channels, family):
    model, process = tiny_model(num_channels=num_channels), processor(num_channels)
    key = ClientEmbedding.generate(model) if family == "embedding" else make_key(family)
    image = levels(num_channels)
    plain = model(**process(image, return_tensors="pt")).logits
    model.encrypt_model(key)
    torch.testing.assert_close(model(**process(image, secret_key=key, return_tensors="pt")).logits, plain, **FP32)
    received = EncryptedImage.from_bytes(process.encrypt(image, key).to_bytes())
    bound = {"rtol": 0, "atol": 2e-3} if "permutation" not in family else FP32  # the file holds 16 bits
    torch.testing.assert_close(model(**process(received, return_tensors="pt")).logits, plain, **bound)
    assert (model(**process(image, return_tensors="pt")).logits - plain).abs().max() > 0.05


def test_the_header_names_the_channels_where_they_are_not_three():
    def header(num_channels):
        data = processor(num_channels).encrypt(levels(num_channels), make_key("permutation")).to_bytes()
        return Image.open(io.BytesIO(data)).info["privseg"]

    assert '"num_channels": 4' in header(4)
    assert "num_channels" not in header(3)


# --------------------------------------------------------------------------------------------------------- refusals


FACTS = ("family", "version", "fingerprint", "patch_size", "original_size", "valid_region")


def with_header(image, num_channels):
    """The file of an encrypted image whose header says so many channels."""
    header = {"format": 1, **{name: getattr(image, name) for name in FACTS}, "num_channels": num_channels}
    data = image.to_bytes()
    if not data.startswith(b"\x89PNG"):
        tensors = safetensors.torch.load(data)
        return safetensors.torch.save(tensors, {"privseg": json.dumps(header | {"sha256": ""})})
    info = PngImagePlugin.PngInfo()
    info.add_text("privseg", json.dumps(header | {"sha256": ""}))
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


@pytest.mark.parametrize("family", ["permutation", "orthogonal"])
@pytest.mark.parametrize("num_channels", [4, 13])
@pytest.mark.parametrize("told", [1, 9])
def test_a_header_that_names_other_channels_is_refused(family, num_channels, told):
    encrypted = processor(num_channels).encrypt(levels(num_channels), make_key(family))
    with pytest.raises(CiphertextError, match=r"channels?, as the header|channels in a PNG file|changed after"):
        EncryptedImage.from_bytes(with_header(encrypted, told))


def test_more_numbers_than_a_block_of_the_named_channels_has_are_refused():
    encrypted = processor(13).encrypt(levels(13), ClientEmbedding.generate(tiny_model(num_channels=13)))
    with pytest.raises(CiphertextError, match="at most 16 numbers for a block of 4 x 4 pixels, got 32"):
        EncryptedImage.from_bytes(with_header(encrypted, 1))


@pytest.mark.parametrize("value", [0, -1, 2000, 10**9, 2.0, True, "4", [3]])
def test_channels_out_of_range_are_refused(value):
    encrypted = processor(13).encrypt(levels(13), make_key())
    message = f"num_channels of an encrypted image is an int from 1 to 1024, got {value!r}"
    with pytest.raises(CiphertextError, match=re.escape(message)):
        EncryptedImage.from_bytes(with_header(encrypted, value))


def test_many_channels_have_few_pixels():
    """A file of few bytes must not become gigabytes: the zeros that a client embedding leaves are not stored."""
    key = ClientEmbedding.generate(tiny_model(num_channels=13))
    data = processor(13).encrypt(levels(13), key).to_bytes()
    assert EncryptedImage.from_bytes(data, max_pixels=20 * 28 * 13 // 3 + 1).num_channels == 13
    with pytest.raises(CiphertextError, match="in 13 channels, got 20 x 28"):
        EncryptedImage.from_bytes(data, max_pixels=20 * 28 * 13 // 3 - 13)


@pytest.mark.parametrize("num_channels", [1, 4, 13])
def test_image_processor_and_key_of_other_channels_are_refused(num_channels):
    encrypted = processor(num_channels).encrypt(levels(num_channels), make_key())
    with pytest.raises(CiphertextError, match=f"of 3 channels, the processor's num_channels, got {num_channels}; "):
        processor(3)(encrypted)
    embedding = ClientEmbedding.generate(tiny_model(num_channels=num_channels))
    wanted = f"{num_channels} channel" + "s" * (num_channels > 1)
    with pytest.raises(ValueError, match=f"4 pixels and {wanted}, got patches of 4 and 3 channels"):
        processor(3)(levels(3), secret_key=embedding)


# --------------------------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("num_channels", [1, 2, 3, 4, 13])
def test_a_picture_shows_the_first_three_channels_or_the_first(num_channels):
    picture = np.array(levels_to_picture(levels(num_channels)))
    shown = levels(num_channels)[[0, 1, 2] if num_channels >= 3 else [0, 0, 0]]
    assert np.array_equal(picture, shown.transpose(1, 2, 0))
    encrypted = processor(num_channels).encrypt(levels(num_channels), make_key("permutation"))
    first = encrypted.pixels[:3] if num_channels >= 3 else encrypted.pixels[:1].repeat(3, axis=0)
    assert np.array_equal(np.array(encrypted.to_picture()), first.transpose(1, 2, 0))
    assert np.array(Image.open(io.BytesIO(encrypted._repr_png_())).convert("RGB")).shape == (*SIZE, 3)
