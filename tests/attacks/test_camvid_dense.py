"""Street scenes under dense keys: how much comes back, with images of other streets and with none at all.

Victims are test frames: of a sequence that the attacker's images do not share (Seq05VD), and of one that they do.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hf_privseg.attacks.canonical import reconstruct_canonical
from hf_privseg.attacks.orthogonal import reconstruct_orthogonal
from hf_privseg.attacks.thumbnail import reconstruct_thumbnail
from hf_privseg.attacks.tools.blocks import to_grid, to_image
from hf_privseg.attacks.tools.metrics import high_pass_correlation, thumbnail
from hf_privseg.attacks.tools.priors import image_prior, synthetic_prior
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.keys import SecretKey

PATCH_SIZE = 16
NUM_SCORED = 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("PRIVSEG_CAMVID" not in os.environ, reason="PRIVSEG_CAMVID does not name the CamVid folder"),
]


def read(path):
    """The middle 480 x 352 of a frame, in [-1, 1]."""
    pixels = np.asarray(Image.open(path).convert("RGB").resize((480, 360)))[4:356]
    return pixels.transpose(2, 0, 1) / 127.5 - 1


def frames(split, sequence=""):
    found = sorted((Path(os.environ["PRIVSEG_CAMVID"]) / "images" / split).glob(f"{sequence}*"))
    assert len(found) >= 60
    return found


def victims(sequence, count):
    paths = frames("test", sequence)
    return [read(paths[i]) for i in np.linspace(0, len(paths) - 1, count).astype(int)]


def encrypted(images, family, key_number=1):
    cipher = cipher_for(SecretKey(key_number.to_bytes(32, "big"), family), patch_size=PATCH_SIZE)
    return [to_grid(cipher.encrypt(torch.from_numpy(image)).numpy(), PATCH_SIZE) for image in images]


def mean_hp(decoder, grids, images):
    pairs = list(zip(grids, images, strict=True))[:NUM_SCORED]
    return np.mean([high_pass_correlation(to_image(decoder.decode(grid), PATCH_SIZE), image) for grid, image in pairs])


@pytest.fixture(scope="module")
def streets():
    return image_prior([read(path) for path in frames("train")[::6]], PATCH_SIZE)


@pytest.mark.parametrize(
    ("sequence", "count", "least"),
    [("Seq05VD", 1, 0.2), ("Seq05VD", 16, 0.5), ("0001TP", 16, 0.5)],
)
def test_an_orthogonal_key_shows_the_scene(streets, sequence, count, least):
    images = victims(sequence, count)
    grids = encrypted(images, "orthogonal")
    assert mean_hp(reconstruct_orthogonal(grids, streets), grids, images) > least


def test_an_orthogonal_key_shows_the_scene_to_who_has_no_image():
    images = victims("Seq05VD", 16)
    grids = encrypted(images, "orthogonal")
    assert mean_hp(reconstruct_orthogonal(grids, synthetic_prior(PATCH_SIZE)), grids, images) > 0.3


def test_the_matrix_family_is_near_enough_to_a_rotation(streets):
    images = victims("Seq05VD", 16)
    found = []
    for key_number in range(1, 5):  # a matrix with small singular values shows less than another
        grids = encrypted(images, "matrix", key_number)
        found.append(mean_hp(reconstruct_orthogonal(grids, streets), grids, images))
    assert min(found) > 0.25
    assert np.mean(found) > 0.45


def test_what_the_server_computes_shows_more_than_a_thumbnail(streets):
    from hf_privseg import SetrForSemanticSegmentation

    model = SetrForSemanticSegmentation.from_pretrained(default_checkpoint())
    weight = model.setr.embeddings.patch_embeddings.projection.weight.detach().double().numpy()
    images = victims("Seq05VD", 16)
    grids = [to_grid(image, PATCH_SIZE) @ weight.reshape(len(weight), -1).T for image in images]
    found = mean_hp(reconstruct_canonical(grids, streets), grids, images)
    blurred = np.mean([high_pass_correlation(thumbnail(image, PATCH_SIZE), image) for image in images[:NUM_SCORED]])
    assert found > max(0.15, blurred + 0.05)


@pytest.mark.parametrize("sequence", ["Seq05VD", "0001TP"])
@pytest.mark.parametrize("prior", ["streets", "synthetic"])
def test_the_thumbnail_of_one_image(streets, sequence, prior):
    known = streets if prior == "streets" else synthetic_prior(PATCH_SIZE)
    for image in victims(sequence, 3):
        (grid,) = encrypted([image], "orthogonal")
        found = reconstruct_thumbnail([grid], known).decode(grid).mean(axis=-1)
        assert np.corrcoef(found.ravel(), to_grid(image, PATCH_SIZE).mean(axis=-1).ravel())[0, 1] > 0.98
