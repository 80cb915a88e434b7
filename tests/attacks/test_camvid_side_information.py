"""Attacks with side information on road scenes: the bars that they must reach; prior and victims never overlap."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file
from torchvision.transforms.v2 import functional as F

from helpers.attack_victims import encrypt, encrypt_embedding, key_of
from hf_privseg.attacks.chosen_plaintext import probe_matrix, probe_permutation
from hf_privseg.attacks.known_plaintext import match_traces, regress
from hf_privseg.attacks.public_base import (
    embedding_matrix,
    invert_ciphertexts,
    invert_drifted_embedding,
    recover_permutation_from_weight,
)
from hf_privseg.attacks.tools.blocks import to_grid
from hf_privseg.attacks.tools.metrics import psnr
from hf_privseg.attacks.tools.priors import image_prior
from hf_privseg.attacks.tools.statistics import block_statistics
from hf_privseg.checkpoints import default_checkpoint

PATCH_SIZE = 16
NUM_PRIOR_FRAMES = 30

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("PRIVSEG_CAMVID" not in os.environ, reason="PRIVSEG_CAMVID does not name the CamVid folder"),
]


def paths(split, pattern="*"):
    return sorted((Path(os.environ["PRIVSEG_CAMVID"]) / "images" / split).glob(f"{pattern}.jpg"))


def frame(path, scale=1):
    """(3, 352, 480) times the scale, resized as the image processor does."""
    pixels = F.pil_to_tensor(Image.open(path).convert("RGB"))[:, 4:356]
    size = [scale * side for side in pixels.shape[1:]]
    return F.resize(pixels, size, antialias=True).numpy() / 127.5 - 1


def grids(split, count, scale=1, pattern="*"):
    chosen = paths(split, pattern)
    return [
        to_grid(frame(chosen[index], scale), PATCH_SIZE)
        for index in np.linspace(0, len(chosen) - 1, count).astype(int)
    ]


@pytest.fixture(scope="module")
def prior():
    frames = paths("train")[:: len(paths("train")) // NUM_PRIOR_FRAMES]
    return image_prior((frame(path) for path in frames), PATCH_SIZE)


@pytest.fixture(scope="module")
def victims():
    """Frames of the sequence that the prior does not share."""
    return grids("test", 4, pattern="Seq05VD*")


@pytest.fixture(scope="module")
def embedding():
    weights = load_file(default_checkpoint() / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("projection.weight"))
    return embedding_matrix(weights[name].numpy())


def drifted(embedding, drift):
    noise = np.random.default_rng(0).standard_normal(embedding.shape)
    return embedding + drift * np.linalg.norm(embedding) / np.linalg.norm(noise) * noise


@pytest.mark.parametrize("family", ["permutation", "signed_permutation"])
def test_one_image_gives_away_a_permutation(victims, family):
    order, signs = key_of(family, PATCH_SIZE)
    for found in (
        match_traces(victims[0], encrypt(victims[0], family, PATCH_SIZE)),
        match_traces(victims[0][10:11], encrypt(victims[0], family, PATCH_SIZE)[10:11]),  # 30 blocks
        probe_permutation(lambda grid: encrypt(grid, family, PATCH_SIZE), len(order)),
    ):
        assert (found.order == order).all()
        assert (found.signs == signs).all()


@pytest.mark.parametrize(("family", "least"), [("orthogonal", 50), ("matrix", 44)])
def test_one_image_decodes_others_and_two_exactly(victims, prior, family, least):
    known, *others = victims
    two = np.concatenate(grids("val", 2))
    one = regress(known, encrypt(known, family, PATCH_SIZE), prior.statistics)
    both = regress(two, encrypt(two, family, PATCH_SIZE), prior.statistics)
    chosen = probe_matrix(lambda grid: encrypt(grid, family, PATCH_SIZE), known.shape[-1])
    for other in others:
        seen = encrypt(other, family, PATCH_SIZE)
        assert psnr(one.decode(seen), other) > least
        assert psnr(both.decode(seen), other) > 90
        assert psnr(chosen.decode(seen), other) > 90


@pytest.mark.parametrize("family", ["permutation", "signed_permutation"])
def test_a_drifted_base_gives_away_a_permutation(embedding, family):
    order, signs = key_of(family, PATCH_SIZE)
    found = recover_permutation_from_weight(
        encrypt_embedding(embedding, family, PATCH_SIZE), drifted(embedding, 2.0), signed=family != "permutation"
    )
    assert (found.order == order).all()
    assert (found.signs == signs).all()


def test_the_public_base_gives_away_what_the_model_takes(embedding):
    """At twice the size, as the embedded checkpoint's image processor makes the frames of 480 x 360."""
    chosen = paths("train")[::30]
    prior = image_prior((frame(path, scale=2) for path in chosen), PATCH_SIZE)
    found = invert_ciphertexts(encrypt_embedding(embedding, "orthogonal", PATCH_SIZE), embedding, prior.statistics)
    for victim in grids("test", 3, scale=2, pattern="Seq05VD*"):
        assert psnr(found.decode(encrypt(victim, "orthogonal", PATCH_SIZE)), victim) >= 45


def test_at_its_own_size_half_of_the_directions_are_missing(embedding, prior, victims):
    found = invert_ciphertexts(embedding, embedding, prior.statistics)
    assert min(psnr(found.decode(victim), victim) for victim in victims) > 30


def test_an_embedding_as_wide_as_a_block_is_inverted_whole_at_any_size(prior, victims):
    wide = np.random.default_rng(0).standard_normal((768, 768)).astype(np.float32)  # ViT-B/16 has this shape
    found = invert_ciphertexts(encrypt_embedding(wide, "orthogonal", PATCH_SIZE), wide, prior.statistics)
    assert min(psnr(found.decode(encrypt(victim, "orthogonal", PATCH_SIZE)), victim) for victim in victims) >= 45


@pytest.mark.parametrize(("drift", "least"), [(0.1, 25), (0.3, 20)])
def test_drift_is_calibrated_away(embedding, prior, drift, least):
    victims = grids("test", 12)
    seen = block_statistics([victim @ embedding for victim in victims])
    found = invert_drifted_embedding(drifted(embedding, drift), prior.statistics, seen, drift=drift)
    assert np.mean([psnr(found.decode(victim @ embedding), victim) for victim in victims]) > least
