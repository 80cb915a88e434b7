"""Fifty clients of twenty tenants at once, hostile traffic beside them: every good request is answered right."""

import itertools
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest
from service_load import hostile_files

from helpers.loopback import running
from helpers.tiny_service import ciphertext, processor, register, service
from hf_privseg import SecretKey
from hf_privseg.client import SegmentationClient
from hf_privseg.client.http_calls import httpx
from hf_privseg.service import EmbeddingFolder, Limits
from hf_privseg.service.access import Grant, add_token

pytest.importorskip("fastapi")
TENANTS, CLIENTS, IMAGES = 20, 50, 2  # of each tenant; a client sends one of them


def hostile(url, good, contents, token, seed, stop):
    """Requests that mean no good, one after the other, until `stop` is set -> their statuses."""
    rng, parts = random.Random(seed), urlsplit(url)
    statuses: list[int] = []
    headers = {"Authorization": f"Bearer {token}"}
    kinds = itertools.cycle(("content", "token", "path", "slow"))
    while not stop.is_set() or len(statuses) < 3:
        content, kind = rng.choice(contents), next(kinds)
        try:
            if kind == "content":
                statuses.append(httpx.post(f"{url}/v1/segment", content=content, headers=headers).status_code)
            elif kind == "token":
                wrong = {"Authorization": f"Bearer {rng.randbytes(32).hex()}"}
                statuses.append(httpx.post(f"{url}/v1/segment", content=good, headers=wrong).status_code)
            elif kind == "path":
                statuses.append(
                    httpx.get(f"{url}/v1/embeddings/{rng.randbytes(8).hex()}", headers=headers).status_code
                )
            else:
                with socket.create_connection((parts.hostname, parts.port)) as connection:
                    head = "POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 9999"
                    connection.sendall(f"{head}\r\nAuthorization: Bearer {token}\r\n\r\nabc".encode())
                    stop.wait(0.3)
        except (OSError, httpx.HTTPError):  # the service has closed the connection while more was sent
            pass
    return statuses


@pytest.mark.slow
@pytest.mark.parametrize("max_batch", [1, 8])
def test_every_good_request_is_answered_right(tmp_path, max_batch):
    limits = Limits(max_pixels=2**14, body_seconds=2, max_batch=max_batch)
    engine = service(limits=limits, store=EmbeddingFolder(tmp_path / "store"))
    keys = [SecretKey.generate(family) for family in ("orthogonal", "matrix", "permutation") * 7][:TENANTS]
    tokens = [add_token(tmp_path / "tokens.json", Grant(f"t{n}", (key.fingerprint,))) for n, key in enumerate(keys)]
    for key in keys:
        register(engine, key)
    files = [[ciphertext(key, seed) for seed in range(IMAGES)] for key in keys]
    expected = [[engine.segment(file) for file in of_tenant] for of_tenant in files]
    attacker = add_token(tmp_path / "tokens.json", Grant("attacker", (keys[0].fingerprint,)))
    contents = list(hostile_files(keys[0], processor(), num_bytes=10**6, sides=(2048, 1000)).values())
    contents += [files[0][0][:-1], files[0][0][:-8] + bytes(8), files[1][0]]  # cut, changed, another tenant's

    def client(number):
        """The share of pixels of the answer that agree with those of the image by itself."""
        tenant, index = number % TENANTS, number // TENANTS % IMAGES
        headers = {"Authorization": f"Bearer {tokens[tenant]}", "Accept": "application/x-npy"}
        with httpx.Client(headers=headers, timeout=120) as connection:
            while (answer := connection.post(f"{url}/v1/segment", content=files[tenant][index])).status_code == 503:
                stop.wait(float(answer.headers["retry-after"]))
        assert answer.status_code == 200, answer.text
        found = np.frombuffer(answer.content[-expected[tenant][index].size :], np.uint8)
        return (found == expected[tenant][index].ravel()).mean()

    stop = threading.Event()
    with running(engine, tokens=tmp_path / "tokens.json") as url, ThreadPoolExecutor(CLIENTS + 4) as pool:
        attackers = [pool.submit(hostile, url, files[0][0], contents, attacker, n, stop) for n in range(4)]
        try:
            shares = np.array(list(pool.map(client, range(CLIENTS))))
        finally:
            stop.set()
        statuses = {status for attacker in attackers for status in attacker.result()}
        assert httpx.get(f"{url}/readyz").status_code == 200
    assert shares.shape == (CLIENTS,)
    assert shares.min() > (0.99 if max_batch > 1 else 0.9999999)  # a batch sums in another order: near-ties turn
    assert statuses <= {401, 403, 404, 408, 413, 422, 429, 503}
    assert {401, 403, 422} <= statuses


def test_a_client_of_ours_gets_its_map_though_others_fill_the_queue(tmp_path):
    engine = service(limits=Limits(max_queue=2, max_batch=1))
    key = SecretKey.generate()
    engine.model.encrypt_model(key)
    engine = type(engine)(engine.model, engine.processor, limits=engine.limits)
    image = np.random.default_rng(0).integers(0, 256, (18, 30, 3), np.uint8)
    with running(engine) as url:

        def one(_):
            with SegmentationClient(url, processor=processor(), patch_size=4, retries=50) as client:
                return client.segment(image, key)

        with ThreadPoolExecutor(12) as pool:
            maps = list(pool.map(one, range(12)))
    assert all(np.array_equal(found, maps[0]) for found in maps)
    np.testing.assert_array_equal(maps[0], engine.segment(processor().encrypt(image, key).to_bytes()))
