"""The commands in docs/how-to/deploy.md and keys.md, run one after the other as they stand."""

import re
import shlex
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from helpers import preloaded
from helpers.paths import ROOT
from helpers.shell import privseg_shell
from helpers.tiny_setr import tiny_model
from hf_privseg import SecretKey, SetrImageProcessor

pytest.importorskip("fastapi")
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/how-to/deploy.md").read_text(encoding="utf-8"), re.DOTALL)
PORT = "8443"


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Runs a block of commands in a folder with a tiny model and an image -> standard output."""
    monkeypatch.chdir(tmp_path)
    tiny_model("mla", patch_size=16, image_size=64).save_pretrained("my_model")
    SetrImageProcessor().save_pretrained("my_model")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 96, 3), np.uint8)).save("image.jpg")
    with privseg_shell(tmp_path) as run:
        yield run


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
