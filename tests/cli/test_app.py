"""The command line: what it writes, what it refuses and how, and that no key ever appears in what it prints."""

import json
import os
import shutil
import stat
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.leaks import assert_no_secret
from helpers.tiny_setr import tiny_config
from helpers.workplace import IMAGE_SIZE, processor
from hf_privseg import EncryptedImage, SecretKey, SetrForSemanticSegmentation, SetrImageProcessor, SetrModel
from hf_privseg import checkpoints as checkpoints_module
from hf_privseg.cli.app import main
from hf_privseg.setr.keys import FAMILIES

COMMANDS = [
    "keygen", "encrypt-model", "decrypt-model", "rekey", "make-rekey-update", "apply-rekey-update", "encrypt",
    "segment", "info", "demo", "convert", "make-client-embedding", "audit",
]  # fmt: skip


every_family = pytest.mark.parametrize("place", FAMILIES, ids=FAMILIES, indirect=True)


# ------------------------------------------------------------------------------------------------ help and usage


@pytest.mark.parametrize("command", COMMANDS, ids=COMMANDS)
def test_help_teaches_with_an_example(place, command):
    assert f"Example: privseg {command}" in place.succeed(command, "--help")


def test_help_lists_every_command(place):
    listing = place.succeed("--help")
    assert all(f"│ {command} " in listing for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments", [["segment"], ["frobnicate"], ["encrypt", "absent.png", "-o", "x"]], ids=" ".join
)
def test_wrong_usage_ends_with_2(place, arguments):
    place.fail(*arguments, code=2)


@pytest.mark.parametrize("position", [0, 1, 3], ids=["command", "argument", "option"])
def test_a_key_among_the_arguments_is_refused_and_not_repeated(place, position):
    arguments = ["segment", "model", "--key-file", "secret.key"]
    arguments[position] = place.key.to_text()
    assert "a key is among the arguments" in place.fail(*arguments, code=2)


def test_a_crash_shows_no_local_variables(place, monkeypatch):
    def crash(family):
        text = place.key.to_text()
        raise RuntimeError(f"boom {len(text)}")

    monkeypatch.setattr(SecretKey, "generate", crash)
    with pytest.raises(RuntimeError, match="boom") as crashed:
        main(["keygen"])
    sys.excepthook(crashed.type, crashed.value, crashed.tb)
    printed = place.capsys.readouterr().err
    assert "boom" in printed
    assert_no_secret(printed.replace("\n", ""), place.key)


# -------------------------------------------------------------------------------------------------------- keygen


