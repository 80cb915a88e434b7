"""The service's engine: keys that share one network and never disturb each other, limits, and clear refusals."""

import threading

import numpy as np
import pytest
import safetensors.torch
import torch

from helpers.leaks import assert_no_secret
from helpers.tiny_service import ciphertext, embedding_for, image, processor, register, service
from helpers.tiny_setr import make_key, pixels, projection, tiny_model
from hf_privseg import CiphertextError, KeyMismatchError, SecretKey
from hf_privseg.inference.segmentation import segment_image
from hf_privseg.inference.windows import Inference
from hf_privseg.service import Limits, SegmentationService
from hf_privseg.service.embedding_file import embedding_from_bytes, embedding_to_bytes
from hf_privseg.service.embedding_store import UnknownEmbeddingError
from hf_privseg.service.mixed_keys import with_weights
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.public_facts import KeyFacts

FAMILIES = ["permutation", "signed_permutation", "orthogonal", "matrix"]
FACTS = KeyFacts("orthogonal", 1, "0123456789abcdef")


# ------------------------------------------------------------------------------------------------------- mixed keys


def encrypted_weight(model, key):
    return cipher_for(key, patch_size=4).encrypt_weight(projection(model).weight.detach())


def test_a_batch_of_mixed_keys_computes_what_each_key_gives_by_itself():
    model = tiny_model("mla")
    keys = [SecretKey.generate(family) for family in FAMILIES]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = pixels(batch=4)
    expected = model(images).logits
    ciphers = [cipher_for(key, patch_size=4) for key in keys]
    encrypted = torch.cat([cipher.encrypt(one) for cipher, one in zip(ciphers, images.split(1), strict=True)])
    weights = [encrypted_weight(model, key) for key in keys]
    torch.testing.assert_close(with_weights(model, weights)(encrypted).logits, expected, rtol=1e-3, atol=1e-4)
    wrong = with_weights(model, weights[::-1])(encrypted).logits
    assert (wrong - expected).abs().amax(dim=(1, 2, 3)).min() > 0.1  # no image does with another's key
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_view_shares_every_other_parameter():
    model = tiny_model("mla")
    view = with_weights(model, [projection(model).weight])
    own = {id(value) for value in model.parameters()}
    assert {id(value) for value in view.parameters()} == own - {id(projection(model).weight)}
    torch.testing.assert_close(view(pixels(batch=1)).logits, model(pixels(batch=1)).logits, rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------------------- keys


@pytest.mark.parametrize("family", FAMILIES)
def test_a_registered_key_segments_as_the_plain_model_does(family):
    public, key = service(), SecretKey.generate(family)
    assert register(public, key)
    labels = public.segment(ciphertext(key))
    assert labels.dtype == np.uint8
    assert labels.shape == (18, 30)
    plain = public.model(**processor()(image(), return_tensors="pt"))
    expected = processor().post_process_semantic_segmentation(plain, [(18, 30)])[0].numpy()
    assert len(np.unique(expected)) == 3
    assert (labels == expected).mean() > 0.99  # 16 bits of a float ciphertext may turn a near-tie


def test_a_batch_of_many_keys_gives_each_its_own_map():
    public = service()
    keys = [SecretKey.generate(family) for family in ("orthogonal", "matrix", "orthogonal")]
    for key in keys:
        register(public, key)
    files = [ciphertext(key, seed) for seed, key in enumerate(keys)]
    alone = [public.segment(file) for file in files]
    together = public.segment_batch([public.opened(file) for file in files])
    assert len({labels.tobytes() for labels in alone}) == len(keys)
    for one, other in zip(alone, together, strict=True):
        assert (one == other).mean() > 0.99


def test_different_keys_interleave_in_threads():
    public = service()
    keys = [SecretKey.generate(family) for family in FAMILIES for _ in range(2)]
    for key in keys:
        register(public, key)
    uploads = [ciphertext(key, seed) for seed, key in enumerate(keys)]
    alone = [public.segment(upload) for upload in uploads]
    assert len({labels.tobytes() for labels in alone}) == len(keys)
    wrong = []

    def client(index):
        for _ in range(6):
            if not np.array_equal(public.segment(uploads[index]), alone[index]):
                wrong.append(index)

    threads = [threading.Thread(target=client, args=(index,)) for index in range(len(keys))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_key_that_is_replaced_or_revoked_counts_at_once():
    public, key = service(), make_key()
    register(public, key)
    right = public.segment(ciphertext(key))
    assert not public.register(key.fingerprint, embedding_to_bytes(torch.randn(32, 3, 4, 4), key.facts))
    assert (public.segment(ciphertext(key)) != right).any()
    public.store.remove(key.fingerprint)
    with pytest.raises(UnknownEmbeddingError, match=f"no patch embedding is registered for .*{key.fingerprint}"):
        public.segment(ciphertext(key))


def test_windows_are_those_of_the_plain_image_for_every_key_of_a_batch():
    inference = Inference(8, 4)
    public = SegmentationService(service().model, processor(), inference=inference)
    keys = [SecretKey.generate(family) for family in FAMILIES]
    for key in keys:
        register(public, key)
    found = public.segment_batch([public.opened(ciphertext(key)) for key in keys])
    expected = segment_image(public.model, processor(), image(), inference=inference)
    assert (expected != segment_image(public.model, processor(), image())).any()
    assert all((labels == expected).mean() > 0.99 for labels in found)
    assert public.model_info()["window"] == {"crop_size": 8, "stride": 4, "scales": (1.0,), "flip": False}


@pytest.mark.parametrize(
    ("inference", "message"),
    [
        (Inference(16), "the stride must be a multiple of the patch size 4, got 10; the nearest is 12"),
        (Inference(6, 4), "must be a multiple of the patch size 4, got 6"),
        (Inference(flip=True), "neither resized nor mirrored"),
    ],
    ids=["stride", "window", "mirrored"],
)
def test_what_cannot_be_done_to_ciphertexts_is_refused_at_the_start(inference, message):
    with pytest.raises(ValueError, match=message):
        SegmentationService(tiny_model(), processor(), inference=inference)


# ----------------------------------------------------------------------------------------------------- encrypted model


def test_an_encrypted_model_serves_its_own_key_and_registered_ones():
    plain, key, tenant, other = tiny_model(), make_key(), make_key(first_byte=1), make_key(first_byte=2)
    weight = encrypted_weight(plain, tenant)
    private = SegmentationService(plain.encrypt_model(key), processor())
    assert private.model_info()["encryption"] == {"family": "orthogonal", "version": 1, "fingerprint": key.fingerprint}
    own = private.segment(ciphertext(key))
    assert own.shape == (18, 30)
    assert private.register(tenant.fingerprint, embedding_to_bytes(weight, tenant.facts))
    assert (private.segment(ciphertext(tenant)) == own).mean() > 0.99
    with pytest.raises(KeyMismatchError, match=f"{other.fingerprint}.*{key.fingerprint}"):
        private.segment(ciphertext(other))
    with pytest.raises(ValueError, match=f"is encrypted with the key {key.fingerprint} itself"):
        private.register(key.fingerprint, embedding_to_bytes(weight, key.facts))
    with pytest.raises(LookupError, match=f"{key.fingerprint}.*its plain patch embedding is not here"):
        private.public_embedding()


# ------------------------------------------------------------------------------------------------------------ refusals


def test_the_facts_of_image_and_embedding_have_to_agree():
    public, key = service(), make_key("orthogonal")
    facts = KeyFacts("matrix", 1, key.fingerprint)
    public.register(key.fingerprint, embedding_to_bytes(torch.randn(32, 3, 4, 4), facts))
    with pytest.raises(KeyMismatchError, match=r"family orthogonal.* that is registered here .*family matrix"):
        public.segment(ciphertext(key))


def test_images_beyond_the_limits_are_refused():
    key = make_key()
    small = service(limits=Limits(max_pixels=100))
    with pytest.raises(CiphertextError, match="expected an image of 1 to 100 pixels, got 20 x 32"):
        small.segment(ciphertext(key))
    small = service(limits=Limits(max_original_pixels=100))
    with pytest.raises(CiphertextError, match="original size has at most 100 pixels here, got 18 x 30"):
        small.segment(ciphertext(key))


def with_metadata(**changes):
    """An embedding's file whose metadata say otherwise."""
    return safetensors.torch.save(
        {"weight": torch.zeros(32, 3, 4, 4)},
        metadata={name: str(value) for name, value in FACTS.to_dict().items()} | changes,
    )


def test_a_limit_is_positive():
    with pytest.raises(ValueError, match="max_queue is at least 1, got 0"):
        Limits(max_queue=0)
    assert Limits(max_wait_ms=0).max_wait_ms == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"rubbish", "expected a safetensors file with an encrypted patch embedding, got "),
        (embedding_to_bytes(torch.zeros(32, 3, 4, 4)), "the family of a key is .*, got a NoneType"),
        (with_metadata(version="2"), "the version of a key is the number 1, got a str of 1 characters"),
        (with_metadata(fingerprint="x" * 16), "16 hexadecimal characters, got a str of 16 characters"),
        (with_metadata(family="rot13"), "got 'rot13'"),
        (embedding_to_bytes(torch.full((32, 3, 4, 4), torch.nan), FACTS), "got NaN or infinity"),
        (embedding_to_bytes(torch.zeros(8, 3, 4, 4), FACTS), r"shape \(32, 3, 4, 4\), got \(8, 3, 4, 4\)"),
        (with_metadata(sha256="0" * 64), "expected the projection weight of the file's checksum, got another one"),
        (safetensors.torch.save({"a": torch.zeros(2).half()}), r"one float32 tensor.*F16 \(2,\)"),
        (safetensors.torch.save({"a": torch.zeros(2), "b": torch.zeros(1)}), "one float32 tensor"),
    ],
    ids=[
        "rubbish",
        "no facts",
        "version",
        "fingerprint",
        "family",
        "nan",
        "shape",
        "checksum",
        "dtype",
        "two tensors",
    ],
)
def test_a_bad_embedding_is_refused(data, message):
    public = service()
    with pytest.raises(ValueError, match=message):
        public.register(FACTS.fingerprint, data)
    assert len(public.store) == 0


def test_an_embedding_of_another_fingerprint_is_refused():
    public, key = service(), make_key()
    with pytest.raises(ValueError, match=f"patch embedding of the key {'0' * 16}, got that of {key.fingerprint}"):
        public.register("0" * 16, embedding_for(key, public))


def test_what_the_service_says_and_serves_is_public():
    public, key = service(), SecretKey.generate()
    info = public.model_info()
    assert (info["version"], info["encryption"], info["patch_size"], info["hidden_size"]) == (1, None, 4, 32)
    assert info["labels"] == {str(index): f"LABEL_{index}" for index in range(5)}
    assert len(info["palette"]) == 5
    assert info["preprocessor"]["patch_size"] == 4
    weight = safetensors.torch.load(public.public_embedding())["weight"]
    assert torch.equal(weight, projection(public.model).weight)
    weight, facts = embedding_from_bytes(embedding_for(key, public))
    assert facts == key.facts
    assert_no_secret(embedding_for(key, public), key)
