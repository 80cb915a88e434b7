"""`privseg serve` and `privseg segment --server`: the same files as from a model here, and what is refused."""

import json
import signal
import socket
import sys
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers import preloaded
from helpers.leaks import assert_no_secret
from helpers.loopback import Relay, ScriptedService, running, unused_address
from helpers.tiny_setr import tiny_model
from hf_privseg import SecretKey, SetrImageProcessor
from hf_privseg.cli import service as cli_service
from hf_privseg.cli.app import main
from hf_privseg.client import SegmentationClient, http_calls
from hf_privseg.service import EmbeddingFolder, SegmentationService
from hf_privseg.setr.errors import ServiceError
from hf_privseg.storage.models import load_model

pytest.importorskip("gradio")


@pytest.fixture(scope="module")
def materials(tmp_path_factory):
    """A folder with a plain and an encrypted tiny model, the key and two images."""
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
def url(materials):
    with running(SegmentationService(*load_model(materials / "encrypted"))) as url:
        yield url


@pytest.fixture
def run(materials, tmp_path, capsys, monkeypatch):
    """Runs `privseg` in the folder of materials -> exit code, stdout, stderr, each on one line; never with the key."""
    monkeypatch.chdir(materials)
    monkeypatch.delenv("PRIVSEG_KEY", raising=False)
    monkeypatch.setattr(http_calls, "_BACKOFF_SECONDS", (0.01, 0.02))
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
    images = ("one.png", "two.png")
    assert (
        run("segment", "--model", "encrypted", *images, "-o", tmp_path / "here", "-k", "secret.key", "--overlay")[0]
        == 0
    )
    code, out, err = run(
        "segment", "--server", url, *images, "-o", tmp_path / "there", "-k", "secret.key", "--overlay"
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
    assert f"error: no segmentation map for 1 of 2 images: {tmp_path / 'bad.jpg'}: expected the path" in err
    assert f"Wrote 2 files in {tmp_path / 'maps'}." in out
    assert {path.name for path in (tmp_path / "maps").iterdir()} == {"one.segmentation.png", "one.overlay.png"}


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
        assert b"v1/segment" not in relay.sent
    assert code == 1
    assert f"key fingerprint {wrong.fingerprint}" in err


def test_other_patches_are_accepted_when_they_are_asked_for(run, tmp_path):
    info: dict[str, Any] = SegmentationService(*load_model("encrypted")).model_info()
    info["patch_size"] = info["preprocessor"]["patch_size"] = 8
    with ScriptedService(info) as service:
        arguments = ("segment", "--server", service.url, "one.png", "-o", tmp_path / "m.png", "-k", "secret.key")
        assert f"expected a model with patches of 16 pixels at {service.url}, got 8;" in run(*arguments)[2]
        assert "/v1/segment" not in service.paths
        run(*arguments, "--patch-size", 8, "--timeout", 1)
        assert "/v1/segment" in service.paths


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
        (
            ("one.png", "--model", "encrypted", "--timeout", "9"),
            "--patch-size, --timeout, --token-file and --ca-file belong to",
        ),
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
        f"error: {tmp_path / 'm.overlay.png'} exists; choose another --output, overwrite it with --force, or keep it "
        "with --skip-existing",
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
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, _, err = run("serve", "encrypted")
    assert code == 1
    assert "error: a service needs gradio, which is not installed; pip install 'hf-privseg[service]', or " in err


@pytest.mark.parametrize(
    ("model", "options"), [("encrypted", ["--insecure"]), ("model", ["--public-demo"])], ids=["key", "demo"]
)
def test_serve_passes_on_what_it_is_told(run, monkeypatch, model, options, tmp_path):
    from hf_privseg.service import server

    started: list[server.Settings] = []
    monkeypatch.setattr(server, "serve", started.append)
    told = ["--host", "0.0.0.0", "--port", 8000, "--max-pixels", 1000, "--max-batch", 3, "--max-wait-ms", 0]
    told += ["--embeddings", tmp_path / "store", "--workers", 2, "--root-path", "/seg", "--no-page"]
    told += ["--device", "cpu", "--dtype", "bfloat16"]
    code, _, err = run("serve", model, *told, *options)
    assert code == 0, err
    (settings,) = started
    assert (settings.model, settings.host, settings.port, settings.page) == (model, "0.0.0.0", 8000, False)
    assert (settings.embeddings, settings.workers, settings.root_path) == (tmp_path / "store", 2, "/seg")
    assert (settings.device, settings.dtype) == ("cpu", "bfloat16")
    limits = settings.limits
    assert (limits.max_pixels, limits.max_batch, limits.max_wait_ms) == (1000, 3, 0)
    assert "Serving at http://0.0.0.0:8000; stop with Ctrl+C." in err
    assert ("A DEMONSTRATION with the plain model model: anybody can invert what its visitors send." in err) == (
        "--public-demo" in options
    )


def test_serve_wants_tokens_where_other_machines_reach_it(run, tmp_path):
    code, _, err = run("serve", "encrypted", "--host", "0.0.0.0")
    assert code == 2
    assert "expected --tokens FILE for the address 0.0.0.0, which other machines reach" in err.replace(" │ │ ", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workers", 2), "expected a folder of embeddings for 2 workers, which have no memory in common, got none"),
        (("--tls-key", "x.pem"), "expected a certificate and its key for HTTPS, got one of the two"),
    ],
    ids=["workers", "tls"],
)
def test_settings_that_do_not_go_together(run, arguments, message):
    code, _, err = run("serve", "encrypted", *arguments)
    assert code == 1
    assert message in err