@pytest.mark.parametrize("family", FAMILIES, ids=FAMILIES)
def test_keygen_writes_a_private_file_and_says_the_fingerprint(place, family):
    path = place.folder / "new.key"
    out = place.succeed("keygen", path, "--family", family)
    key = SecretKey.from_file(path)
    assert key.family == family
    assert f"family {family}, fingerprint {key.fingerprint}" in out
    assert_no_secret(out, key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 or os.name != "posix"


def test_keygen_replaces_a_key_only_if_forced(place):
    assert f"{place.key_file} exists" in (message := place.fail("keygen", place.key_file))
    assert "--force" in message
    assert SecretKey.from_file(place.key_file) == place.key
    place.succeed("keygen", place.key_file, "--force")
    assert SecretKey.from_file(place.key_file) != place.key


def test_keygen_names_the_families_it_knows(place):
    message = place.fail("keygen", place.folder / "new.key", "--family", "rot13", code=2)
    assert "expected one of permutation" in message
    assert "got 'rot13'" in message
    assert not (place.folder / "new.key").exists()


# ------------------------------------------------------------------------------------------------- encrypt-model


@every_family
def test_encrypt_model_writes_the_encrypted_model_complete(place):
    output = place.encrypted_model()
    facts = {"family": place.key.family, "version": 1, "fingerprint": place.key.fingerprint}
    assert json.loads((output / "config.json").read_text())["encryption"] == facts
    assert SetrImageProcessor.from_pretrained(output).patch_size == 4
    assert (output / "LICENSE.md").read_text() == "terms"
    expected = SetrForSemanticSegmentation.from_pretrained(place.folder / "model").encrypt_model(place.key)
    found = SetrForSemanticSegmentation.from_pretrained(output).state_dict()
    assert all(torch.equal(value, found[name]) for name, value in expected.state_dict().items())
    for path in output.rglob("*"):
        assert_no_secret(path.read_bytes(), place.key)


def test_encrypt_model_replaces_a_model_only_if_forced(place):
    output = place.encrypted_model()
    arguments = ("encrypt-model", place.folder / "model", output, "-k", place.key_file)
    assert f"{output} exists; choose another folder, or replace it with --force" in place.fail(*arguments)
    (output / "stale").touch()
    place.succeed(*arguments, "--force")
    assert not (output / "stale").exists()
    assert not list(place.folder.glob(".*"))


def test_encrypt_model_never_replaces_a_folder_that_holds_no_model(place):
    precious = place.folder / "precious"
    precious.mkdir()
    (precious / "thesis.txt").touch()
    message = place.fail("encrypt-model", place.folder / "model", precious, "-k", place.key_file, "--force")
    assert f"{precious} exists and holds no model" in message
    assert (precious / "thesis.txt").exists()


def test_encrypt_model_leaves_nothing_half_done(place, monkeypatch):
    def disk_full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(SetrImageProcessor, "save_pretrained", disk_full)
    before = sorted(place.folder.iterdir())
    arguments = ("encrypt-model", place.folder / "model", place.folder / "out", "-k", place.key_file)
    assert "No space left" in place.fail(*arguments)
    assert sorted(place.folder.iterdir()) == before


def test_encrypt_model_refuses_an_encrypted_model(place):
    message = place.fail("encrypt-model", place.encrypted_model(), place.folder / "twice", "-k", place.key_file)
    assert f"is encrypted (key fingerprint {place.key.fingerprint}, family orthogonal, version 1)" in message


def test_a_model_of_another_type_is_refused(place):
    other = place.folder / "vit"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "vit"}')
    message = place.fail("segment", other, place.folder / "photo.png", "-o", place.folder / "out")
    assert f"expected a model of type 'setr', got {other}, which is of type 'vit'" in message


def test_an_encoder_without_its_head_is_refused(place):
    encoder = place.folder / "encoder"
    SetrModel(tiny_config()).save_pretrained(encoder)
    processor().save_pretrained(encoder)
    message = place.fail("segment", encoder, place.folder / "photo.png", "-o", place.folder / "out")
    assert "which lacks" in message
    assert "decode_head.conv_seg" in message


def test_a_model_that_is_not_there_is_named(place):
    message = place.fail("encrypt-model", place.folder / "nowhere", place.folder / "out", "-k", place.key_file)
    assert f"got {place.folder / 'nowhere'}" in message


def test_default_is_the_embedded_checkpoint(place, monkeypatch):
    monkeypatch.setattr(checkpoints_module, "_DEFAULT", place.folder / "model")
    place.succeed("segment", "default", place.folder / "photo.png", "-o", place.folder / "out.png")
    assert place.label_map("out.png").shape == IMAGE_SIZE


def test_a_missing_embedded_checkpoint_is_said(place, monkeypatch):
    monkeypatch.setattr(checkpoints_module, "_DEFAULT", place.folder / "gone")
    message = place.fail("segment", "default", place.folder / "photo.png", "-o", place.folder / "out")
    assert f"the embedded checkpoint is not at {place.folder / 'gone'}" in message


# ------------------------------------------------------------------------------------------------------- encrypt


@every_family
def test_encrypt_writes_what_the_processor_encrypts(place):
    place.succeed(
        "encrypt", place.folder / "photo.png", "--model", place.folder / "model", "-o", place.folder / "out",
        "-k", place.key_file,
    )  # fmt: skip
    (path,) = (place.folder / "out").iterdir()
    assert path.name.startswith("photo.encrypted.")
    found, expected = EncryptedImage.from_file(path), processor().encrypt(place.folder / "photo.png", place.key)
    assert found.original_size == IMAGE_SIZE
    assert found.patch_size == 4
    # float families are stored as 16 bits
    assert torch.allclose(found.pixels.float(), expected.pixels.float(), rtol=0, atol=1e-3)
    assert_no_secret(path.read_bytes(), place.key)


