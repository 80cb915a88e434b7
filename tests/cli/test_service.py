"""`privseg serve` and `privseg segment --server`: the same files as from a model here, and what is refused."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
from PIL import Image

from helpers.leaks import assert_no_secret
from helpers.loopback import Relay, ScriptedService, running, unused_address
from helpers.tiny_setr import tiny_model
from hf_privseg import SecretKey, SetrImageProcessor
from hf_privseg.cli import service as cli_service
from hf_privseg.cli.app import main
from hf_privseg.client import gradio_calls
from hf_privseg.client.segmentation_client import SegmentationClient
from hf_privseg.service import SegmentationService
from hf_privseg.setr.errors import ServiceError
from hf_privseg.storage.models import load_model

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    """A folder with a plain and an encrypted tiny model, the key and two photos."""
    folder = tmp_path_factory.mktemp("materials")
    key, model = (
        SecretKey.generate(),
        tiny_model("mla", patch_size=16, image_size=64, id2label=dict(enumerate("abcde"))),
    )
    key.to_file(folder / "secret.key")
    model.save_pretrained(folder / "model")
    model.encrypt_model(key).save_pretrained(folder / "encrypted")
    for name in ("model", "encrypted"):
        SetrImageProcessor().save_pretrained(folder / name)
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        blocks = np.kron(rng.integers(0, 256, (4, 5, 3)), np.ones((16, 16, 1)))[:60, :75]
        Image.fromarray(blocks.astype(np.uint8)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def url(materials, tmp_path_factory):
    with running(SegmentationService(*load_model(materials / "encrypted")), tmp_path_factory.mktemp("gradio")) as url:
        yield url


@pytest.fixture
def run(materials, tmp_path, capsys, monkeypatch):
    """Runs `privseg` in the folder of materials -> exit code, stdout, stderr, each on one line; never with the key."""
    monkeypatch.chdir(materials)
    monkeypatch.delenv("PRIVSEG_KEY", raising=False)
    monkeypatch.setattr(gradio_calls, "_BACKOFF_SECONDS", (0.01, 0.02))
    key = SecretKey.from_file(materials / "secret.key")

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert_no_secret(out + err, key)
        return ended.value.code or 0, " ".join(out.split()), " ".join(err.split())

    return run


def labels_in(path):
    with Image.open(path) as picture:
        return np.array(picture)


def test_a_service_gives_the_files_that_its_model_gives(run, url, tmp_path):
    photos = ("one.png", "two.png")
    assert (
        run("segment", "--model", "encrypted", *photos, "-o", tmp_path / "here", "-k", "secret.key", "--overlay")[0]
        == 0
    )
    code, out, err = run(
        "segment", "--server", url, *photos, "-o", tmp_path / "there", "-k", "secret.key", "--overlay"
    )
    assert code == 0, err
    assert f"Wrote 4 files in {tmp_path / 'there'}." in out
    assert "2 images" in out
    for name in ("one.segmentation.png", "two.segmentation.png", "one.overlay.png", "two.overlay.png"):
        np.testing.assert_array_equal(labels_in(tmp_path / "there" / name), labels_in(tmp_path / "here" / name))
    assert len(np.unique(labels_in(tmp_path / "there" / "one.segmentation.png"))) > 1


def test_what_is_encrypted_needs_no_key(run, url, tmp_path):
    assert run("encrypt", "one.png", "--model", "encrypted", "-o", tmp_path, "-k", "secret.key")[0] == 0
    arguments = (
        "segment",
        "--server",
        url,
        tmp_path / "one.encrypted.safetensors",
        "-o",
        tmp_path / "map.png",
        "--json",
    )
    code, out, err = run(*arguments)
    assert code == 0, err
    facts = json.loads(out)
    assert facts["server"] == url
    assert facts["encryption"]["family"] == "orthogonal"
    (image,) = facts["images"]
    assert (image["segmentation"], image["height"], image["width"]) == (str(tmp_path / "map.png"), 60, 75)
    assert sum(share["share"] for share in image["shares"]) == pytest.approx(1)
    assert labels_in(tmp_path / "map.png").shape == (60, 75)


def test_one_bad_image_does_not_cost_the_others(run, url, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    arguments = (
        "segment",
        "--server",
        url,
        "one.png",
        tmp_path / "bad.jpg",
        "-o",
        tmp_path / "maps",
        "-k",
        "secret.key",
    )
    code, out, err = run(*arguments)
    assert code == 1
    assert f"error: 1 of 2 images have no segmentation map: {tmp_path / 'bad.jpg'}: expected the path" in err
    assert f"Wrote {tmp_path / 'maps' / 'one.segmentation.png'}." in out
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["one.segmentation.png"]


def test_a_photo_without_a_key_is_not_sent(run, url, tmp_path):
    with Relay(url) as relay:
        code, _, err = run("segment", "--server", relay.url, "one.png", "-o", tmp_path / "map.png")
        assert relay.sent == b""
    assert code == 1
    assert err == ("error: expected a key, got none; give --key-file or set PRIVSEG_KEY (privseg keygen makes a key)")


def test_another_key_is_refused_before_anything_is_sent(run, url, tmp_path):
    wrong = SecretKey.generate()
    wrong.to_file(tmp_path / "wrong.key")
    with Relay(url) as relay:
        code, _, err = run(
            "segment", "--server", relay.url, "one.png", "-o", tmp_path / "m.png", "-k", tmp_path / "wrong.key"
        )
        assert b"upload" not in relay.sent
    assert code == 1
    assert f"key fingerprint {wrong.fingerprint}" in err


def test_other_patches_are_accepted_when_they_are_asked_for(run, tmp_path):
    info = SegmentationService(*load_model("encrypted")).model_info()
    info["patch_size"] = info["preprocessor"]["patch_size"] = 8
    with ScriptedService({"model_info": info}) as service:
        arguments = ("segment", "--server", service.url, "one.png", "-o", tmp_path / "m.png", "-k", "secret.key")
        assert f"expected a model with patches of 16 pixels at {service.url}, got 8;" in run(*arguments)[2]
        assert "upload" not in str(service.requests)
        run(*arguments, "--patch-size", 8, "--timeout", 1)
        assert "upload" in str(service.requests)


def test_nobody_listening(run, tmp_path):
    with unused_address() as url:
        code, _, err = run("segment", "--server", url, "one.png", "-o", tmp_path / "m.png", "-k", "secret.key")
    assert code == 1
    assert f"error: no answer from {url} (" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("one.png", "--server", "http://localhost", "--model", "encrypted"),
            "exactly one of --model and --server, got both",
        ),
        (("one.png",), "exactly one of --model and --server, got neither"),
        (("encrypted", "one.png", "--server", "http://localhost"), "file 'encrypted' is a directory"),
        (("--model", "encrypted"), "Missing argument 'IMAGES...'"),
        (("one.png", "--model", "encrypted", "--timeout", "9"), "--patch-size and --timeout belong to --server"),
    ],
    ids=["both", "neither", "a model among the images", "no image", "options of the other"],
)
def test_wrong_usage(run, tmp_path, arguments, message):
    code, _, err = run("segment", *arguments, "-o", tmp_path / "out")
    assert code == 2
    assert message in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "out").exists()


def test_results_are_not_replaced_unasked(run, url, tmp_path):
    (tmp_path / "m.overlay.png").write_bytes(b"mine")
    arguments = ("segment", "--server", url, "one.png", "-o", tmp_path / "m.png", "-k", "secret.key", "--overlay")
    code, _, err = run(*arguments)
    assert (code, err) == (
        1,
        f"error: {tmp_path / 'm.overlay.png'} exists; choose another --output, or overwrite it with --force",
    )
    assert run(*arguments, "--force")[0] == 0


# ----------------------------------------------------------------------------------------------------------- serve


def test_serve_refuses_a_plain_model_unless_it_is_a_demonstration(run):
    code, _, err = run("serve", "model")
    assert code == 1
    assert err.startswith(
        "error: expected an encrypted model, got the plain one model, with which nothing is protected;"
    )


def test_serve_refuses_to_demonstrate_with_an_encrypted_model(run):
    code, _, err = run("serve", "encrypted", "--public-demo")
    assert code == 1
    assert "error: expected a plain model for --public-demo, got the encrypted one encrypted; leave" in err


def test_serve_says_what_is_missing(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "hf_privseg.service.app", None)
    code, _, err = run("serve", "encrypted")
    assert code == 1
    assert (
        "error: a service needs hf_privseg.service.app, which is not installed; pip install 'hf-privseg[space]'" in err
    )


@pytest.mark.parametrize(("model", "options"), [("encrypted", []), ("model", ["--public-demo"])], ids=["key", "demo"])
def test_serve_passes_on_what_it_is_told(run, monkeypatch, model, options):
    from hf_privseg.service import app

    started = {}
    monkeypatch.setattr(app, "serve", lambda model, **settings: started.update(model=model, **settings))
    code, _, err = run("serve", model, "--host", "0.0.0.0", "--port", 8000, "--max-pixels", 1000, *options)
    assert code == 0, err
    limits = started.pop("limits")
    assert started == {"model": model, "server_name": "0.0.0.0", "server_port": 8000, "quiet": True}
    assert limits.max_pixels == 1000
    assert "Serving at http://0.0.0.0:8000; stop with Ctrl+C." in err
    assert ("A DEMONSTRATION with the plain model model: anybody can invert what its visitors send." in err) == bool(
        options
    )


@pytest.mark.slow
def test_serve_in_a_process_of_its_own(materials, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "hf_privseg.cli", "serve", "encrypted", "--port", str(port)]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # shells have background processes ignore it
    server = subprocess.Popen(
        command, cwd=materials, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=listen
    )
    try:
        with SegmentationClient(f"http://127.0.0.1:{port}") as client:
            deadline = time.monotonic() + 240
            while server.poll() is None and time.monotonic() < deadline:
                try:
                    label_map = client.segment(materials / "one.png", SecretKey.from_file(materials / "secret.key"))
                    break
                except ServiceError:
                    time.sleep(1)
        assert label_map.shape == (60, 75)
    finally:
        server.send_signal(signal.SIGINT)
        try:
            _, err = server.communicate(timeout=60)
        finally:
            server.kill()
    assert server.returncode in (0, 130)
    assert "Traceback" not in err
    assert "Model encrypted, key of fingerprint" in err


def test_help_of_serve_says_what_a_service_sees(run):
    out = run("serve", "--help")[1]
    assert "it does see the segmentation maps" in out.replace("│ ", "")
    assert "Example: privseg serve encrypted_model" in out
    assert cli_service.serve.__doc__
