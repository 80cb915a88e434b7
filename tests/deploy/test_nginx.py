"""deploy/nginx.conf in a real nginx with TLS on loopback, before a service of ours."""

import re
import shutil
import socket
import ssl
import subprocess
import time

import numpy as np
import pytest

from helpers.loopback import running
from helpers.paths import ROOT
from helpers.tiny_service import ciphertext, register, service
from hf_privseg import SecretKey
from hf_privseg.client.http_calls import httpx

pytest.importorskip("fastapi")
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin") or ""
MAIN = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/default.conf;
}}
"""


def adapted(url, folder, port):
    """deploy/nginx.conf for this machine: addresses, folders, and the option of HTTP/2 before nginx 1.25.1."""
    text = (ROOT / "deploy" / "nginx.conf").read_text(encoding="utf-8")
    version = subprocess.run([NGINX, "-v"], capture_output=True, text=True, check=True).stderr
    protocol = ""
    if tuple(map(int, re.findall(r"\d+", version)[:3])) < (1, 25, 1):
        text, protocol = text.replace("    http2 on;\n", ""), " http2"
    changes = {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl{protocol};",
        "http://privseg:7860": url,
        "/etc/nginx/tls/": f"{folder}/",
    }
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


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
    folder = tmp_path_factory.mktemp("nginx")
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *names, *files]
    subprocess.run(make, check=True, capture_output=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with running(engine) as url:
        (folder / "default.conf").write_text(adapted(url, folder, port))
        (folder / "nginx.conf").write_text(MAIN.format(folder=folder))
        options = ["-c", str(folder / "nginx.conf"), "-p", str(folder)]
        process = subprocess.Popen([NGINX, *options, "-e", str(folder / "error.log")])
        address = f"https://localhost:{port}"
        trusted = ssl.create_default_context(cafile=folder / "certificate.pem")
        try:
            with httpx.Client(base_url=address, verify=trusted, timeout=30) as client:
                deadline = time.monotonic() + 20
                while process.poll() is None and time.monotonic() < deadline:
                    try:
                        client.get("/healthz")
                        break
                    except httpx.TransportError:
                        time.sleep(0.1)
                assert process.poll() is None, (folder / "error.log").read_text()
                yield client
        finally:
            process.terminate()
            process.wait(timeout=20)


pytestmark = pytest.mark.skipif(not NGINX or shutil.which("openssl") is None, reason="nginx or openssl is missing")


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
