"""The ciphertext container: lossless, self-describing, and firm about whatever is not one."""

import hashlib
import io
import json
import os
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image, PngImagePlugin

from helpers.leaks import assert_no_secret
from hf_privseg import CiphertextError, EncryptedImage, SecretKey
from hf_privseg.setr.ciphers import CIPHERS

FAMILIES = list(CIPHERS)
FINGERPRINT = "0123456789abcdef"


def make(family: str = "permutation", size: tuple[int, int] = (16, 24), **facts: Any) -> EncryptedImage:
    """An encrypted image of random pixels; its facts may be replaced."""
    generator = torch.Generator().manual_seed(size[0])
    if family not in ("orthogonal", "matrix", "embedding"):
        pixels = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    else:
        pixels = torch.randn((3, *size), generator=generator) * 3
    given = {"pixels": pixels, "patch_size": 8, "original_size": (31, 47), "valid_region": size}
    return EncryptedImage(**{"family": family, "fingerprint": FINGERPRINT, **given, **facts})


def facts_of(image: EncryptedImage) -> dict[str, object]:
    names = ("family", "version", "fingerprint", "patch_size", "original_size", "valid_region")
    return {name: getattr(image, name) for name in names}


def header_of(data: bytes) -> dict[str, object]:
    if data.startswith(b"\x89PNG"):
        return json.loads(Image.open(io.BytesIO(data)).info["privseg"])
    return json.loads(json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]["privseg"])


def with_header(data: bytes, header: object) -> bytes:
    """The same pixels with another header (an object, or text as it is)."""
    text = header if isinstance(header, str) else json.dumps(header)
    if not data.startswith(b"\x89PNG"):
        return safetensors.torch.save(safetensors.torch.load(data), metadata={"privseg": text})
    return reencoded(data, text=text)


def reencoded(
    data: bytes, text: str | None = None, format: str = "PNG", change=lambda image: image, **options
) -> bytes:
    """A PNG container, opened and saved again by Pillow, with its header unless the format has none."""
    image = Image.open(io.BytesIO(data))
    info = PngImagePlugin.PngInfo()
    info.add_text("privseg", image.info["privseg"] if text is None else text)
    buffer = io.BytesIO()
    change(image).save(buffer, format, **({"pnginfo": info} if format == "PNG" else {}), **options)
    return buffer.getvalue()


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_keeps_facts_and_pixels(family, tmp_path):
    image = make(family, size=(16, 24), valid_region=(11, 24))
    image.to_file(tmp_path / f"x{image.suffix}")
    for back in (EncryptedImage.from_bytes(image.to_bytes()), EncryptedImage.from_file(tmp_path / f"x{image.suffix}")):
        assert facts_of(back) == facts_of(image)
        assert back.pixels.dtype == image.pixels.dtype
        if CIPHERS[family].acts_on_uint8:
            assert np.array_equal(back.pixels, image.pixels)
        else:
            # half a step of 16 bits; the float32 numbers themselves are rounded as well
            bound = np.abs(image.pixels).max() / 65534 * 1.01
            assert np.abs(back.pixels - image.pixels).max() <= bound
            assert np.abs(back.pixels - image.pixels).max() > bound / 4
    assert [path.name for path in tmp_path.iterdir()] == [f"x{image.suffix}"]


def test_further_round_trips_of_float_pixels_change_nothing_but_float32_rounding():
    once = EncryptedImage.from_bytes(make("orthogonal").to_bytes())
    twice = EncryptedImage.from_bytes(once.to_bytes())
    np.testing.assert_allclose(twice.pixels, once.pixels, rtol=3e-7, atol=0)


def test_float_pixels_that_are_all_zero_survive():
    image = make("orthogonal", pixels=torch.zeros(3, 16, 24))
    assert np.array_equal(EncryptedImage.from_bytes(image.to_bytes()).pixels, image.pixels)


