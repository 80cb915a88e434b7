"""Three replicas behind deploy/nginx-replicas.conf: one folder of tenants and tokens, restarts that lose nothing."""

import collections
import os
import socket
import threading
import time
from contextlib import contextmanager

import pytest

from helpers import nginx, preloaded
from helpers.tiny_service import ciphertext, embedding_for, processor, service
from hf_privseg import SecretKey
from hf_privseg.client.http_calls import httpx
from hf_privseg.service.access import Grant, add_token, revoke_token

pytest.importorskip("fastapi")
pytestmark = pytest.mark.slow


def free_ports(count):
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class Replica:
    """A service in a process of its own, to be started again and again."""

    def __init__(self, folder, port):
        self.folder, self.port, self.url = folder, port, f"http://127.0.0.1:{port}"

    def start(self):
        given = ["serve", self.folder / "model", "--port", self.port, "--no-page"]
        given += ["--embeddings", self.folder / "embeddings", "--tokens", self.folder / "tokens.json"]
        with (self.folder / f"{self.port}.log").open("a") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            command = ["-m", "hf_privseg.cli", *given]
            self.process = preloaded.start("hf_privseg", *command, env=environment, stdout=log, stderr=log)

    def wait_until_ready(self):
        deadline = time.monotonic() + 120
        while True:
            assert self.process.poll() is None, (self.folder / f"{self.port}.log").read_text()
            assert time.monotonic() < deadline
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)

    def end(self, how="terminate"):
        getattr(self.process, how)()
        self.process.wait(60)


@pytest.fixture(scope="module")
def key():
    return SecretKey.generate()


@pytest.fixture(scope="module")
def token(folder):
    return add_token(folder / "tokens.json", Grant("owner", None, True, 10**6, 100))


@pytest.fixture(scope="module")
def folder(key, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    service().model.encrypt_model(key).save_pretrained(folder / "model")
    processor().save_pretrained(folder / "model")
    return folder


@pytest.fixture(scope="module")
def replicas(folder, token):
    started = [Replica(folder, port) for port in free_ports(3)]
    try:
        for replica in started:
            replica.start()
        for replica in started:
            replica.wait_until_ready()
        yield started
    finally:
        for replica in started:
            replica.end("kill")


@pytest.fixture(scope="module")
def balancer(replicas, tmp_path_factory):
    """A client of nginx."""
    if not nginx.NGINX:
        pytest.skip("nginx is missing")
    urls = [replica.url for replica in replicas]
    with nginx.proxy("nginx-replicas.conf", urls, tmp_path_factory.mktemp("nginx")) as client:
        yield client


def wait_for(status, request):
    """Ask until an answer has this status -> seconds."""
    start = time.monotonic()
    while request().status_code != status:
        assert time.monotonic() < start + 1, request().text
        time.sleep(0.01)
    return time.monotonic() - start


def test_what_one_replica_registers_or_revokes_counts_at_the_others_within_a_second(replicas, folder, token):
    tenant, plain = SecretKey.generate(), service()
    header = {"Authorization": f"Bearer {token}"}
    first, *others = replicas

    def segment(replica):
        return httpx.post(f"{replica.url}/v1/segment", content=ciphertext(tenant), headers=header)

    assert [segment(replica).status_code for replica in replicas] == [409] * 3
    path = f"{first.url}/v1/embeddings/{tenant.fingerprint}"
    assert httpx.put(path, content=embedding_for(tenant, plain), headers=header).status_code == 201
    for replica in others:
        wait_for(200, lambda replica=replica: segment(replica))
    assert httpx.delete(path, headers=header).status_code == 204
    for replica in others:
        wait_for(409, lambda replica=replica: segment(replica))
    header["Authorization"] = f"Bearer {add_token(folder / 'tokens.json', Grant('tenant'))}"
    for replica in replicas:
        wait_for(409, lambda replica=replica: segment(replica))
    revoke_token(folder / "tokens.json", "tenant")
    for replica in replicas:
        wait_for(401, lambda replica=replica: segment(replica))


@contextmanager
def steady_load(balancer, key, token, clients=4):
    """Clients that send all the time -> how many requests ended how; none is sent again."""
    ends: collections.Counter[object] = collections.Counter()
    stop, content, header = threading.Event(), ciphertext(key), {"Authorization": f"Bearer {token}"}

    def send():
        while not stop.is_set():
            try:
                ends[balancer.post("/v1/segment", content=content, headers=header).status_code] += 1
            except httpx.HTTPError as error:
                ends[repr(error)] += 1

    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield ends
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@nginx.needs_nginx
@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_a_rolling_restart_loses_no_request(balancer, replicas, key, token, how):
    with steady_load(balancer, key, token) as ends:
        for replica in replicas:
            before = ends[200]
            replica.end(how)
            time.sleep(0.5)
            assert ends[200] > before, "the others do not serve"
            replica.start()
            replica.wait_until_ready()
            time.sleep(2.2)  # until nginx asks the replica again
    cut_off = [end for end in ends if "without sending complete message body" in str(end)]
    allowed = cut_off if how == "kill" else []  # nginx has passed on the head of such an answer
    assert set(ends) == {200, *allowed}, ends
    lost = sum(ends[end] for end in cut_off)
    assert lost <= len(replicas)
    print(f"{how}: {ends[200]} requests, {lost} answers cut off")
