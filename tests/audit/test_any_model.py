"""The audit of a model of another class than SETR, whose processor has its own mean and standard deviation."""

import numpy as np
import pytest
import torch
import transformers as hf

pytest.importorskip("skimage", reason="the attacks extra is not installed")

from hf_privseg.audit.audit import audit
from hf_privseg.audit.subject import Subject
from hf_privseg.catalog.sample_images import sample_image
from tiny_vision import CASES, randomize
from tiny_vision.parts import ENCODER

FEW = ("permutation", "orthogonal", "embedding")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture(scope="module")
def model():
    return randomize(hf.ViTModel(hf.ViTConfig(**ENCODER, image_size=64, patch_size=4)))


@pytest.fixture(scope="module")
def processor():
    return hf.ViTImageProcessor(size={"height": 64, "width": 64}, image_mean=MEAN, image_std=STD)


@pytest.fixture(scope="module")
def image():
    return sample_image("china").resize((320, 240))


def test_the_subject_sees_what_the_model_computes_and_pixels_of_the_range_of_the_attacks(model, processor, image):
    subject = Subject.of(model, processor)
    pixels = subject.pixels(image)
    assert 0.5 < np.abs(pixels).max() < 1 + 1e-6
    block = pixels[:, 4:8, 8:12].reshape(-1)
    projection = model.embeddings.patch_embeddings.projection
    with torch.no_grad():
        z = projection(processor(image, return_tensors="pt")["pixel_values"])[0, :, 1, 2] - projection.bias
    np.testing.assert_allclose(block @ subject.embedding, z.numpy(), atol=1e-5)


def test_attacks_find_in_it_what_they_find_in_a_setr(model, processor, image):
    victims = [image.crop((80 * n, 60, 80 * n + 64, 124)) for n in range(3)]
    others = [sample_image("coffee").resize((320, 240)).crop((64 * n, 0, 64 * n + 64, 64)) for n in range(4)]
    base = Subject.of(model, processor).embedding
    settings = {
        "processor": processor,
        "prior_images": others,
        "public_base": base,
        "families": FEW,
        "progress": False,
    }
    report = audit(model, victims, **settings)
    assert {found.family for found in report.findings} == {"any", *FEW}
    chosen = [f for f in report.findings if f.attacker == "chosen plaintext" and f.family == "orthogonal"]
    assert chosen[0].metrics["hp"] > 0.99
    broken = [f for f in report.findings if f.attacker == "public base" and f.family == "permutation"]
    assert broken[0].metrics["exact"] == 1.0
    assert not any("agreement" in found.metrics for found in report.findings)
    assert report.subject["patch_size"] == 4


def test_a_model_of_flattened_patches_and_a_processor_of_several_images_are_refused(model):
    for name in ("siglip2", "qwen2_vl_tower"):
        with pytest.raises(
            ValueError, match=r"takes flattened patches of .* numbers; audit a model that takes images"
        ):
            Subject.of(randomize(CASES[name]().model), hf.ViTImageProcessor())
    subject = Subject.of(model, hf.Siglip2ImageProcessor(patch_size=4))
    with pytest.raises(ValueError, match=r"makes one image of \(channels, height, width\), got the shape"):
        subject.pixels(sample_image("china").resize((64, 64)))