@pytest.mark.parametrize("family", ["permutation", "orthogonal"])
def test_header_is_as_documented(family):
    image = make(family)
    data = image.to_bytes()
    header = header_of(data)
    digest = hashlib.sha256()
    if family == "permutation":
        digest.update(b"uint8[3, 16, 24]" + image.pixels.tobytes())
    else:
        tensors = safetensors.torch.load(data)
        values, scale = tensors["values"].numpy(), tensors["scale"].numpy()
        assert scale[0] == np.float32(np.abs(image.pixels).max().item() / 32767)
        digest.update(b"int16[3, 16, 24]" + values.astype("<i2").tobytes())
        digest.update(b"float32[1]" + scale.astype("<f4").tobytes())
    assert header == {
        "format": 1,
        "family": family,
        "version": 1,
        "fingerprint": FINGERPRINT,
        "patch_size": 8,
        "original_size": [31, 47],
        "valid_region": [16, 24],
        "sha256": digest.hexdigest(),
    }


def test_suffix_and_first_bytes_tell_the_form():
    assert make("permutation").suffix == ".png"
    assert make("signed_permutation").to_bytes().startswith(b"\x89PNG")
    assert make("matrix").suffix == ".safetensors"
    assert make("orthogonal").to_bytes()[8:9] == b"{"


def test_file_ending_that_misleads_is_refused_with_the_right_one(tmp_path):
    with pytest.raises(ValueError, match=r"family='permutation'.* is a \.png file, got 'x\.jpg'; use 'x\.png'"):
        make().to_file(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match=r"is a \.safetensors file, got 'x\.png'; use 'x\.safetensors'"):
        make("orthogonal").to_file(tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_existing_file_is_kept_unless_told_otherwise(tmp_path):
    path = tmp_path / "x.PNG"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"x\.PNG exists; .*overwrite=True"):
        make().to_file(path)
    assert path.read_bytes() == b"precious"
    make().to_file(path, overwrite=True)
    assert EncryptedImage.from_file(path).family == "permutation"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_no_other(step, tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    make().to_file(path)
    before = path.read_bytes()

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="disk full"):
        make(size=(32, 32)).to_file(path, overwrite=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_lossless_recompression_is_accepted():
    image = make()
    data = reencoded(image.to_bytes(), compress_level=0)
    assert data != image.to_bytes()
    assert np.array_equal(EncryptedImage.from_bytes(data).pixels, image.pixels)


def test_of_an_animated_png_one_frame_is_decoded(monkeypatch):
    image = make()
    frames = [Image.fromarray(np.full((16, 24, 3), level, np.uint8)) for level in range(5)]
    data = reencoded(image.to_bytes(), save_all=True, append_images=frames)
    with Image.open(io.BytesIO(data)) as animation:
        assert getattr(animation, "n_frames", 1) == 6
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "seek", lambda *_: pytest.fail("another frame was decoded"))
    assert np.array_equal(EncryptedImage.from_bytes(data).pixels, image.pixels)


def test_an_opaque_alpha_channel_does_not_matter():
    image = make()
    data = reencoded(image.to_bytes(), change=lambda picture: picture.convert("RGBA"))
    assert np.array_equal(EncryptedImage.from_bytes(data).pixels, image.pixels)


@pytest.mark.parametrize("format", ["JPEG", "WebP", "GIF", "BMP", "TIFF"])
def test_other_formats_are_named(format):
    with pytest.raises(CiphertextError, match=f"expected a PNG or safetensors file, got {format}: lossy compression"):
        EncryptedImage.from_bytes(reencoded(make().to_bytes(), format=format))


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((32, 24)),
        lambda image: image.crop((0, 0, 16, 16)),
        lambda image: image.rotate(90, expand=True),
    ],
    ids=["resized", "cropped", "turned"],
)
def test_other_sizes_are_found_although_the_header_survives(change):
    data = reencoded(make().to_bytes(), change=change)
    with pytest.raises(
        CiphertextError, match=r"expected pixels of shape \(3, 16, 24\).* in whole blocks of 8, got \(3, "
    ):
        EncryptedImage.from_bytes(data)


