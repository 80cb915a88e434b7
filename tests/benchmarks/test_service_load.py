"""A service under load and hostile uploads, in small: the pieces of benchmarks/service_load.py on a tiny model."""

import os
import re

import pytest
from service_load import attack, forget_peak, hostile_files, memory_of, put_under_load

from helpers.loopback import running
from helpers.tiny_setr import tiny_model
from hf_privseg import SecretKey, SetrImageProcessor
from hf_privseg.service import Limits, SegmentationService

pytest.importorskip("fastapi")
REFUSALS = {
    "bomb of 8192 x 8192 pixels": "expected an image of 1 to 32768 pixels, got 8192 x 8192; shrink",
    "bomb of 4000 x 4000 pixels": "expected an image of 1 to 32768 pixels, got 4000 x 4000",
    "tensor larger than its file": "truncated or damaged",
    "header of 2^63 bytes": "expected a header of at most 8192 bytes, got 9223372036854775807",
    "header of nested JSON": "truncated or damaged",
    "image's size of 8192 x 8192": "an image's original size has at most",
    "truncated safetensors": "truncated or damaged",
    "truncated PNG": "truncated or damaged",
    "changed pixels": "the pixels were changed after encryption",
    "JPEG": "expected a PNG or safetensors file, got JPEG",
    "image in plain": "the PNG file has no 'privseg' header",
    "text": "got unknown content",
    "empty file": "got unknown content",
    "wrong fingerprint": "do not belong together",
    "wrong family": "do not belong together",
    "wrong patch size": "encrypted in blocks of 8 pixels, but the patches of .* have 16",
    "1 MB": r"HTTP 413.*expected a body of at most",
}


@pytest.fixture(scope="module")
def key():
    return SecretKey.generate()


@pytest.fixture(scope="module")
def url(key):
    model = tiny_model("mla", patch_size=16, image_size=64).encrypt_model(key)
    with running(SegmentationService(model, SetrImageProcessor(), limits=Limits(max_pixels=2**15))) as url:
        yield url


def test_more_clients_than_the_queue_holds_are_all_served(url, key):
    load = put_under_load(url, key, clients=40, requests=1)
    assert load.failures == []
    assert load.num_maps == len(load.seconds) == 40
    assert str(load).startswith("40 segmentation maps, 0 failures in ")


def test_hostile_uploads_are_refused_with_a_reason_and_cost_no_memory(url, key):
    files = hostile_files(key, SetrImageProcessor(), num_bytes=10**6, sides=(8192, 4000))
    attack(url, files)  # so that everything is loaded
    before, _ = memory_of(os.getpid())
    forget_peak(os.getpid())
    outcomes = attack(url, files)
    after, peak = memory_of(os.getpid())
    assert {outcome.name for outcome in outcomes} == set(REFUSALS)
    for outcome in outcomes:
        assert outcome.is_refused, outcome
        assert re.search(REFUSALS[outcome.name], outcome.answer), outcome
    assert peak - before < 150  # MiB; the bomb of 8192 x 8192 pixels, once decoded, has 192
    assert after - before < 60
    assert put_under_load(url, key, clients=2, requests=2).num_maps == 4