def test_encrypt_takes_several_photos_and_the_key_from_the_environment(place, monkeypatch):
    monkeypatch.setenv("PRIVSEG_KEY", place.key.to_text())
    Image.new("RGBA", (40, 20), (255, 0, 0, 99)).save(place.folder / "other.png")
    out = place.succeed(
        "encrypt", place.folder / "photo.png", place.folder / "other.png", "--output", place.folder / "out"
    )
    assert f"Wrote 2 files in {place.folder / 'out'}" in out
    names = sorted(path.name for path in (place.folder / "out").iterdir())
    assert names == ["other.encrypted.safetensors", "photo.encrypted.safetensors"]
    assert EncryptedImage.from_file(place.folder / "out" / names[0]).patch_size == 16  # without --model


def test_encrypt_without_a_key_says_how_to_give_one(place):
    message = place.fail("encrypt", place.folder / "photo.png", "-o", place.folder / "out")
    assert "give --key-file or set PRIVSEG_KEY" in message


def test_a_bad_key_in_the_environment_is_not_repeated(place, monkeypatch):
    monkeypatch.setenv("PRIVSEG_KEY", place.key.to_text()[:-1])
    message = place.fail("encrypt", place.folder / "photo.png", "-o", place.folder / "out")
    assert "environment variable PRIVSEG_KEY" in message
    assert "has 42 characters in its last part" in message


def test_a_key_file_that_others_can_read_is_warned_of(place):
    place.key_file.chmod(0o644)
    _, _, err = place.run("encrypt", place.folder / "photo.png", "-o", place.folder / "out", "-k", place.key_file)
    assert err.startswith(f"warning: other users can reach the key file {place.key_file} (mode 0644)")


def test_encrypt_refuses_a_key_other_than_the_model_s(place):
    model = place.encrypted_model()
    other = SecretKey.generate()
    other.to_file(place.folder / "other.key")
    message = place.fail(
        "encrypt", place.folder / "photo.png", "--model", model, "-o", place.folder / "o", "-k",
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
        pytest.param(["text.png"], "out", "text.png cannot be read as an image", id="no-picture"),
        pytest.param(["cut.png"], "out", "cannot be decoded", id="damaged"),
        pytest.param(["photo.encrypted.safetensors"], "out", "is encrypted already", id="encrypted"),
    ],
)
def test_encrypt_refuses(place, names, output, message):
    place.encrypted_photo()
    (place.folder / "b").mkdir()
    (place.folder / "there").mkdir()
    (place.folder / "there" / "a.encrypted.safetensors").touch()
    for name in ("a.png", "b.png", "b/a.png"):
        shutil.copy(place.folder / "photo.png", place.folder / name)
    (place.folder / "text.png").write_text("no picture")
    Image.effect_noise((64, 64), 50).save(place.folder / "cut.png")
    os.truncate(place.folder / "cut.png", 1000)
    images = [place.folder / name for name in names]
    assert message in place.fail("encrypt", *images, "-o", place.folder / output, "-k", place.key_file)
    assert (place.folder / "there" / "a.encrypted.safetensors").stat().st_size == 0


# ------------------------------------------------------------------------------------------------------- segment


@every_family
def test_segmenting_a_ciphertext_without_a_key_gives_the_plain_model_s_map(place):
    photo = place.folder / "photo.png"
    place.succeed("segment", place.folder / "model", photo, "-o", place.folder / "plain.png")
    model, ciphertext = place.encrypted_model(), place.encrypted_photo()
    place.key_file.unlink()
    out = place.succeed("segment", model, ciphertext, "-o", place.folder / "out")
    assert "sky" in out
    assert "share of pixels" in out
    plain, found = place.label_map("plain.png"), place.label_map("out/photo.segmentation.png")
    assert found.shape == IMAGE_SIZE
    assert len(np.unique(plain)) > 1
    assert (found == plain).mean() > 0.99  # a tie may fall the other way


def test_photos_for_an_encrypted_model_are_encrypted_here_first(place):
    model = place.encrypted_model()
    place.succeed("segment", model, place.encrypted_photo(), "-o", place.folder / "a.png")
    place.succeed("segment", model, place.folder / "photo.png", "-o", place.folder / "b.png", "-k", place.key_file)
    assert (place.label_map("a.png") == place.label_map("b.png")).mean() > 0.99


def test_a_plain_photo_for_an_encrypted_model_needs_a_key(place):
    message = place.fail("segment", place.encrypted_model(), place.folder / "photo.png", "-o", place.folder / "out")
    assert f"{place.folder / 'photo.png'} is plain, but the model" in message
    assert f"key fingerprint {place.key.fingerprint}" in message


