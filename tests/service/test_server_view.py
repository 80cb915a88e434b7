"""What the server can see: the attacks on a visitor's own ciphertext find what they say."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from helpers.tiny_service import processor, register
from helpers.tiny_setr import randomize, tiny_model
from hf_privseg import SecretKey, SetrImageProcessor
from hf_privseg.attacks.tools.blocks import to_grid
from hf_privseg.attacks.tools.priors import sample_prior
from hf_privseg.catalog.sample_images import SAMPLE_IMAGES, sample_image
from hf_privseg.catalog.street_images import STREET_IMAGES, street_image
from hf_privseg.service import SegmentationService

pytest.importorskip("scipy")
pytest.importorskip("skimage")
pytest.importorskip("sklearn")

from hf_privseg.service.server_view import ServerView


@pytest.fixture(scope="module")
def image():
    return sample_image("coffee").crop((160, 80, 352, 208))


def blocks(image):
    """(3, height, width) -> (height / 4, width / 4), the mean of each block."""
    height, width = image.shape[1:]
    return image.mean(axis=0).reshape(height // 4, 4, width // 4, 4).mean(axis=(1, 3))


def correlation(a, b):
    return np.corrcoef(a.ravel(), b.ravel())[0, 1]


@pytest.fixture(scope="module")
def prior():
    """Of other sample images than the victim."""
    return sample_prior(4, exclude=("coffee",))


@pytest.mark.parametrize("family", ["permutation", "signed_permutation", "orthogonal", "matrix"])
def test_a_public_model_gives_the_image_away_and_a_ciphertext_its_thumbnail(image, prior, family):
    # more numbers an embedding than a block: nothing is lost, as far as the linear map goes
    service = SegmentationService(randomize(tiny_model(hidden_size=64)), processor())
    key = SecretKey.generate(family)
    register(service, key)
    views = ServerView(service, prior).views(processor().encrypt(image, key))
    inverted, *guessed, thumbnail = views
    plain = processor()(image, return_tensors="pt").pixel_values[0].numpy()
    assert inverted.title == "With the public model"
    assert 10 * np.log10(4 / np.mean((inverted.image - plain) ** 2)) > 40
    assert thumbnail.title == "The thumbnail, from this ciphertext alone"
    assert thumbnail.image.shape == plain.shape
    # decoded blocks are clipped, and the matrix family distorts brightness somewhat
    assert abs(correlation(blocks(thumbnail.image), blocks(plain))) > (0.7 if family == "matrix" else 0.9)
    (guess,) = guessed
    assert guess.title == "From this ciphertext alone"
    # colours may be exchanged
    found = abs(correlation(guess.image.mean(axis=0), plain.mean(axis=0)))
    assert found > (0.8 if "permutation" in family else 0.6)


def test_an_encrypted_model_leaves_the_ciphertext_alone(image, prior):
    key = SecretKey.generate()
    service = SegmentationService(tiny_model().encrypt_model(key), processor())
    guess, view = ServerView(service, prior).views(processor().encrypt(image, key))
    assert guess.title == "From this ciphertext alone"
    assert view.title == "The thumbnail, from this ciphertext alone"


def test_padding_is_cut_off_and_pictures_are_png(image):
    padding = SetrImageProcessor(patch_size=4, do_pad=True)
    key = SecretKey.generate()
    service = SegmentationService(tiny_model().encrypt_model(key), padding)
    *_, view = ServerView(service).views(padding.encrypt(image.crop((0, 0, 90, 61)), key))
    assert view.image.shape == (3, 61, 90)
    answer = view.to_json()
    assert set(answer) == {"picture", "title", "note"}
    assert Image.open(io.BytesIO(base64.b64decode(answer["picture"]))).size == (90, 61)


def test_the_attacks_do_not_know_the_images_that_visitors_are_offered():
    view = ServerView(SegmentationService(tiny_model(), processor()))
    assert view._prior.name == "unrelated"  # the attack on permutations then takes no colours from it
    shapes = {grid.shape for grid in view._prior.grids}
    assert len(view._prior.grids) == len(SAMPLE_IMAGES)
    for name in STREET_IMAGES:
        pixels = processor()(street_image(name), return_tensors="pt").pixel_values[0].numpy()
        assert to_grid(pixels, 4).shape not in shapes


def test_the_checks_of_segmentation_hold_here(image):
    service = SegmentationService(tiny_model(), processor())
    with pytest.raises(LookupError, match="no patch embedding is registered for the key"):
        ServerView(service).views(processor().encrypt(image, SecretKey.generate()))
