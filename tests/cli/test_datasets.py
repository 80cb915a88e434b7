"""`privseg encrypt-dataset`: what it makes, going on after a stop, what it says of limits, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("datasets", reason="the train extra is not installed")

from helpers.workplace import IMAGE_SIZE, processor
from hf_privseg import EncryptedImage, SecretKey


@pytest.fixture
def source(place):
    """Three images with segmentation maps of the labels 0, 1, 2 and 9, without class."""
    rng, source = np.random.default_rng(0), place.folder / "source"
    for kind in ("images", "annotations"):
        (source / kind / "train").mkdir(parents=True)
    for index in range(3):
        Image.fromarray(rng.integers(0, 256, (*IMAGE_SIZE, 3), np.uint8)).save(source / f"images/train/{index}.png")
        stored = rng.choice(np.array([0, 1, 2, 9], np.uint8), IMAGE_SIZE)
        Image.fromarray(stored).save(source / f"annotations/train/{index}.png")
    (source / "classes.json").write_text('["sky", "road", "tree"]')
    return source


def given(place, source):
    return [
        "encrypt-dataset", source, place.folder / "out", "-k", place.key_file, "--ignore-labels", "9",
        "--model", place.folder / "model",
    ]  # fmt: skip


def test_images_become_ciphertexts_for_the_model_and_labels_classes(place, source):
    facts = place.run_json(*given(place, source), "--flips")
    expected = {"ciphertexts": 6, "written": 6, "split": "train", "void": 255, "fingerprint": place.key.fingerprint}
    assert facts | expected == facts
    (path,) = (place.folder / "out/images/train").glob("000001.[ps]*")
    encrypted = processor().encrypt(source / "images/train/1.png", place.key)
    found = EncryptedImage.from_file(path)
    assert np.abs(found.pixels.astype(float) - encrypted.pixels).max() < 1e-3
    assert found.original_size == IMAGE_SIZE
    stored = np.array(Image.open(source / "annotations/train/1.png"))
    classes = np.array(Image.open(place.folder / "out/annotations/train/000001.mirrored.png"))
    assert np.array_equal(classes, np.where(stored == 9, 255, stored)[:, ::-1])
    names = json.loads((place.folder / "out/classes.json").read_text())
    assert names == {"0": "sky", "1": "road", "2": "tree"}


def test_a_second_run_goes_on_and_every_run_says_what_the_server_sees(place, source):
    assert "Wrote 3 ciphertexts of train" in place.succeed(*given(place, source))
    next((place.folder / "out/images/train").glob("000002*")).unlink()
    out = place.succeed(*given(place, source))
    assert "Wrote 1 ciphertext of train" in out
    assert "Kept 2 that existed." in out
    assert "sees every segmentation map" in out
    assert "whatever the key family" in out
    assert f"--dataset {place.folder / 'out'} --checkpoint {place.folder / 'model'}" in out


def test_a_model_of_another_key_and_labels_without_class_are_refused(place, source):
    other = place.folder / "other.key"
    SecretKey.generate(family=place.key.family).to_file(other)
    model = place.encrypted_model()
    arguments = ["encrypt-dataset", source, place.folder / "out", "--model", model]
    assert "do not belong together" in place.fail(*arguments, "-k", other, "--ignore-labels", "9")
    assert "got [9]" in place.fail(*arguments, "-k", place.key_file)
    assert not (place.folder / "out").exists()