def test_one_changed_pixel_is_found():
    def change(image: Image.Image) -> Image.Image:
        levels = np.array(image)
        levels[5, 5] ^= 1
        return Image.fromarray(levels)

    with pytest.raises(CiphertextError, match=r"changed after encryption \(their SHA-256"):
        EncryptedImage.from_bytes(reencoded(make().to_bytes(), change=change))


@pytest.mark.parametrize("part", ["values", "scale"])
def test_changed_values_and_scale_of_float_families_are_found(part):
    data = make("orthogonal").to_bytes()
    tensors = safetensors.torch.load(data)
    tensors[part] = tensors[part] * 2 if part == "scale" else tensors[part] ^ 1
    with pytest.raises(CiphertextError, match="SHA-256"):
        EncryptedImage.from_bytes(safetensors.torch.save(tensors, {"privseg": json.dumps(header_of(data))}))


@pytest.mark.parametrize("family", ["permutation", "orthogonal"])
@pytest.mark.parametrize("kept", [0, 4, 8, 12, 40, 0.5, 0.9])
def test_truncated_files_are_refused_at_every_length(family, kept):
    data = make(family).to_bytes()
    with pytest.raises(CiphertextError, match=r"truncated|unknown content"):
        EncryptedImage.from_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])


def test_a_picture_without_header_is_refused_and_the_limit_is_said(tmp_path):
    make().to_picture().save(tmp_path / "image.png")
    with pytest.raises(
        CiphertextError, match=r"^image\.png: the PNG file has no 'privseg' header.*cannot be told apart"
    ):
        EncryptedImage.from_file(tmp_path / "image.png")


def test_a_safetensors_file_of_something_else_is_refused():
    foreign = safetensors.torch.save({"weight": torch.zeros(2, 2)})
    with pytest.raises(CiphertextError, match=r"'privseg' header, got \{'weight'.*no encrypted image"):
        EncryptedImage.from_bytes(foreign)
    headless = safetensors.torch.save(safetensors.torch.load(make("orthogonal").to_bytes()))
    with pytest.raises(CiphertextError, match="'privseg' header"):
        EncryptedImage.from_bytes(headless)


@pytest.mark.parametrize("scale", [[0.0], [-1.0], [float("nan")], [float("inf")], [1.0, 1.0]], ids=str)
def test_impossible_scales_are_refused(scale):
    tensors = {"values": torch.zeros(3, 16, 24, dtype=torch.int16), "scale": torch.tensor(scale)}
    header = json.dumps(header_of(make("orthogonal").to_bytes()))
    with pytest.raises(CiphertextError, match="scale of an encrypted image is one positive number, got"):
        EncryptedImage.from_bytes(safetensors.torch.save(tensors, {"privseg": header}))


def test_a_scale_that_overflows_is_refused():
    tensors = {"values": torch.full((3, 16, 24), 32767, dtype=torch.int16), "scale": torch.tensor([3e38])}
    header = json.dumps(header_of(make("orthogonal").to_bytes()))
    with pytest.raises(CiphertextError, match="finite pixels, got NaN or infinity"), np.errstate(over="ignore"):
        EncryptedImage.from_bytes(safetensors.torch.save(tensors, {"privseg": header}))


@pytest.mark.parametrize("data", [b"not an image at all", b"\0" * 100, b"PK\x03\x04" + bytes(60), b"\x80\x04K\x01."])
def test_unknown_content_is_refused(data):
    with pytest.raises(CiphertextError, match=r"expected an encrypted image \(a PNG or safetensors file of ours\)"):
        EncryptedImage.from_bytes(data)


def test_a_path_in_place_of_bytes_is_refused():
    with pytest.raises(TypeError, match="expects bytes, got str"):
        EncryptedImage.from_bytes("x.png")  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize("family", ["permutation", "orthogonal"])
