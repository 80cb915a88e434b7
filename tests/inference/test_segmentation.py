"""One image through a model, and how large a segmentation map an encrypted image may ask for."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.tiny_setr import make_key, tiny_model
from hf_privseg import CiphertextError, SetrImageProcessor, SetrSegmentationPipeline
from hf_privseg.inference.segmentation import MAX_MAP_PIXELS, segment_image
from hf_privseg.inference.windows import Inference

PIXELS = np.random.default_rng(0).integers(0, 256, (27, 38, 3), dtype=np.uint8)
PROCESSOR = SetrImageProcessor(patch_size=4)


@pytest.fixture
def model():
    """A model whose maps show several classes: on average each one wins over the others equally."""
    model = tiny_model()
    with torch.no_grad():
        logits = model(**PROCESSOR(PIXELS, return_tensors="pt")).logits
        model.decode_head.conv_seg.bias -= logits.mean(dim=(0, 2, 3))
    return model


def claiming(size):
    """An encrypted image of 28 x 40 pixels whose file claims that the plain one has this size."""
    return dataclasses.replace(PROCESSOR.encrypt(Image.fromarray(PIXELS), make_key()), original_size=size)


@torch.no_grad()
def test_the_segmentation_map_has_the_best_class_of_each_pixel(model):
    found = segment_image(model, PROCESSOR, Image.fromarray(PIXELS))
    outputs = model(**PROCESSOR(PIXELS, return_tensors="pt"))
    (expected,) = PROCESSOR.post_process_semantic_segmentation(outputs, [(27, 38)])
    assert found.dtype == np.int64
    assert np.array_equal(found, expected)
    assert len(np.unique(found)) > 1


def test_keys_other_ciphers_and_windows_reach_the_model(model):
    key = make_key("permutation")
    windows = Inference(crop_size=16, stride=8)
    expected = segment_image(model, PROCESSOR, PIXELS, inference=windows)
    assert not np.array_equal(segment_image(model, PROCESSOR, PIXELS), expected)
    model.encrypt_model(key)
    assert np.array_equal(segment_image(model, PROCESSOR, PIXELS, secret_key=key, inference=windows), expected)

    def encrypt(pixel_values):
        return PROCESSOR.encrypt_pixels(pixel_values, key)

    assert np.array_equal(segment_image(model, PROCESSOR, PIXELS, encrypt=encrypt, inference=windows), expected)
    encrypted = PROCESSOR.encrypt(Image.fromarray(PIXELS), key)
    assert np.array_equal(segment_image(model, PROCESSOR, encrypted, inference=windows), expected)


def test_a_header_that_claims_a_huge_image_is_refused_before_the_model_runs(model, monkeypatch):
    model.encrypt_model(make_key())
    monkeypatch.setattr(model, "forward", lambda **_: pytest.fail("the model ran"))
    message = rf"at most {MAX_MAP_PIXELS} pixels, got one with an original size of 8192 x 8192; .* raise max_pixels"
    pipeline = SetrSegmentationPipeline(model=model, image_processor=PROCESSOR, device="cpu")
    for run in (
        lambda: segment_image(model, PROCESSOR, claiming((8192, 8192))),
        lambda: pipeline(claiming((2**13,) * 2)),
    ):
        with pytest.raises(CiphertextError, match=message):
            run()
    assert MAX_MAP_PIXELS < 8192 * 8192


def test_the_bound_can_be_set(model):
    model.encrypt_model(make_key())
    pipeline = SetrSegmentationPipeline(model=model, image_processor=PROCESSOR, device="cpu")
    for run in (
        lambda limit: segment_image(model, PROCESSOR, claiming((40, 50)), max_pixels=limit).shape,
        lambda limit: pipeline(claiming((40, 50)), max_pixels=limit)[0]["mask"].size[::-1],
    ):
        assert run(2000) == (40, 50)
        with pytest.raises(CiphertextError, match="at most 1999 pixels, got one with an original size of 40 x 50"):
            run(1999)
