"""The service's engine: sessions that share one model and never disturb each other, limits, and clear refusals."""

import re
import threading
import time

import numpy as np
import pytest
import safetensors.torch
import torch

from helpers.leaks import assert_no_secret
from helpers.tiny_service import ciphertext, embedding_for, image, processor, service
from helpers.tiny_setr import make_key, pixels, projection, tiny_model
from hf_privseg import CiphertextError, KeyMismatchError, SecretKey
from hf_privseg.service import Limits, SegmentationService
from hf_privseg.service.embedding_file import embedding_from_bytes, embedding_to_bytes
from hf_privseg.service.model_view import with_projection_weight
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.public_facts import KeyFacts

FAMILIES = ["permutation", "signed_permutation", "orthogonal", "matrix"]
FACTS = {"family": "orthogonal", "version": 1, "fingerprint": "0123456789abcdef"}


# ------------------------------------------------------------------------------------------------------------- views


def test_a_view_computes_with_its_own_weight_and_shares_everything_else():
    model, key = tiny_model("mla"), make_key()
    expected = model(pixels()).logits
    before = {name: value.clone() for name, value in model.state_dict().items()}
    view = with_projection_weight(
        model, cipher_for(key, patch_size=4).encrypt_weight(projection(model).weight), KeyFacts(**FACTS)
    )
    encrypted = cipher_for(key, patch_size=4).encrypt(pixels())
    torch.testing.assert_close(view(encrypted).logits, expected, rtol=1e-3, atol=1e-4)
    assert (view(pixels()).logits - expected).abs().max() > 0.1
    own = {name for name, value in view.named_parameters() if value is not dict(model.named_parameters())[name]}
    assert own == {"setr.embeddings.patch_embeddings.projection.weight"}
    assert model.config.encryption is None
    assert view.config.encryption == FACTS
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_view_refuses_a_weight_of_another_shape():
    with pytest.raises(ValueError, match=r"shape \(32, 3, 4, 4\), got \(32, 3, 8, 8\)"):
        with_projection_weight(tiny_model(), torch.zeros(32, 3, 8, 8), KeyFacts(**FACTS))


# ---------------------------------------------------------------------------------------------------------- sessions


@pytest.mark.parametrize("family", FAMILIES)
def test_a_session_segments_as_the_plain_model_does(family):
    public, key = service(), SecretKey.generate(family)
    session = public.register_embedding(embedding_for(key, public))["session"]
    labels = public.segment(ciphertext(key), session)
    assert labels.dtype == np.uint8
    assert labels.shape == (18, 30)
    plain = public.model(**processor()(image(), return_tensors="pt"))
    expected = processor().post_process_semantic_segmentation(plain, [(18, 30)])[0].numpy()
    assert len(np.unique(expected)) == 3
    assert (labels == expected).mean() > 0.99  # 16 bits of a float ciphertext may turn a near-tie


