"""The service as a process: SIGTERM finishes what runs, workers share tenants and metrics, TLS, and who is local."""

import itertools
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from helpers import preloaded
from helpers.paths import ROOT
from helpers.tiny_service import ciphertext, embedding_for, processor, service
from helpers.tiny_setr import make_key
from hf_privseg import SecretKey
from hf_privseg.client.http_calls import httpx

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

import uvicorn

from hf_privseg.service import EmbeddingFolder, server
from hf_privseg.service.embedding_file import embedding_to_bytes
from hf_privseg.service.server import Settings, is_loopback
from hf_privseg.setr.public_facts import KeyFacts

SLOW_SERVICE = """
import time
from hf_privseg.service import server
from helpers.tiny_service import register, service
from helpers.tiny_setr import make_key

engine = service()
register(engine, make_key())
original, build_app = engine.segment_batch, server.build_app
engine.segment_batch = lambda images: (time.sleep(2), original(images))[1]
server.build_app = lambda settings: build_app(settings, engine)
server.serve(server.Settings(port=PORT, page=False))
"""


REGISTERING_SERVICE = """
from pathlib import Path
from hf_privseg.service import EmbeddingFolder, server
from helpers.tiny_service import service

engine, build_app = service(store=EmbeddingFolder(Path("FOLDER"))), server.build_app
server.build_app = lambda settings: build_app(settings, engine)
server.serve(server.Settings(port=PORT, page=False))
"""


# Its workers are forked, not spawned, which saves them the imports. What counts requests is told when it is imported
# that processes count together.
FORKING_SERVICE = """
import multiprocessing, os
os.environ["PROMETHEUS_MULTIPROC_DIR"] = "set by the service"
from uvicorn import _subprocess
from hf_privseg.cli.app import main

_subprocess.spawn = multiprocessing.get_context("fork")
main()
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


@contextmanager
def process(command, port, log, scheme="http"):
    """A service in a process of its own, once it is ready; its output goes to the file `log`."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    with log.open("w") as output:
        started = preloaded.start("hf_privseg", *command, env=environment, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 240
        while True:
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                httpx.get(f"{scheme}://127.0.0.1:{port}/readyz", verify=False).raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield started
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(timeout=60)
        finally:
            started.kill()


def lines(log):
    """The JSON lines of a log; every line is one."""
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.slow
def test_sigterm_finishes_what_runs_and_refuses_the_rest(tmp_path):
    port, answers = free_port(), []
    command = ["-c", SLOW_SERVICE.replace("PORT", str(port))]
    with process(command, port, tmp_path / "log") as started:
        url = f"http://127.0.0.1:{port}/v1/segment"
        post = threading.Thread(
            target=lambda: answers.append(httpx.post(url, content=ciphertext(make_key()), timeout=60))
        )
        post.start()
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"no HTTP at all\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
        time.sleep(0.7)
        started.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"http://127.0.0.1:{port}/healthz")
        post.join()
        started.wait(timeout=30)
    assert [answer.status_code for answer in answers] == [200]
    assert started.returncode in (0, -signal.SIGTERM)
    found = lines(tmp_path / "log")
    assert "Invalid HTTP request received." in [line["message"] for line in found]
    assert {line["route"] for line in found if line["message"] == "request"} == {"/readyz", "/v1/segment"}


def register_until_gone(url, number, begun, acknowledged):
    """Registers under three fingerprints in turn, each time a weight of another number, until the service is gone."""
    with httpx.Client(base_url=url) as client:
        for version in itertools.count(max(begun.values(), default=-1) + 1):
            facts = KeyFacts("orthogonal", 1, f"{number:x}{version % 3:015x}")
            begun[facts.fingerprint] = version
            content = embedding_to_bytes(torch.full((32, 3, 4, 4), float(version)), facts)
            try:
                response = client.put(f"/v1/embeddings/{facts.fingerprint}", content=content)
            except httpx.HTTPError:
                return
            assert response.status_code in (200, 201), response.text
            acknowledged[facts.fingerprint] = version


