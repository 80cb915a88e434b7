"""What becomes of images: the same as one by one, with an error in the row of each that fails."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from helpers.batch_jobs import make_images, make_models, rows_of, run
from helpers.leaks import assert_no_secret
from hf_privseg import EncryptedImage, RekeyUpdate, SecretKey, SetrImageProcessor
from hf_privseg.batch.encryption import Encrypt
from hf_privseg.batch.key_source import KeySource
from hf_privseg.batch.segmentation import Segment
from hf_privseg.batch.translation import Translate
from hf_privseg.inference.segmentation import segment_image
from hf_privseg.setr.errors import EncryptionStateError, InvalidKeyError, KeyMismatchError
from hf_privseg.storage.models import load_model

COUNT = 7


@pytest.fixture(scope="module", params=["orthogonal", "signed_permutation"])
def place(request, tmp_path_factory):
    """Models, images and a key; `encrypted` has a finished job of encryption."""
    folder = tmp_path_factory.mktemp("batch")
    key = SecretKey.generate(request.param)
    key.to_file(folder / "secret.key")
    make_models(folder, key)
    make_images(folder / "images", COUNT)
    (folder / "images" / "003x.png").write_bytes(b"no image")
    run(encrypting(folder), [folder / "images"], folder / "ciphertexts", part_size=3)
    return folder, key


def encrypting(folder, **settings):
    return Encrypt(KeySource(str(folder / "secret.key")), str(folder / "encrypted"), **settings)


def map_of(row):
    with Image.open(io.BytesIO(row["map"])) as picture:
        return np.array(picture)


def test_ciphertexts_are_those_of_the_encrypter_and_a_bad_image_is_a_row(place):
    folder, key = place
    rows = rows_of(folder / "ciphertexts", seconds=True)
    assert [row["id"] for row in rows] == sorted(path.name for path in (folder / "images").iterdir())
    processor = SetrImageProcessor.from_pretrained(folder / "encrypted")
    for row in rows:
        assert row["seconds"] > 0
        if row["id"] == "003x.png":
            assert row["error"].startswith("InvalidImageError: expected an image in one of the formats")
            assert row["ciphertext"] is None
            continue
        expected = processor.encrypt(Image.open(folder / "images" / row["id"]), key)
        assert row["error"] is None
        assert row["ciphertext"] == expected.to_bytes()
        assert (row["height"], row["width"]) == expected.original_size
        assert (row["family"], row["fingerprint"], row["patch_size"]) == (key.family, key.fingerprint, 4)


def test_no_file_of_the_output_holds_the_key(place):
    folder, key = place
    for path in (folder / "ciphertexts").iterdir():
        assert_no_secret(path.read_bytes(), key)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_maps_of_ciphertexts_are_those_of_the_images_one_by_one(place, tmp_path, batch_size):
    folder, _ = place
    operation = Segment(str(folder / "encrypted"), batch_size=batch_size)
    rows = run(operation, [folder / "ciphertexts"], tmp_path / "maps", part_size=5)
    model, processor = load_model(folder / "encrypted")
    assert len(rows) == COUNT + 1
    for row, encrypted in zip(rows, rows_of(folder / "ciphertexts"), strict=True):
        assert row["id"] == encrypted["id"]
        if encrypted["error"]:
            assert row["error"] == f"ValueError: {encrypted['error']}"
            continue
        expected = segment_image(model, processor, EncryptedImage.from_bytes(encrypted["ciphertext"]))
        assert (map_of(row) == expected).mean() > 0.999
        assert (row["height"], row["width"]) == expected.shape
        assert row["pixels"] == np.bincount(map_of(row).ravel(), minlength=3).tolist()


def test_maps_of_plain_images_by_the_plain_model(place, tmp_path):
    folder, _ = place
    rows = run(Segment(str(folder / "plain")), [folder / "images"], tmp_path / "maps")
    model, processor = load_model(folder / "plain")
    for row in rows:
        if row["error"] is None:
            expected = segment_image(model, processor, str(folder / "images" / row["id"]))
            assert (map_of(row) == expected).mean() > 0.999
    assert sum(row["error"] is None for row in rows) == COUNT


def test_results_as_files_which_the_next_job_reads(place, tmp_path):
    folder, _ = place
    rows = run(encrypting(folder), [folder / "images"], tmp_path / "out", part_size=3, as_files=True)
    for row, expected in zip(rows, rows_of(folder / "ciphertexts"), strict=True):
        if row["error"] is None:
            assert row["ciphertext"]["bytes"] is None
            path = tmp_path / "out" / row["ciphertext"]["path"]
            assert path.read_bytes() == expected["ciphertext"]
            assert EncryptedImage.from_file(path).suffix == path.suffix
    maps = run(Segment(str(folder / "encrypted")), [tmp_path / "out"], tmp_path / "maps")
    from_bytes = run(Segment(str(folder / "encrypted")), [folder / "ciphertexts"], tmp_path / "others")
    assert maps == from_bytes


@pytest.mark.parametrize("other", ["permutation", "orthogonal", "matrix"])
def test_translated_ciphertexts_are_those_of_the_new_key(place, tmp_path, other):
    folder, key = place
    new = SecretKey.generate(other)
    update = RekeyUpdate.between(key, new, patch_size=4)
    update.to_file(tmp_path / "next.rekey")
    rows = run(Translate(str(tmp_path / "next.rekey")), [folder / "ciphertexts"], tmp_path / "out")
    processor = SetrImageProcessor.from_pretrained(folder / "encrypted")
    assert len(rows) == COUNT + 1
    for row in rows:
        if row["error"] is None:
            found = EncryptedImage.from_bytes(row["ciphertext"])
            expected = processor.encrypt(Image.open(folder / "images" / row["id"]), new)
            assert found.facts == expected.facts == new.facts
            if expected.pixels.dtype == np.uint8:
                np.testing.assert_array_equal(found.pixels, expected.pixels)
            else:
                np.testing.assert_allclose(found.pixels, expected.pixels, atol=2e-3)
            assert (found.original_size, found.valid_region) == (expected.original_size, expected.valid_region)
    assert sum(row["error"] is None for row in rows) == COUNT


def test_eight_bits_a_number(place, tmp_path):
    folder, key = place
    rows = run(encrypting(folder, bits=8), [folder / "images"], tmp_path / "out")
    processor = SetrImageProcessor.from_pretrained(folder / "encrypted")
    expected = processor.encrypt(Image.open(folder / "images" / rows[0]["id"]), key, bits=8)
    assert rows[0]["ciphertext"] == expected.to_bytes()


# -------------------------------------------------------------------------------------- what ends a job at its start


def test_ciphertexts_of_another_key_than_the_update_are_refused(place, tmp_path):
    folder, _ = place
    RekeyUpdate.between(SecretKey.generate(), SecretKey.generate(), patch_size=4).to_file(tmp_path / "x.rekey")
    with pytest.raises(KeyMismatchError, match="the rekey update's old key"):
        run(Translate(str(tmp_path / "x.rekey")), [folder / "ciphertexts"], tmp_path / "out")


def test_a_key_that_is_not_the_models_ends_the_job_before_anything_is_written(place, tmp_path):
    folder, _ = place
    SecretKey.generate().to_file(tmp_path / "other.key")
    operation = Encrypt(KeySource(str(tmp_path / "other.key")), str(folder / "encrypted"))
    with pytest.raises(KeyMismatchError, match="do not belong together"):
        run(operation, [folder / "images"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_plain_images_for_an_encrypted_model_and_the_reverse(place, tmp_path):
    folder, _ = place
    with pytest.raises(EncryptionStateError, match=r"is plain, but the model .* is encrypted"):
        run(Segment(str(folder / "encrypted")), [folder / "images"], tmp_path / "out")
    with pytest.raises(EncryptionStateError, match="is plain; encrypt it"):
        run(Segment(str(folder / "plain")), [folder / "ciphertexts"], tmp_path / "out2")
    with pytest.raises(EncryptionStateError, match="encrypted already"):
        run(encrypting(folder), [folder / "ciphertexts"], tmp_path / "out3")
    assert [*(tmp_path / "out").iterdir()] == []  # the command without the mistake may write there


def test_a_ciphertext_among_plain_images_is_a_row_with_an_error(place, tmp_path):
    folder, key = place
    make_images(tmp_path / "images", 2)
    processor = SetrImageProcessor.from_pretrained(folder / "encrypted")
    encrypted = processor.encrypt(Image.open(tmp_path / "images" / "000.png"), key)
    encrypted.to_file(tmp_path / "images" / f"x{encrypted.suffix}")
    rows = run(Segment(str(folder / "plain")), [tmp_path / "images"], tmp_path / "out")
    assert [row["error"] is None for row in rows] == [True, True, False]
    assert rows[2]["error"].startswith("EncryptionStateError: ")


def test_a_key_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv("PRIVSEG_KEY", raising=False)
    make_images(tmp_path / "images", 1)
    with pytest.raises(FileNotFoundError, match="every process that encrypts reads it, on each node of a cluster"):
        run(Encrypt(KeySource(str(tmp_path / "none.key"))), [tmp_path / "images"], tmp_path / "out")
    with pytest.raises(InvalidKeyError, match="PRIVSEG_KEY is not set"):
        run(Encrypt(KeySource()), [tmp_path / "images"], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(Segment(str(tmp_path / "nowhere")), [tmp_path / "images"], tmp_path / "out")


def test_a_key_in_the_environment(place, tmp_path, monkeypatch):
    folder, key = place
    monkeypatch.setenv("MY_KEY", key.to_text())
    operation = Encrypt(KeySource(variable="MY_KEY"), str(folder / "encrypted"))
    assert run(operation, [folder / "images"], tmp_path / "out") == rows_of(folder / "ciphertexts")
    assert json.loads((tmp_path / "out" / "job.json").read_text())["key"] == key.facts.to_dict()
    assert os.environ["MY_KEY"] not in (tmp_path / "out" / "job.json").read_text()