def test_sessions_with_different_keys_interleave_in_threads():
    public = service()
    keys = [SecretKey.generate(family) for family in FAMILIES for _ in range(2)]
    sessions = [public.register_embedding(embedding_for(key, public))["session"] for key in keys]
    uploads = [ciphertext(key, seed) for seed, key in enumerate(keys)]
    alone = [public.segment(upload, session) for upload, session in zip(uploads, sessions, strict=True)]
    assert len({labels.tobytes() for labels in alone}) == len(keys)
    wrong = []

    def client(index):
        for _ in range(6):
            if not np.array_equal(public.segment(uploads[index], sessions[index]), alone[index]):
                wrong.append(index)

    threads = [threading.Thread(target=client, args=(index,)) for index in range(len(keys))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_session_ends_by_the_clock():
    now = [0.0]
    public, key = service(limits=Limits(session_seconds=60), clock=lambda: now[0]), make_key()
    answer = public.register_embedding(embedding_for(key, public))
    assert answer["expires_in_seconds"] == 60
    now[0] = 59.0
    public.segment(ciphertext(key), answer["session"])
    now[0] = 60.0
    with pytest.raises(ValueError, match=r"unknown or over; register .* again \(register_embedding\)"):
        public.segment(ciphertext(key), answer["session"])


def test_a_session_is_forgotten_without_any_further_call():
    public, key = service(limits=Limits(session_seconds=1)), make_key()
    public.register_embedding(embedding_for(key, public))
    assert len(public._sessions) == 1
    deadline = time.monotonic() + 10
    while public._sessions and time.monotonic() < deadline:
        time.sleep(0.05)
    assert public._sessions == {}


def test_the_session_that_was_used_longest_ago_makes_room():
    public = service(limits=Limits(max_sessions=2))
    keys = [make_key(first_byte=index) for index in range(3)]
    first, second = (public.register_embedding(embedding_for(key, public))["session"] for key in keys[:2])
    public.segment(ciphertext(keys[0]), first)
    public.register_embedding(embedding_for(keys[2], public))
    public.segment(ciphertext(keys[0]), first)
    with pytest.raises(ValueError, match="unknown or over"):
        public.segment(ciphertext(keys[1]), second)


def test_a_client_can_end_its_session():
    public, key = service(), make_key()
    session = public.register_embedding(embedding_for(key, public))["session"]
    public.end_session(session)
    public.end_session("no such session")
    with pytest.raises(ValueError, match="unknown or over"):
        public.segment(ciphertext(key), session)


# ----------------------------------------------------------------------------------------------------- encrypted model


def test_an_encrypted_model_takes_images_of_its_key_without_a_session():
    key = make_key()
    private = SegmentationService(tiny_model().encrypt_model(key), processor())
    assert private.model_info()["encryption"] == {"family": "orthogonal", "version": 1, "fingerprint": key.fingerprint}
    assert private.segment(ciphertext(key)).shape == (18, 30)
    with pytest.raises(ValueError, match="expected no session"):
        private.segment(ciphertext(key), "token")
    with pytest.raises(ValueError, match=f"{key.fingerprint}.*clients bring none of their own"):
        private.register_embedding(b"")
    with pytest.raises(ValueError, match=f"{key.fingerprint}.*its plain patch embedding is not here"):
        private.public_embedding()


# ------------------------------------------------------------------------------------------------------------ refusals


def test_another_key_is_refused_with_both_fingerprints():
    public, key, other = service(), make_key(), make_key(first_byte=9)
    session = public.register_embedding(embedding_for(key, public))["session"]
    with pytest.raises(KeyMismatchError, match=f"{other.fingerprint}.*{key.fingerprint}"):
        public.segment(ciphertext(other), session)


def test_a_plain_service_needs_a_session():
    with pytest.raises(ValueError, match=r"expected a session, .* got none; register"):
        service().segment(ciphertext(make_key()))


def test_images_beyond_the_limits_are_refused():
    key = make_key()
    small = service(limits=Limits(max_pixels=100))
    session = small.register_embedding(embedding_for(key, small))["session"]
    with pytest.raises(CiphertextError, match="expected an image of 1 to 100 pixels, got 20 x 32"):
        small.segment(ciphertext(key), session)
    small = service(limits=Limits(max_original_pixels=100))
    session = small.register_embedding(embedding_for(key, small))["session"]
    with pytest.raises(CiphertextError, match="original size has at most 100 pixels here, got 18 x 30"):
        small.segment(ciphertext(key), session)


def test_many_labels_lower_the_limit_of_the_original_size():
    model = tiny_model(num_labels=150)
    assert SegmentationService(model, processor()).model_info()["max_original_pixels"] == 2**28 // 150


def with_metadata(**changes):
    """An embedding's file whose metadata say otherwise."""
    return safetensors.torch.save(
        {"weight": torch.zeros(32, 3, 4, 4)}, metadata={name: str(value) for name, value in FACTS.items()} | changes
    )


def test_a_limit_is_positive():
    with pytest.raises(ValueError, match="max_sessions is at least 1, got 0"):
        Limits(max_sessions=0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"rubbish", "expected a safetensors file with an encrypted patch embedding, got "),
        (embedding_to_bytes(torch.zeros(32, 3, 4, 4)), "the family of a key is .*, got a NoneType"),
        (with_metadata(version="2"), "the version of a key is the number 1, got a str of 1 characters"),
        (with_metadata(fingerprint="x" * 16), "16 hexadecimal characters, got a str of 16 characters"),
        (with_metadata(family="rot13"), "got 'rot13'"),
        (embedding_to_bytes(torch.full((32, 3, 4, 4), torch.nan), KeyFacts(**FACTS)), "got NaN or infinity"),
        (embedding_to_bytes(torch.zeros(8, 3, 4, 4), KeyFacts(**FACTS)), r"shape \(32, 3, 4, 4\), got \(8, 3, 4, 4\)"),
        (safetensors.torch.save({"a": torch.zeros(2).half()}), r"one float32 tensor.*F16 \(2,\)"),
        (safetensors.torch.save({"a": torch.zeros(2), "b": torch.zeros(1)}), "one float32 tensor"),
    ],
    ids=["rubbish", "no facts", "version", "fingerprint", "family", "nan", "shape", "dtype", "two tensors"],
)
def test_a_bad_embedding_is_refused(data, message):
    public = service()
    with pytest.raises(ValueError, match=message):
        public.register_embedding(data)
    assert not public._sessions


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
    assert re.fullmatch(r"[\w-]{22}", public.register_embedding(embedding_for(key, public))["session"])
    assert_no_secret(embedding_for(key, public), key)
