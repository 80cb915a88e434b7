"""Requests made up from the service's own description, by schemathesis: none is a fault of the service."""

import shutil
import subprocess

import pytest

from helpers.loopback import running
from helpers.tiny_service import service
from hf_privseg.service import Limits

pytest.importorskip("fastapi")
SCHEMATHESIS = shutil.which("schemathesis")


@pytest.mark.slow
@pytest.mark.skipif(SCHEMATHESIS is None, reason="the command schemathesis is missing")
def test_no_request_that_fits_the_description_is_a_fault(tmp_path):
    with running(service(limits=Limits(max_pixels=2**14, body_seconds=2))) as url:
        command = [SCHEMATHESIS, "run", f"{url}/openapi.json", "--url", url, "--max-examples", "15", "--seed", "1"]
        command += ["--exclude-checks", "positive_data_acceptance"]  # no made-up file is an encrypted image
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout
    assert "9 selected / 9 total" in done.stdout