@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("format", 2, r"expected an encrypted image of format 1, got 2; a later version"),
        ("format", True, "format 1, got True"),
        ("format", "1", "format 1, got '1'"),
        (
            "family",
            "rot13",
            "the key of an encrypted image: the family of a key is one of permutation, .*, got 'rot13'",
        ),
        ("family", ["permutation"], "the family of a key is .*, got a list"),
        ("version", 7, "the key of an encrypted image: the version of a key is the number 1, got 7"),
        ("version", 1.0, "the version of a key is the number 1, got 1.0"),
        ("fingerprint", "xyz", "the fingerprint of a key is 16 hexadecimal characters, got a str of 3 characters"),
        ("fingerprint", FINGERPRINT + "\n", "16 hexadecimal characters"),
        ("fingerprint", 12, "16 hexadecimal characters, got 12"),
        ("patch_size", 0, "patch_size of an encrypted image is a positive int, got 0"),
        ("patch_size", True, "positive int, got True"),
        ("patch_size", 10**12, r"whole blocks of 1000000000000, got \(3, 16, 24\)"),
        ("original_size", [31], r"original_size of an encrypted image is two positive ints, .*, got \[31\]"),
        ("original_size", [31, -1], "two positive ints"),
        ("original_size", [31, "47"], "two positive ints"),
        ("original_size", [10**6, 10**6], r"67108864 pixels at most, got \[1000000, 1000000\]"),
        ("original_size", {"height": 1}, "two positive ints"),
        ("valid_region", [17, 24], r"expected pixels of shape \(3, 24, 24\), which is the valid region \(17, 24\)"),
        ("valid_region", [8, 24], r"expected pixels of shape \(3, 8, 24\)"),
        ("valid_region", None, "valid_region of an encrypted image is two positive ints"),
        ("sha256", 5, "SHA-256"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_tampered_header_entries_are_refused(family, entry, value, message):
    data = make(family).to_bytes()
    with pytest.raises(CiphertextError, match=message):
        EncryptedImage.from_bytes(with_header(data, {**header_of(data), entry: value}))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{", "header of the encrypted image is not JSON"),
        ("[" * 3000, "not JSON"),
        ("[1]", "format 1, got None"),
        ("null", "format 1, got None"),
        ('{"format": 1, "x": 2}', "entries should be .* missing or unknown: .*'family'"),
        ('{"format": 1, "pad": "' + "x" * 5000 + '"}', "not JSON of at most 4096 bytes"),
    ],
    ids=["cut", "nested", "list", "null", "entries", "long"],
)
def test_malformed_headers_are_refused(header, message):
    with pytest.raises(CiphertextError, match=message):
        EncryptedImage.from_bytes(with_header(make().to_bytes(), header))


def test_the_wrong_container_for_a_family_is_refused():
    for family, other in (("permutation", "orthogonal"), ("orthogonal", "permutation")):
        data = make(family).to_bytes()
        with pytest.raises(CiphertextError, match=f"pixels of the family '{other}' are an array of"):
            EncryptedImage.from_bytes(with_header(data, {**header_of(data), "family": other}))


def test_an_absurd_png_size_is_refused_before_it_is_decoded(monkeypatch):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    for width, height in ((8193, 8192), (50000, 50000), (2**31 - 1, 2**31 - 1)):
        bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        bomb += chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
        with pytest.raises(CiphertextError, match=f"1 to 67108864 pixels, got {height} x {width}|decompression bomb"):
            EncryptedImage.from_bytes(bomb)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_more_pixels_than_are_wanted_is_refused(family):
    data = make(family).to_bytes()
    assert EncryptedImage.from_bytes(data, max_pixels=16 * 24).num_channels == 3
    with pytest.raises(CiphertextError, match="expected an image of 1 to 383 pixels, got 16 x 24"):
        EncryptedImage.from_bytes(data, max_pixels=16 * 24 - 1)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (
            {"pixels": torch.zeros(3, 16, 24)},
            "pixels of the family 'permutation' are an array of uint8, got float32",
        ),
        ({"pixels": [[[0]]]}, "an array of uint8, got list"),
        ({"pixels": torch.zeros(0, 16, 24, dtype=torch.uint8)}, r"shape \(1 to 1024, 16, 24\).*got \(0, 16, 24\)"),
        ({"pixels": torch.zeros(1, 3, 16, 24, dtype=torch.uint8)}, r"got \(1, 3, 16, 24\)"),
        ({"pixels": torch.zeros(3, 16, 32, dtype=torch.uint8)}, r"got \(3, 16, 32\)"),
        ({"valid_region": (16, 25)}, r"shape \(3, 16, 32\)"),
        ({"family": "caesar"}, "got 'caesar'"),
        ({"patch_size": 8.0}, "positive int, got 8.0"),
    ],
    ids=["dtype", "list", "channels", "batch", "width", "region", "family", "patch_size"],
)
def test_constructor_checks_what_it_is_given(facts, message):
    with pytest.raises(CiphertextError, match=message):
        make(**facts)


