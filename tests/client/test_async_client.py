"""The client for event loops: the same maps, order and errors as the client for threads."""

import asyncio
import io

import numpy as np
import pytest
from PIL import Image

from helpers.loopback import ScriptedService, fault, running
from helpers.tiny_setr import tiny_model
from hf_privseg import EncryptionStateError, KeyMismatchError, SecretKey, SetrImageProcessor
from hf_privseg.client import AsyncSegmentationClient, SegmentationClient, http_calls
from hf_privseg.service import SegmentationService
from hf_privseg.setr.errors import PartialFailureError, ServiceUnavailableError

pytest.importorskip("fastapi")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(http_calls, "_BACKOFF_SECONDS", (0.01, 0.02))


@pytest.fixture(scope="module")
def key():
    return SecretKey.generate()


@pytest.fixture(scope="module")
def engine(key):
    model = tiny_model("mla", patch_size=16, image_size=64).encrypt_model(key)
    return SegmentationService(model, SetrImageProcessor())


@pytest.fixture(scope="module")
def url(engine):
    with running(engine) as url:
        yield url


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (32, 48 + 16 * n, 3), np.uint8)) for n in range(4)]


def awaited(url, work, **settings):
    async def run():
        async with AsyncSegmentationClient(url, **settings) as client:
            return await work(client)

    return asyncio.run(run())


def test_maps_are_those_of_the_other_client_in_the_same_order(url, key, images, engine):
    with SegmentationClient(url) as client:
        expected = client.segment_batch(images, key, progress=False)
    found = awaited(url, lambda client: client.segment_batch(images, key, progress=False))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    encrypted = engine.processor.encrypt(images[0], key)
    np.testing.assert_array_equal(awaited(url, lambda client: client.segment(encrypted)), expected[0])


def test_what_fails_is_listed_and_the_rest_is_kept(url, key, images):
    with pytest.raises(PartialFailureError, match=r"^no segmentation map for 1 of 2 images: image 0: ") as raised:
        awaited(url, lambda client: client.segment_batch([b"nothing", images[0]], key, progress=False))
    left, right = raised.value.segmentation_maps
    assert left is None
    assert right is not None
    assert right.shape == (32, 48)


def test_a_foreign_key_and_none_at_all_are_refused(url, images):
    other = SecretKey.generate()
    with pytest.raises(KeyMismatchError, match=other.fingerprint):
        awaited(url, lambda client: client.segment(images[0], other))
    with pytest.raises(EncryptionStateError, match="got a plain image and no key"):
        awaited(url, lambda client: client.segment(images[0]))


def test_no_more_than_so_many_are_under_way_and_a_service_that_is_gone_is_left(engine, key, images):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((32, 48), np.uint8)).save(buffer, "PNG")
    with ScriptedService(engine.model_info(), buffer.getvalue()) as service:

        async def work(client):
            await client.info()
            service.faults = [fault(status=503)] * 99
            await client.segment_batch([images[0]] * 6, key, concurrency=1, progress=False)

        with pytest.raises(PartialFailureError) as raised:
            awaited(service.url, work, retries=1)
        assert service.paths == ["/v1/model", "/v1/segment", "/v1/segment"]
    assert str(raised.value.failures[5]) == f"not sent, for {service.url} had become unavailable"
    assert all(isinstance(error, ServiceUnavailableError) for error in raised.value.failures.values())


def test_a_token_is_sent_and_the_address_is_all_that_is_shown(engine):
    with ScriptedService(engine.model_info()) as service:
        info = awaited(service.url, lambda client: client.info(), token="abc")
        assert service.requests[0][2]["authorization"] == "Bearer abc"
    assert info.patch_size == 16
    assert (
        repr(AsyncSegmentationClient("http://localhost", token="abc")) == "AsyncSegmentationClient('http://localhost')"
    )
