"""The service's one endpoint for gradio_client: the same answers and refusals as POST /v1/segment, and no files."""

import base64
import tempfile

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")

from gradio_client import Client
from gradio_client.exceptions import AppError

from helpers.browser import tiny_service
from helpers.loopback import running
from helpers.tiny_service import register
from hf_privseg import SecretKey, SetrImageProcessor
from hf_privseg.client.http_calls import httpx
from hf_privseg.service.access import Grant, add_token

JOIN = "gradio_api/queue/join"


@pytest.fixture(scope="module")
def ciphertext():
    """(key, container)"""
    key = SecretKey.generate()
    levels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    return key, SetrImageProcessor().encrypt(Image.fromarray(levels), key).to_bytes()


@pytest.fixture(scope="module")
def registered(public, ciphertext):
    """(client, address) of a service that knows the key."""
    engine, url = public
    register(engine, ciphertext[0], patch_size=16)
    return Client(url, analytics_enabled=False, verbose=False), url


def test_it_answers_as_the_interface_does_and_no_file_is_written(registered, ciphertext, monkeypatch, tmp_path):
    client, url = registered
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    answer = client.predict(base64.b64encode(ciphertext[1]).decode(), api_name="/segment")
    expected = httpx.post(f"{url}/v1/segment", content=ciphertext[1])
    assert expected.status_code == 200
    assert base64.b64decode(answer) == expected.content
    assert list(tmp_path.rglob("*")) == []


def test_it_is_the_only_endpoint(registered):
    endpoints = registered[0].view_api(print_info=False, return_format="dict")
    assert list(endpoints["named_endpoints"]) == ["/segment"]
    assert endpoints["unnamed_endpoints"] == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("%%", "expected a ciphertext container in base64, got something else"),
        (base64.b64encode(b"x" * 99).decode(), "expected an encrypted image"),
    ],
)
def test_what_is_no_ciphertext_is_refused_with_a_reason(registered, text, message):
    with pytest.raises(AppError, match=message):
        registered[0].predict(text, api_name="/segment")


def test_a_key_that_is_not_registered_is_refused_as_by_the_interface(registered):
    content = SetrImageProcessor().encrypt(Image.new("RGB", (32, 32)), SecretKey.generate()).to_bytes()
    told = httpx.post(f"{registered[1]}/v1/segment", content=content).json()["error"]["message"]
    with pytest.raises(AppError) as refusal:
        registered[0].predict(base64.b64encode(content).decode(), api_name="/segment")
    assert refusal.value.message == told


def test_a_call_is_bounded_while_it_is_read(public):
    engine, url = public
    size = engine.limits.max_upload_bytes * 4 // 3 + 5000
    refused = httpx.post(f"{url}/{JOIN}", content=b"x" * size, headers={"content-type": "application/json"})
    assert refused.status_code == 413
    assert refused.json()["error"]["code"] == "too_large"


def test_a_private_service_wants_its_token_for_a_call(tmp_path, ciphertext):
    key, content = ciphertext
    engine, path = tiny_service(), tmp_path / "tokens.json"
    register(engine, key, patch_size=16)
    token = add_token(path, Grant("hospital", (key.fingerprint,)))
    text = base64.b64encode(content).decode()
    with running(engine, tokens=path, page=True) as url:
        refused = httpx.post(f"{url}/{JOIN}", json={"data": [text], "fn_index": 0, "session_hash": "s"})
        assert refused.status_code == 401
        headers = {"Authorization": f"Bearer {token}"}
        client = Client(url, headers=headers, analytics_enabled=False, verbose=False)
        answer = client.predict(text, api_name="/segment")
        assert base64.b64decode(answer) == httpx.post(f"{url}/v1/segment", content=content, headers=headers).content
