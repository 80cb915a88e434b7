"""`privseg encrypt`: the files that it writes, and what it refuses."""

import io
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from helpers.leaks import assert_no_secret
from helpers.workplace import IMAGE_SIZE, processor
from hf_privseg import EncryptedImage, SecretKey
from hf_privseg.setr.keys import FAMILIES

every_family = pytest.mark.parametrize("place", FAMILIES, ids=FAMILIES, indirect=True)


@every_family
def test_encrypt_writes_what_the_processor_encrypts(place):
    place.succeed(
        "encrypt", place.folder / "image.png", "--model", place.folder / "model", "-o", place.folder / "out",
        "-k", place.key_file,
    )  # fmt: skip
    (path,) = (place.folder / "out").iterdir()
    assert path.name.startswith("image.encrypted.")
    found, expected = EncryptedImage.from_file(path), processor().encrypt(place.folder / "image.png", place.key)
    assert found.original_size == IMAGE_SIZE
    assert found.patch_size == 4
    # float families are stored as 16 bits
    assert np.allclose(found.pixels, expected.pixels, rtol=0, atol=1e-3)
    assert_no_secret(path.read_bytes(), place.key)


@every_family
def test_encrypt_with_8_bits_writes_the_8_bit_form(place):
    place.succeed("encrypt", place.folder / "image.png", "-o", place.folder / "out", "-k", place.key_file, "--bits", 8)
    (path,) = (place.folder / "out").iterdir()
    assert EncryptedImage.from_file(path).bits == place.run_json("info", path)["bits"] == 8
    message = place.fail("encrypt", place.folder / "image.png", "-o", "x", "-k", place.key_file, "--bits", 7, code=2)
    assert "expected 8, or no --bits for the usual form" in message


def test_encrypt_takes_several_images_and_the_key_from_the_environment(place, monkeypatch):
    monkeypatch.setenv("PRIVSEG_KEY", place.key.to_text())
    Image.new("RGBA", (40, 20), (255, 0, 0, 99)).save(place.folder / "other.png")
    out = place.succeed(
        "encrypt", place.folder / "image.png", place.folder / "other.png", "--output", place.folder / "out"
    )
    assert f"Wrote 2 files in {place.folder / 'out'}" in out
    names = sorted(path.name for path in (place.folder / "out").iterdir())
    assert names == ["image.encrypted.safetensors", "other.encrypted.safetensors"]
    assert EncryptedImage.from_file(place.folder / "out" / names[0]).patch_size == 16  # without --model


def test_encrypt_without_a_key_says_how_to_give_one(place):
    message = place.fail("encrypt", place.folder / "image.png", "-o", place.folder / "out")
    assert "give --key-file or set PRIVSEG_KEY" in message


def test_a_bad_key_in_the_environment_is_not_repeated(place, monkeypatch):
    monkeypatch.setenv("PRIVSEG_KEY", place.key.to_text()[:-1])
    message = place.fail("encrypt", place.folder / "image.png", "-o", place.folder / "out")
    assert "environment variable PRIVSEG_KEY" in message
    assert "has 42 characters in its last part" in message


def test_a_key_file_that_others_can_read_is_warned_of(place):
    place.key_file.chmod(0o644)
    _, _, err = place.run("encrypt", place.folder / "image.png", "-o", place.folder / "out", "-k", place.key_file)
    assert err.startswith(f"warning: other users can reach the key file {place.key_file} (mode 0644)")


def test_encrypt_refuses_a_key_other_than_the_model_s(place):
    model = place.encrypted_model()
    other = SecretKey.generate()
    other.to_file(place.folder / "other.key")
    message = place.fail(
        "encrypt", place.folder / "image.png", "--model", model, "-o", place.folder / "o", "-k",
        place.folder / "other.key",
    )  # fmt: skip
    assert f"the secret key (key fingerprint {other.fingerprint}" in message
    assert f"{model} (key fingerprint {place.key.fingerprint}" in message
    assert not (place.folder / "o").exists()


@pytest.mark.parametrize(
    ("names", "output", "message"),
    [
        pytest.param(["a.png", "b.png"], "one.safetensors", "a folder as --output for 2 images", id="one-file"),
        pytest.param(["a.png", "b/a.png"], "out", "several images would become", id="same-name"),
        pytest.param(["a.png"], "one.png", "use 'one.safetensors'", id="wrong-ending"),
        pytest.param(["a.png"], "there", "a.encrypted.safetensors exists", id="exists"),
        pytest.param(["text.png"], "out", "text.png', which cannot be read (UnidentifiedImageError)", id="no-picture"),
        pytest.param(["cut.png"], "out", "cannot be decoded", id="damaged"),
        pytest.param(["image.encrypted.safetensors"], "out", "is encrypted already", id="encrypted"),
    ],
)
def test_encrypt_refuses(place, names, output, message):
    place.encrypted_image()
    (place.folder / "b").mkdir()
    (place.folder / "there").mkdir()
    (place.folder / "there" / "a.encrypted.safetensors").touch()
    for name in ("a.png", "b.png", "b/a.png"):
        shutil.copy(place.folder / "image.png", place.folder / name)
    (place.folder / "text.png").write_text("no picture")
    Image.effect_noise((64, 64), 50).save(place.folder / "cut.png")
    os.truncate(place.folder / "cut.png", 1000)
    images = [place.folder / name for name in names]
    assert message in place.fail("encrypt", *images, "-o", place.folder / output, "-k", place.key_file)
    assert (place.folder / "there" / "a.encrypted.safetensors").stat().st_size == 0


def test_a_key_from_standard_input_is_read_once_and_never_shown(place, monkeypatch):
    model, image = place.encrypted_model(), place.folder / "image.png"

    def given(content):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    given(place.key_file.read_bytes())
    place.succeed("encrypt", image, "--model", model, "-o", place.folder / "sent", "-k", "-")
    place.succeed("encrypt", image, "--model", model, "-o", place.folder / "expected", "-k", place.key_file)
    (sent,), (expected,) = ((place.folder / name).iterdir() for name in ("sent", "expected"))
    assert sent.read_bytes() == expected.read_bytes()
    given(place.key_file.read_bytes())
    place.succeed("segment", image, "--model", model, "-o", place.folder / "map.png", "-k", "-")
    given(place.key_file.read_bytes()[:-3])
    message = place.fail("encrypt", image, "--model", model, "-o", place.folder / "none", "-k", "-")
    assert message.startswith("error: standard input: a key's text form is")
    given(b"")
    assert "standard input: " in place.fail("encrypt", image, "--model", model, "-o", place.folder / "none", "-k", "-")