@pytest.mark.slow
def test_a_kill_in_the_middle_of_registrations_loses_nothing_that_was_acknowledged(tmp_path):
    folder, kills = tmp_path / "embeddings", 2
    begun: list[dict[str, int]] = [{} for _ in range(4)]
    acknowledged: dict[str, int] = {}
    for attempt in range(kills + 1):
        port = free_port()
        script = REGISTERING_SERVICE.replace("FOLDER", str(folder)).replace("PORT", str(port))
        with process(["-c", script], port, tmp_path / f"log{attempt}") as started:
            url = f"http://127.0.0.1:{port}"
            assert all(httpx.get(f"{url}/v1/embeddings/{name}").status_code == 200 for name in acknowledged)
            if attempt == kills:
                break
            goal = sum(acknowledged.values()) + 100
            with ThreadPoolExecutor(len(begun)) as pool:
                tasks = [pool.submit(register_until_gone, url, n, each, acknowledged) for n, each in enumerate(begun)]
                while sum(acknowledged.values()) < goal:
                    time.sleep(0.01)
                started.kill()
            assert [task.result() for task in tasks] == [None] * len(begun)
        store = EmbeddingFolder(folder)
        found = {name: int(store.get(name).weight.flatten()[0]) for name in store.fingerprints()}
        assert len(acknowledged) == 12
        for name, version in acknowledged.items():
            last = begun[int(name[0], 16)][name]
            assert found[name] in (version, last)  # the last may have arrived without an answer


@pytest.mark.slow
def test_workers_share_tenants_and_count_together(tmp_path):
    engine, keys, port = service(), [SecretKey.generate() for _ in range(3)], free_port()
    engine.model.encrypt_model(keys[0]).save_pretrained(tmp_path / "model")
    processor().save_pretrained(tmp_path / "model")
    plain = service()
    command = ["-c", FORKING_SERVICE, "serve", str(tmp_path / "model"), "--port", str(port)]
    command += ["--no-page", "--workers", "2", "--embeddings", str(tmp_path / "store")]
    with process(command, port, tmp_path / "log"):
        url = f"http://127.0.0.1:{port}"
        for key in keys[1:]:
            path = f"{url}/v1/embeddings/{key.fingerprint}"
            assert httpx.put(path, content=embedding_for(key, plain)).status_code == 201
        statuses = [
            httpx.post(f"{url}/v1/segment", content=ciphertext(key)).status_code for key in keys for _ in range(8)
        ]
        assert statuses == [200] * 24
        text = httpx.get(f"{url}/metrics").text
        assert 'privseg_requests_total{route="/v1/segment",status="200"} 24.0' in text
        assert "privseg_tenants 2.0" in text
        assert "privseg_queue_depth 0.0" in text
        assert httpx.delete(f"{url}/v1/embeddings/{keys[1].fingerprint}").status_code == 204
        assert {httpx.post(f"{url}/v1/segment", content=ciphertext(keys[1])).status_code for _ in range(8)} == {409}


def test_what_workers_are_spawned_with_goes_to_another_process(tmp_path, monkeypatch):
    """And a worker has minutes for its imports and its model: uvicorn's own limit, five seconds, has it end before."""
    seen: dict[str, Any] = {}
    monkeypatch.setattr("uvicorn.run", lambda app, **options: seen.update(options, app=app))
    monkeypatch.setattr(server, "log_to_stderr", lambda: None)
    monkeypatch.setenv(server._SETTINGS, "")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")
    server.serve(Settings(workers=2, embeddings=tmp_path, model="nowhere"))
    assert pickle.loads(pickle.dumps(uvicorn.Config(**seen))).workers == 2  # noqa: S301 - made here
    assert seen["timeout_worker_healthcheck"] >= 60


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_makes_it_https(tmp_path):
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "certificate.pem")]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost", *files]
    subprocess.run(make, check=True, capture_output=True)
    engine, port = service(), free_port()
    engine.model.encrypt_model(make_key()).save_pretrained(tmp_path / "model")
    processor().save_pretrained(tmp_path / "model")
    command = ["-m", "hf_privseg.cli", "serve", str(tmp_path / "model"), "--port", str(port)]
    command += ["--no-page", "--tls-key", str(tmp_path / "key.pem")]
    command += ["--tls-certificate", str(tmp_path / "certificate.pem")]
    with process(command, port, tmp_path / "log", scheme="https"):
        response = httpx.post(f"https://127.0.0.1:{port}/v1/segment", content=ciphertext(make_key()), verify=False)
        assert response.status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/healthz")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_addresses_that_only_this_machine_reaches(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", ""])
def test_addresses_that_others_reach(host):
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 2}, "expected a folder of embeddings for 2 workers, which have no memory in common, got none"),
        ({"tls_key": "k.pem"}, "expected a certificate and its key for HTTPS, got one of the two"),
    ],
    ids=["workers", "tls"],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)