# ------------------------------------------------------------------------------------------------ tokens and tenants


def test_a_tenant_with_a_token_is_served_and_another_is_not(run, materials, tmp_path):
    """Two keys at one service, from the commands of its operator to those of its clients."""
    tenant, other = SecretKey.generate(), SecretKey.generate()
    for name, key in (("tenant", tenant), ("other", other)):
        key.to_file(tmp_path / f"{name}.key")
        assert run("encrypt-model", "model", tmp_path / name, "-k", tmp_path / f"{name}.key")[0] == 0
    store, tokens = tmp_path / "store", tmp_path / "tokens.json"
    code, out, err = run("tenant", "add", store, tmp_path / "tenant")
    assert (code, out) == (0, tenant.fingerprint), err
    assert f"Registered the patch embedding of key fingerprint {tenant.fingerprint}" in err
    assert "Replaced" in run("tenant", "add", store, tmp_path / "tenant")[2]
    assert run("tenant", "list", store)[1] == tenant.fingerprint
    assert (
        "expected a model that is encrypted with the tenant's key, got the plain one model"
        in (run("tenant", "add", store, "model")[2])
    )
    token = run("token", "add", tokens, "clinic", "--fingerprint", tenant.fingerprint)[1]
    (tmp_path / "token").write_text(token)
    (tmp_path / "token").chmod(0o600)
    assert f"clinic: {tenant.fingerprint}; 600 requests a minute, 8 at a time" in run("token", "list", tokens)[1]
    service = SegmentationService(*load_model(materials / "encrypted"), store=EmbeddingFolder(store))
    with running(service, tokens=tokens) as url:
        job: tuple[object, ...] = ("segment", "one.png", "--server", url, "-o", tmp_path / "map.png", "--force")
        assert "expected an access token of this service" in run(*job, "-k", tmp_path / "tenant.key")[2]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PRIVSEG_TOKEN", token)
            assert run(*job, "-k", tmp_path / "tenant.key")[0] == 0
        job += ("--token-file", tmp_path / "token")
        code, _, err = run(*job, "-k", tmp_path / "tenant.key")
        assert code == 0, err
        here = run("segment", "one.png", "--model", "encrypted", "-o", tmp_path / "here.png", "-k", "secret.key")
        assert here[0] == 0
        equal = labels_in(tmp_path / "map.png") == labels_in(tmp_path / "here.png")
        assert equal.mean() > 0.99
        assert f"the token clinic is not for the key {other.fingerprint}" in run(*job, "-k", tmp_path / "other.key")[2]
        assert run("token", "revoke", tokens, "clinic")[0] == 0
        assert "expected an access token of this service" in run(*job, "-k", tmp_path / "tenant.key")[2]
    assert run("tenant", "remove", store, tenant.fingerprint)[0] == 0
    for gone in (tenant.fingerprint, "abc"):
        assert "expected the fingerprint of a patch embedding in" in run("tenant", "remove", store, gone)[2]
    assert run("tenant", "list", store)[1] == "No patch embedding is registered."


@pytest.mark.slow
def test_serve_in_a_process_of_its_own(materials, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = ["-c", "import signal, hf_privseg.cli.app as program\n"]
    command[1] += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background processes may ignore it
    command[1] += "program.main()"
    command += ["serve", "encrypted", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = preloaded.start("hf_privseg", *command, cwd=materials, stderr=log)
    try:
        with SegmentationClient(f"http://127.0.0.1:{port}") as client:
            deadline = time.monotonic() + 240
            while server.poll() is None and time.monotonic() < deadline:
                try:
                    label_map = client.segment(materials / "one.png", SecretKey.from_file(materials / "secret.key"))
                    break
                except ServiceError:
                    time.sleep(0.3)
        assert label_map.shape == (60, 75)
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(timeout=60)
        finally:
            server.kill()
    err = (tmp_path / "log").read_text()
    assert server.returncode in (0, 130)
    assert "Traceback" not in err
    assert "Model encrypted, key of fingerprint" in err


def test_help_of_serve_says_what_a_service_sees(run):
    out = run("serve", "--help")[1]
    assert "it does see the segmentation maps" in out.replace("│ ", "")
    assert "Example: privseg serve encrypted_model" in out
    assert cli_service.serve.__doc__
