"""The commands in docs/how-to/deploy.md and keys.md, run one after the other as they stand."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import socketserver
import subprocess
import sys
import threading
import time
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from helpers import preloaded
from helpers.paths import ROOT
from helpers.tiny_setr import tiny_model
from hf_privseg import SecretKey, SetrImageProcessor
from hf_privseg.cli.app import main

pytest.importorskip("fastapi")
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/how-to/deploy.md").read_text(encoding="utf-8"), re.DOTALL)
PORT = "8443"

# A `privseg` that has its command run in the process of the test, which has imported torch already.
PRIVSEG = """
import json, os, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
given = sys.stdin.read() if "-" in sys.argv else ""
key = os.environ.get("PRIVSEG_KEY", "")
connection.sendall(json.dumps([os.getcwd(), sys.argv[1:], key, given]).encode() + b"\\n")
code, out, err = json.loads(connection.makefile().read())
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


class Command(socketserver.StreamRequestHandler):
    """Runs one command of `privseg` for a shell."""

    def handle(self):
        folder, arguments, key, given = json.loads(self.rfile.readline())
        out, err, code = io.StringIO(), io.StringIO(), 0
        os.chdir(folder)
        try:
            with (
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
                mock.patch.dict(os.environ, {"PRIVSEG_KEY": key} if key else {}),
                mock.patch("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode()))),
            ):
                main(arguments)
        except SystemExit as ended:
            code = int(ended.code or 0)
        self.wfile.write(json.dumps([code, out.getvalue(), err.getvalue()]).encode())


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Runs a block of commands in a folder with a tiny model and an image -> standard output."""
    monkeypatch.chdir(tmp_path)
    tiny_model("mla", patch_size=16, image_size=64).save_pretrained("my_model")
    SetrImageProcessor().save_pretrained("my_model")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 96, 3), np.uint8)).save("image.jpg")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "privseg"
    script.write_text(f"#!{sys.executable}\n{PRIVSEG.format(address=str(tmp_path / 'socket'))}")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")

    def run(block):
        done = subprocess.run(["bash", "-ec", block], capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0, block + done.stderr
        return done.stdout

    with socketserver.UnixStreamServer(str(tmp_path / "socket"), Command) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield run
        server.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, ("bash", "curl", "openssl"))), reason="bash, curl or openssl is missing")
def test_from_a_model_to_a_service_with_two_tenants(shell, tmp_path):
    outputs, server = [], None
    try:
        for block in BLOCKS:
            if block.startswith("privseg serve"):
                _, *arguments = shlex.split(block.replace("\\\n", " "))
                server = preloaded.start("hf_privseg", "-m", "hf_privseg.cli", *arguments)
                wait_for(server)
            else:
                outputs.append(shell(block))
    finally:
        if server is not None:
            server.terminate()
            server.wait(timeout=60)
    assert server is not None
    assert Image.open(tmp_path / "maps" / "image.segmentation.png").size == (96, 64)
    assert any('"height": 64, "width": 96, "shares"' in text for text in outputs)
    assert len(list((tmp_path / "data" / "embeddings").iterdir())) == 1


BEFORE_THE_LIFE_OF_A_KEY = """
privseg keygen secret.key
privseg encrypt-model my_model encrypted_model --key-file secret.key
privseg keygen clinic-b.key
privseg encrypt-model my_model for_clinic_b --key-file clinic-b.key
mkdir -p data
privseg tenant add data/embeddings for_clinic_b > b.fingerprint
privseg token add data/tokens.json clinic-b --fingerprint "$(cat b.fingerprint)" > b.token
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is missing")
def test_the_life_of_a_key(shell, tmp_path):
    shell(BEFORE_THE_LIFE_OF_A_KEY)
    page = (ROOT / "docs" / "how-to" / "keys.md").read_text()
    for block in re.findall(r"```sh\n(.*?)```", page, re.DOTALL):
        shell(block.replace("| python -c", f"| {sys.executable} -c"))
    sent = [(tmp_path / folder / "image.encrypted.safetensors").read_bytes() for folder in ("sent", "sent2", "sent3")]
    assert sent[0] == sent[1] == sent[2]
    served = {path.name.partition(".")[0] for path in (tmp_path / "data" / "embeddings").iterdir()}
    assert served == {SecretKey.from_file(tmp_path / "next.key").fingerprint}
    assert "clinic-b" not in (tmp_path / "data" / "tokens.json").read_text()


def wait_for(server):
    """Wait until the service answers at the port of the page's commands."""
    deadline = time.monotonic() + 240
    url = f"https://localhost:{PORT}/readyz"
    while subprocess.run(["curl", "-fs", "--cacert", "tls/certificate.pem", url], capture_output=True).returncode:
        assert server.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.3)
