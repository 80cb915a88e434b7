"""A Gradio function beside the service's own route, in small: the pieces of benchmarks/service_routes.py."""

import argparse
import json
import os
import socket

import pytest

pytest.importorskip("gradio")

from gradio_route import build
from PIL import Image
from service_routes import State, load, measure, memory, report, traffic

from helpers.loopback import running
from helpers.tiny_setr import tiny_model
from hf_privseg import SecretKey, SetrImageProcessor
from hf_privseg.service import SegmentationService

SMALL = argparse.Namespace(size=32, clients=[1, 2], requests=2, rounds=2, memory_requests=[10, 20], memory_size=None)


@pytest.fixture(scope="module")
def key():
    return SecretKey.generate()


@pytest.fixture(scope="module")
def services(key, tmp_path_factory):
    """{route: (address, process id)}, both with one engine."""
    model = tiny_model("mla", patch_size=16, image_size=64).encrypt_model(key)
    engine = SegmentationService(model, SetrImageProcessor())
    app = build(engine, tmp_path_factory.mktemp("answers"))
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    _, gradio, _ = app.launch(server_port=port, prevent_thread_lock=True, ssr_mode=False, quiet=True)
    try:
        with running(engine) as url:
            yield {"gradio": (gradio, os.getpid()), "v1": (url, os.getpid())}
    finally:
        app.close()


@pytest.fixture(scope="module")
def ciphertext(key, tmp_path_factory):
    path = tmp_path_factory.mktemp("ciphertext") / "image.encrypted.safetensors"
    SetrImageProcessor().encrypt(Image.effect_noise((64, 32), 60).convert("RGB"), key).to_file(path)
    return path


def test_a_request_of_ours_is_one_and_carries_the_file_once(services, ciphertext):
    found = {route: traffic(route, url, ciphertext, 2) for route, (url, _) in services.items()}
    size = ciphertext.stat().st_size
    assert found["v1"]["requests"] == 1
    assert found["gradio"]["requests"] > 1
    assert all(size <= row["sent"] < size + 8192 for row in found.values())
    assert all(row["received"] > 0 for row in found.values())


@pytest.mark.parametrize("route", ["gradio", "v1"])
def test_all_clients_are_answered_and_timed(services, ciphertext, route):
    rate, *seconds = load(route, services[route][0], ciphertext, 3, 2)
    assert len(seconds) == 6
    assert 0 < rate <= 6 / max(seconds)


def test_memory_is_that_before_and_after_each_tenth(services, ciphertext, monkeypatch):
    monkeypatch.setattr("service_routes.SETTLING_SECONDS", 0)
    url, pid = services["v1"]
    assert len(memory("v1", url, pid, ciphertext, 20, 2)) == 11


def test_what_was_measured_is_kept_and_reported(services, key, tmp_path, monkeypatch):
    path, earlier = tmp_path / "state.jsonl", {f"{route}, memory": [90.0, 95.5, 99.0] for route in services}
    path.write_text("".join(json.dumps(pair) + "\n" for pair in earlier.items()))
    measure(State(path), SMALL, services, tmp_path, key)
    monkeypatch.setattr("service_routes.traffic", pytest.fail)  # what was measured is not measured again
    monkeypatch.setattr("service_routes.load", lambda *_: [])  # nor this, but for the first request
    state = State(path)
    measure(state, SMALL, services, tmp_path, key)
    state.values |= {"files": {"gradio": 3, "v1": 0}, "on": "a machine"}
    lines = report(state, SMALL).splitlines()
    cells = {row[0]: row[1:] for row in ([cell.strip() for cell in line.strip("| ").split("|")] for line in lines)}
    assert cells["requests an image"][1] == "1.0"
    assert cells["files left on the disk"] == ["3", "0"]
    assert cells["requests before memory is read"] == ["10", "20"]
    assert cells["MiB after all"] == ["99", "99"]
    rates = [state.values[f"v1, 2 clients, round {number}"][0] for number in range(2)]
    assert float(cells["images a second, 2 clients"][1]) == pytest.approx(sum(rates) / 2, abs=0.006)
