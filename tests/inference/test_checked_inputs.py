"""`inputs_for` and `segment_image`: what a batch says of its pixels, and that what does not belong together stops."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BeitImageProcessor, ViTImageProcessor
from transformers import pipeline as stock_pipeline

from helpers.tiny_setr import make_key, tiny_model
from hf_privseg import (
    EncryptingProcessor,
    EncryptionStateError,
    KeyMismatchError,
    SetrImageProcessor,
    encrypt_model,
    inputs_for,
)
from hf_privseg.inference.segmentation import segment_image
from tiny_vision import CASES, randomize

PROCESSOR = SetrImageProcessor(patch_size=4)
KEY, OTHER = make_key("orthogonal"), make_key("permutation")
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))


def batch(how):
    """A batch of the image: plain, with a key inline, or from an encrypted image."""
    key = OTHER if "other" in how else KEY
    if "ciphertext" in how:
        return PROCESSOR(PROCESSOR.encrypt(IMAGE, key), return_tensors="pt")
    return PROCESSOR(IMAGE, secret_key=None if how == "plain" else key, return_tensors="pt")


@pytest.fixture(scope="module")
def models():
    plain, encrypted = tiny_model(), tiny_model()
    with torch.no_grad():  # so that a map shows several classes
        plain.decode_head.conv_seg.bias -= plain(**batch("plain")).logits.mean(dim=(0, 2, 3))
    encrypted.load_state_dict(plain.state_dict())
    return {"plain": plain, "encrypted": encrypted.encrypt_model(KEY)}


@pytest.mark.parametrize(("model", "how"), [("plain", "plain"), ("encrypted", "key"), ("encrypted", "ciphertext")])
def test_what_belongs_together_gives_the_plain_model_s_logits(models, model, how):
    expected = models["plain"](**batch("plain")).logits
    inputs = inputs_for(models[model], batch(how))
    assert set(inputs) == {"pixel_values"}
    for found in (models[model](**inputs).logits, models[model](**batch(how)).logits):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("how", ["batch", "file"])
def test_a_model_of_another_class_in_half_precision_gets_what_it_takes(how, dtype):
    """As transformers loads it from a checkpoint of that precision; its processor makes float32."""
    model = encrypt_model(randomize(CASES["beit"]().model), KEY).to(dtype)
    processor = EncryptingProcessor(BeitImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False), model)
    if how == "batch":
        inputs = inputs_for(model, processor(IMAGE, secret_key=KEY))
    else:
        inputs = processor.encrypt(IMAGE, secret_key=KEY).inputs_for(model)
    assert inputs["pixel_values"].dtype == dtype
    assert model(**inputs).logits.isfinite().all()


def test_a_setr_in_half_precision_keeps_the_pixels_for_its_projection_which_is_in_single(models):
    model = tiny_model().encrypt_model(KEY).to(torch.bfloat16)
    model.setr.embeddings.patch_embeddings.projection.float()  # as from_pretrained has it
    assert inputs_for(model, batch("key"))["pixel_values"].dtype == torch.float32


@pytest.mark.parametrize(
    ("model", "how", "error", "message"),
    [
        ("encrypted", "plain", EncryptionStateError, "the image is plain, but the model is encrypted"),
        ("encrypted", "other key", KeyMismatchError, f"{OTHER.fingerprint}.*{KEY.fingerprint}"),
        ("encrypted", "other ciphertext", KeyMismatchError, f"{OTHER.fingerprint}.*{KEY.fingerprint}"),
        ("plain", "key", EncryptionStateError, "the encrypted image .* but the model is plain"),
        ("plain", "ciphertext", EncryptionStateError, "the encrypted image .* but the model is plain"),
    ],
)
def test_what_does_not_is_refused_where_the_model_alone_would_give_garbage(models, model, how, error, message):
    given = batch(how)
    expected = models["plain"](**batch("plain")).logits
    assert (models[model](**given).logits - expected).abs().max() > 0.1  # garbage, without a word
    with pytest.raises(error, match=message):
        inputs_for(models[model], given)


def test_a_batch_says_which_keys_its_images_have():
    assert batch("plain").key_facts == (None,)
    assert batch("key").key_facts == batch("ciphertext").key_facts == (KEY.facts,)
    mixed = PROCESSOR([PROCESSOR.encrypt(IMAGE, key) for key in (KEY, OTHER, KEY)], return_tensors="pt")
    assert mixed.key_facts == (KEY.facts, OTHER.facts)
    assert mixed.to("cpu").to(torch.float64).key_facts == (KEY.facts, OTHER.facts)
    assert "key_facts" not in mixed


def test_a_batch_that_says_nothing_is_for_plain_models_alone(models):
    silent = dict(batch("plain"))
    assert torch.equal(inputs_for(models["plain"], silent)["pixel_values"], silent["pixel_values"])
    with pytest.raises(EncryptionStateError, match="this dict does not say what its pixels are encrypted with; take"):
        inputs_for(models["encrypted"], silent)


@pytest.mark.filterwarnings("ignore:the blocks of ViT")
def test_a_processor_of_another_class_says_it_too():
    plain, encrypted = (randomize(CASES["vit"]().model).eval() for _ in range(2))
    encrypted.load_state_dict(plain.state_dict())
    encrypt_model(encrypted, KEY)
    stock = ViTImageProcessor(size={"height": 32, "width": 32})
    expected = plain(**stock(images=IMAGE, return_tensors="pt")).logits
    given = EncryptingProcessor(stock, encrypted)(images=IMAGE, secret_key=KEY)
    assert given.key_facts == (KEY.facts,)
    found = encrypted(**inputs_for(encrypted, given)).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    with pytest.raises(EncryptionStateError, match="but the model is plain"):
        inputs_for(plain, given)
    with pytest.raises(EncryptionStateError, match="this BatchFeature does not say"):
        inputs_for(encrypted, stock(images=IMAGE, return_tensors="pt"))
    sent = EncryptingProcessor(stock, encrypted).encrypt(images=IMAGE, secret_key=KEY)
    assert torch.equal(inputs_for(encrypted, sent)["pixel_values"], given["pixel_values"])


@pytest.mark.parametrize(
    ("model", "image", "key", "error"),
    [
        ("encrypted", "plain", None, EncryptionStateError),
        ("encrypted", "plain", OTHER, KeyMismatchError),
        ("encrypted", "ciphertext", None, KeyMismatchError),
        ("plain", "plain", KEY, EncryptionStateError),
        ("plain", "ciphertext", None, EncryptionStateError),
    ],
)
def test_segment_image_refuses_it_unless_it_is_wanted(models, model, image, key, error):
    given = PROCESSOR.encrypt(IMAGE, OTHER) if image == "ciphertext" else IMAGE
    with pytest.raises(error):
        segment_image(models[model], PROCESSOR, given, secret_key=key)
    found = segment_image(models[model], PROCESSOR, given, secret_key=key, allow_mismatch=True)
    assert (found != segment_image(models["plain"], PROCESSOR, IMAGE)).mean() > 0.1


def test_the_pipeline_of_transformers_takes_no_encrypted_image(models):
    stock: Any = stock_pipeline(
        "image-segmentation", model=models["encrypted"], image_processor=PROCESSOR, device="cpu"
    )
    with pytest.raises(TypeError, match="Incorrect format used for image"):
        stock(PROCESSOR.encrypt(IMAGE, KEY))
