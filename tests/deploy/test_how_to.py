"""The commands in docs/how-to/deploy.md, run one after the other as they stand."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.paths import ROOT
from helpers.tiny_setr import tiny_model
from hf_privseg import SetrImageProcessor

pytest.importorskip("fastapi")
BLOCKS = re.findall(r"```sh\n(.*?)```", (ROOT / "docs/how-to/deploy.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, ("bash", "curl", "openssl"))), reason="bash, curl or openssl is missing")
def test_from_a_model_to_a_service_with_two_tenants(tmp_path):
    tiny_model("mla", patch_size=16, image_size=64).save_pretrained(tmp_path / "my_model")
    SetrImageProcessor().save_pretrained(tmp_path / "my_model")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 96, 3), np.uint8)).save(tmp_path / "image.jpg")
    command = tmp_path / "bin" / "privseg"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m hf_privseg.cli "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    environment |= {"SSL_CERT_FILE": str(tmp_path / "tls" / "certificate.pem")}
    server = None
    outputs = []
    try:
        for block in BLOCKS:
            if block.startswith("privseg serve"):
                server = subprocess.Popen(["bash", "-ec", f"exec {block}"], cwd=tmp_path, env=environment)
                wait_for_port(tmp_path, server)
                continue
            done = subprocess.run(
                ["bash", "-ec", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, block + done.stderr
            outputs.append(done.stdout)
    finally:
        if server is not None:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)
    assert server is not None
    assert Image.open(tmp_path / "maps" / "image.segmentation.png").size == (96, 64)
    assert any('"height": 64, "width": 96, "shares"' in text for text in outputs)
    assert len(list((tmp_path / "data" / "embeddings").iterdir())) == 1


def wait_for_port(folder: Path, server: subprocess.Popen) -> None:
    """Until the service answers at the port of the page's commands."""
    deadline = time.monotonic() + 120
    ask = [
        "curl",
        "--fail",
        "--silent",
        "--cacert",
        str(folder / "tls/certificate.pem"),
        "https://localhost:8443/readyz",
    ]
    while subprocess.run(ask, capture_output=True, check=False).returncode:
        assert server.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.3)