def test_a_ciphertext_for_a_plain_model_is_refused(place):
    message = place.fail("segment", place.folder / "model", place.encrypted_photo(), "-o", place.folder / "out")
    assert "needs a model encrypted with the same key" in message
    assert "is plain; encrypt it" in message


def test_a_key_for_a_plain_model_is_refused(place):
    message = place.fail(
        "segment", place.folder / "model", place.folder / "photo.png", "-o", place.folder / "x", "-k", place.key_file
    )
    assert f"the secret key (key fingerprint {place.key.fingerprint}" in message
    assert "is plain" in message


@pytest.mark.parametrize("family", ["orthogonal", "matrix", "permutation"])
def test_a_ciphertext_of_another_key_is_refused_and_both_are_named(place, family):
    model, mine = place.encrypted_model(), place.key
    place.key = SecretKey.generate(family)
    message = place.fail("segment", model, place.encrypted_photo("foreign"), "-o", place.folder / "out")
    assert f"(key fingerprint {place.key.fingerprint}, family {family}, version 1)" in message
    assert f"(key fingerprint {mine.fingerprint}, family orthogonal, version 1)" in message


def test_a_ciphertext_in_other_blocks_is_refused(place):
    SetrImageProcessor(patch_size=8).encrypt(place.folder / "photo.png", place.key).to_file(
        place.folder / "coarse.safetensors"
    )
    message = place.fail(
        "segment", place.encrypted_model(), place.folder / "coarse.safetensors", "-o", place.folder / "out"
    )
    assert "encrypted in blocks of 8 pixels" in message
    assert "have 4;" in message


def test_a_damaged_ciphertext_is_refused(place):
    model, ciphertext = place.encrypted_model(), place.encrypted_photo()
    ciphertext.write_bytes(ciphertext.read_bytes()[:-9])
    assert "damaged" in place.fail("segment", model, ciphertext, "-o", place.folder / "out")


def test_an_overlay_tints_the_photo(place):
    place.succeed("segment", place.folder / "model", place.folder / "photo.png", "-o", place.folder / "o", "--overlay")
    photo, tinted = (place.label_map(name).astype(int) for name in ("photo.png", "o/photo.overlay.png"))
    assert tinted.shape == photo.shape
    assert np.corrcoef(tinted.ravel(), photo.ravel())[0, 1] > 0.3


def test_an_overlay_of_a_ciphertext_needs_the_key(place):
    model, ciphertext = place.encrypted_model(), place.encrypted_photo()
    arguments = ("segment", model, ciphertext, "-o", place.folder / "out", "--overlay")
    assert f"{ciphertext} is encrypted; to show the photo itself, give the key" in place.fail(*arguments)
    assert not list((place.folder / "out").iterdir())
    place.succeed(*arguments, "-k", place.key_file)
    assert place.label_map("out/photo.overlay.png").shape == (*IMAGE_SIZE, 3)


@pytest.mark.parametrize("existing", ["photo.segmentation.png", "photo.overlay.png"])
def test_segment_replaces_results_only_if_forced(place, existing):
    output = place.folder / "out"
    output.mkdir()
    (output / existing).touch()
    arguments = ("segment", place.folder / "model", place.folder / "photo.png", "-o", output, "--overlay")
    assert f"{output / existing} exists; choose another --output" in place.fail(*arguments)
    assert (output / existing).stat().st_size == 0
    place.succeed(*arguments, "--force")
    assert (output / existing).stat().st_size > 0


def test_info_tells_a_client_embedding_by_its_content_and_shows_no_secret(place):
    path = place.folder / "client.bin"
    written = json.loads(place.succeed("make-client-embedding", place.folder / "model", path, "--json"))
    told = json.loads(place.succeed("info", path, "--json"))
    assert told["kind"] == "client embedding"
    assert (told["block_length"], told["numbers_sent"]) == (48, 32)
    assert told["fingerprint"] == written["fingerprint"]
    assert "matrix" not in str(told)


def test_a_client_embedding_has_no_rekey_update(place):
    path = place.folder / "client.bin"
    place.succeed("make-client-embedding", place.folder / "model", path)
    message = place.fail("make-rekey-update", place.folder / "next.rekey", "-k", place.key_file, "-n", path)
    assert "ClientEmbedding" in message
