"""deploy/nginx.conf in a real nginx with TLS on loopback, before a service of ours."""

import numpy as np
import pytest

from helpers import nginx
from helpers.loopback import running
from helpers.tiny_service import ciphertext, register, service
from hf_privseg import SecretKey
from hf_privseg.client.http_calls import httpx

pytest.importorskip("fastapi")


@pytest.fixture(scope="module")
def key():
    return SecretKey.generate()


@pytest.fixture(scope="module")
def engine(key):
    engine = service()
    register(engine, key)
    return engine


@pytest.fixture(scope="module")
def proxy(engine, tmp_path_factory):
    """A client of nginx, which passes on to the service."""
    with running(engine) as url, nginx.proxy("nginx.conf", [url], tmp_path_factory.mktemp("nginx")) as client:
        yield client


pytestmark = nginx.needs_nginx


def test_an_image_passes_through_tls_and_comes_back_as_the_service_answers(proxy, engine, key):
    response = proxy.post("/v1/segment", content=ciphertext(key), headers={"Accept": "application/x-npy"})
    assert response.status_code == 200
    expected = engine.segment(ciphertext(key))
    found = np.frombuffer(response.content[-expected.size :], np.uint8)
    np.testing.assert_array_equal(found, expected.ravel())
    assert response.headers["strict-transport-security"] == "max-age=31536000"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_refusals_pass_in_the_form_of_the_service(proxy):
    response = proxy.post("/v1/segment", content=b"no image")
    assert response.json()["error"]["code"] == "bad_ciphertext"
    assert proxy.get("/v1/model").json()["version"] == 1


def test_a_body_as_large_as_the_service_takes_passes_and_a_larger_one_does_not(proxy, engine):
    limit = engine.limits.max_upload_bytes
    assert proxy.post("/v1/segment", content=bytes(limit)).json()["error"]["code"] == "bad_ciphertext"
    assert proxy.post("/v1/segment", content=bytes(limit + 1)).status_code == 413
    assert proxy.post("/v1/segment", content=bytes(42 * 2**20)).status_code == 413


def test_metrics_and_plain_http_are_for_nobody_outside(proxy):
    assert proxy.get("/metrics").status_code == 404
    address = str(proxy.base_url).replace("https:", "http:")
    assert httpx.get(f"{address}/healthz").status_code == 400
