"""examples/ray_serve.py with two replicas on this machine: tenants, tokens, batches, and what is refused."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from helpers.paths import EXAMPLES, ROOT
from helpers.tiny_service import ciphertext, embedding_for, image, processor, service
from hf_privseg import SecretKey
from hf_privseg.client.http_calls import httpx

pytest.importorskip("fastapi")
pytest.importorskip("ray.serve", reason="Ray Serve is not installed: pip install 'hf-privseg[ray,service]'")

from hf_privseg.service import EmbeddingFolder, SegmentationService
from hf_privseg.service.access import Grant, add_token

pytestmark = pytest.mark.slow
NPY = "application/x-npy"


@pytest.fixture(scope="module")
def keys():
    """Of the model, and of two tenants."""
    return [SecretKey.generate() for _ in range(3)]


@pytest.fixture(scope="module")
def place(keys, tmp_path_factory):
    folder, plain = tmp_path_factory.mktemp("shared"), service()
    service().model.encrypt_model(keys[0]).save_pretrained(folder / "model")
    processor().save_pretrained(folder / "model")
    engine = SegmentationService(
        plain.model.encrypt_model(keys[0]), processor(), store=EmbeddingFolder(folder / "embeddings")
    )
    for key in keys[1:]:
        engine.register(key.fingerprint, embedding_for(key, service()))
    return folder, engine


@pytest.fixture(scope="module")
def client(place):
    """A client with a token, once the example answers."""
    folder, _ = place
    token = add_token(folder / "tokens.json", Grant("anybody", None, False, 10**6, 100))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    given = {"model": folder / "model", "embeddings": folder / "embeddings", "tokens": folder / "tokens.json"}
    given |= {"port": port, "min_replicas": 2, "max_replicas": 2, "cpus": 0.1}
    words = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    with tempfile.TemporaryDirectory(dir="/tmp") as session, (folder / "log").open("w") as log:  # sockets: short names
        environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": session, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(EXAMPLES / "ray_serve.py"), *words]
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        header = {"Authorization": f"Bearer {token}"}
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=header, timeout=60) as client:
                deadline = time.monotonic() + 200
                while "Ctrl-C ends" not in (folder / "log").read_text():
                    assert process.poll() is None, (folder / "log").read_text()[-3000:]
                    assert time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
                    time.sleep(0.2)
                yield client
        finally:
            process.send_signal(2)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            process.kill()


def segment(client, content, **headers):
    return client.post("/v1/segment", content=content, headers={"Accept": NPY} | headers)


def test_images_of_several_keys_and_sizes_come_back_as_the_engine_answers(client, place, keys):
    _, engine = place
    sent = []
    for number in range(24):
        key, height = keys[number % 3], 18 if number % 2 else 26
        content = processor().encrypt(image(number, height), key).to_bytes()
        sent.append((content, {"serve_multiplexed_model_id": key.fingerprint} if number % 4 < 2 else {}))
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda each: segment(client, each[0], **each[1]), sent))
    for (content, _), answer in zip(sent, answers, strict=True):
        assert answer.status_code == 200, answer.text
        expected = engine.segment(content)
        found = np.frombuffer(answer.content[-expected.size :], np.uint8)
        assert (found == expected.ravel()).mean() > 0.99  # a batch of another size rounds otherwise


def test_tenants_count_at_once_on_every_replica(client, place):
    folder, engine = place
    key = SecretKey.generate()
    assert [segment(client, ciphertext(key)).status_code for _ in range(8)] == [409] * 8
    engine.register(key.fingerprint, embedding_for(key, service()))
    assert [segment(client, ciphertext(key)).status_code for _ in range(8)] == [200] * 8
    EmbeddingFolder(folder / "embeddings").remove(key.fingerprint)
    found = segment(client, ciphertext(key), serve_multiplexed_model_id=key.fingerprint)
    assert found.status_code == 409
    assert [segment(client, ciphertext(key)).status_code for _ in range(8)] == [409] * 8


def test_refusals_are_those_of_the_service(client, keys):
    assert segment(client, b"no image").json()["error"]["code"] == "bad_ciphertext"
    assert segment(client, ciphertext(keys[1]), Authorization="").json()["error"]["code"] == "unauthorized"
    assert segment(client, ciphertext(keys[1]), Accept="text/html").status_code == 406
    assert client.get("/v1/anything").json()["error"]["code"] == "not_found"