def test_constructor_refuses_float_pixels_that_are_not_finite():
    with pytest.raises(CiphertextError, match="finite pixels, got NaN or infinity"):
        make("orthogonal", pixels=torch.full((3, 16, 24), float("nan")))


def test_picture_of_uint8_pixels_is_the_pixels():
    image = make()
    assert np.array_equal(np.array(image.to_picture()), image.pixels.transpose(1, 2, 0))


def test_picture_of_float_pixels_fills_the_grey_scale():
    pixels = torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(0))
    pixels[0, 0, :2] = torch.tensor([30.0, 0.0])  # 30 alone would leave all others between 110 and 145
    levels = np.array(make("orthogonal", pixels=pixels, valid_region=(64, 64)).to_picture())
    assert levels.shape == (64, 64, 3)
    assert levels[0, :2, 0].tolist() == [255, 128]
    assert np.percentile(levels, 10) < 40
    assert np.percentile(levels, 90) > 215


def test_notebook_shows_a_png_and_for_uint8_the_container_itself():
    image = make()
    assert EncryptedImage.from_bytes(image._repr_png_()).fingerprint == FINGERPRINT
    assert Image.open(io.BytesIO(make("matrix")._repr_png_())).size == (24, 16)


def test_repr_is_short_and_holds_public_facts():
    assert repr(make()) == (
        "EncryptedImage(family='permutation', fingerprint='0123456789abcdef', patch_size=8, num_channels=3, "
        "size=(16, 24), original_size=(31, 47))"
    )


def test_facts_cannot_be_changed_afterwards():
    with pytest.raises(AttributeError):
        make().fingerprint = "f" * 16  # type: ignore[misc]  # the mistake under test


@pytest.mark.parametrize(
    "notation", ["raw", "hex", "HEX", "base64", "base64 shifted", "base64url", "text", "list", "repr", "int", "part"]
)
def test_the_leak_detector_finds_every_notation(notation):
    import base64

    key = SecretKey.generate()
    secret = base64.urlsafe_b64decode(key.to_text().rpartition(".")[2] + "=")
    leaks: dict[str, str | bytes] = {
        "raw": b"xx" + secret + b"yy",
        "hex": f"key={secret.hex()}",
        "HEX": f"key={secret.hex().upper()}",
        "base64": base64.b64encode(secret),
        "base64 shifted": base64.b64encode(b"x" + secret),
        "base64url": base64.urlsafe_b64encode(b"xy" + secret).decode(),
        "text": f"'{key.to_text()}'",
        "list": str(list(secret)),
        "repr": repr(secret),
        "int": str(int.from_bytes(secret, "big")),
        "part": secret.hex()[10:40],
    }
    for known in (key, secret):
        with pytest.raises(AssertionError, match="the secret key shows up as") as caught:
            assert_no_secret(leaks[notation], known)
        assert_no_secret(str(caught.value), key)
    assert_no_secret(f"{key!r} {key.fingerprint}", key)


def test_a_file_beyond_the_bound_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(EncryptedImage, "_max_file_bytes", 9)
    (tmp_path / "x.png").write_bytes(bytes(10))
    with pytest.raises(CiphertextError, match=r"^x\.png: expected at most 9 bytes, got more"):
        EncryptedImage.from_file(tmp_path / "x.png")
