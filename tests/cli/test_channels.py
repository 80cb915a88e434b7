"""Images of one, two, four and six channels through the commands: .npy files and multi-page TIFF files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.tiny_setr import tiny_model
from hf_privseg import SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.inference.segmentation import segment_image

CHANNELS = [1, 2, 4, 6]
NAMES = {0: "sky", 1: "road", 2: "tree"}


def levels(num_channels, seed):
    """(channels, 40, 56) uint8: smooth, every channel another."""
    coarse = np.random.default_rng(seed).integers(0, 256, (num_channels, 10, 14), dtype=np.uint8)
    return np.stack([np.array(Image.fromarray(channel).resize((56, 40))) for channel in coarse])


@pytest.fixture
def images(place, num_channels):
    """Beside a model of so many channels: the same image as .npy, channels first and last, and as a TIFF file."""
    tiny_model(num_channels=num_channels, num_labels=3, id2label=NAMES).save_pretrained(place.folder / "many")
    SetrImageProcessor(patch_size=4, num_channels=num_channels).save_pretrained(place.folder / "many")
    folder = place.folder / "images"
    folder.mkdir()
    image = levels(num_channels, 0)
    np.save(folder / "first.npy", image)
    np.save(folder / "last.npy", image.transpose(1, 2, 0))
    first, *others = map(Image.fromarray, image)
    first.save(folder / "pages.tif", save_all=True, append_images=others)
    return folder


@pytest.mark.parametrize("num_channels", CHANNELS)
def test_segment_and_encrypt(place, images, num_channels):
    files, model = sorted(images.iterdir()), place.folder / "many"
    place.succeed("segment", "--model", model, *files, "-o", place.folder / "plain", "--overlay")
    network, process = (
        SetrForSemanticSegmentation.from_pretrained(model).eval(),
        SetrImageProcessor.from_pretrained(model),
    )
    expected = segment_image(network, process, torch.from_numpy(levels(num_channels, 0)))
    assert len(np.unique(expected)) > 1
    for file in files:
        found = np.array(Image.open(place.folder / "plain" / f"{file.stem}.segmentation.png"))
        assert np.array_equal(found, expected)
        assert Image.open(place.folder / "plain" / f"{file.stem}.overlay.png").height > 40

    place.succeed("encrypt-model", model, place.folder / "ours", "-k", place.key_file)
    place.succeed(
        "encrypt", *files, "--model", place.folder / "ours", "-k", place.key_file, "-o", place.folder / "sent"
    )
    sent = sorted((place.folder / "sent").iterdir())
    assert len(sent) == 3
    place.succeed("segment", "--model", place.folder / "ours", *sent, "-o", place.folder / "found")
    for file in files:
        found = np.array(Image.open(place.folder / "found" / f"{file.stem}.segmentation.png"))
        assert (found == expected).mean() > 0.99  # the file holds 16 bits


@pytest.mark.parametrize("num_channels", CHANNELS)
def test_audit(place, images, num_channels):
    prior, output = place.folder / "prior", place.folder / "audit"
    prior.mkdir()
    for seed in range(1, 4):
        np.save(prior / f"{seed}.npy", levels(num_channels, seed))
    options = ("--family", "permutation", "--prior-images", prior, "--output", output)
    place.succeed("audit", place.folder / "many", images, *options)
    report = json.loads((output / "report.json").read_text())
    assert (report["subject"]["num_channels"], report["subject"]["num_images"]) == (num_channels, 3)
    priors = {finding["prior"] for finding in report["findings"]}
    assert priors == {"", "synthetic", "unrelated", "in-domain"}
    assert max(finding["metrics"].get("hp", 0) for finding in report["findings"]) > 0.15


@pytest.mark.parametrize("num_channels", [4])
def test_an_image_of_other_channels_is_refused_by_its_name(place, images, num_channels):
    other, model, out = images / "other.npy", place.folder / "many", ("-o", place.folder / "out")
    np.save(other, levels(3, 0))
    for command in (
        ("segment", "--model", model, other, *out),
        ("encrypt", "--model", model, other, *out, "-k", place.key_file),
        ("audit", model, images, *out),
    ):
        message = f"{other}: expected 4 channels, first or last, got an array of shape (3, 40, 56)"
        assert message in place.fail(*command)
    message = place.fail("segment", "--model", place.folder / "model", *out, images / "pages.tif")
    assert f"{images / 'pages.tif'}: expected an image of 3 channels" in message
