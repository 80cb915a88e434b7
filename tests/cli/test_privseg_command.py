"""The program `privseg` answers without torch where it needs none, and has all names where it does."""

import os
import subprocess
import sys
import tomllib

import pytest

from helpers.paths import ROOT

HEAVY = "print(sorted({'torch', 'transformers', 'torchvision'} & set(sys.modules)), file=sys.stderr)"
START = f"""
import sys
from privseg_command import main
try:
    main()
except SystemExit as ended:
    {HEAVY}
    raise
"""


def run(code, *arguments, cwd=None):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["segment", "--help"], 0),
        (["keygen", "new.key"], 0),
        (["frobnicate"], 2),
        (["segment"], 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_help_usage_errors_and_keys_need_no_torch(tmp_path, arguments, code):
    result = run(START, *arguments, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert result.stderr.splitlines()[-1] == "[]"


def test_the_first_use_of_a_name_runs_what_was_put_off():
    result = run(
        "from privseg_command import put_off; put_off('hf_privseg'); put_off('hf_privseg')\n"
        "import sys, hf_privseg; print('torch' in sys.modules)\n"
        f"from hf_privseg import SetrConfig; {HEAVY}\n"
        "from transformers import AutoConfig; print(type(AutoConfig.for_model('setr')) is SetrConfig)\n"
        "print(hasattr(hf_privseg, 'nonsense'))\n"
    )
    assert result.stdout.split() == ["False", "True", "False"], result.stderr
    assert result.stderr.splitlines()[-1] == "['torch', 'torchvision', 'transformers']"


def test_it_is_the_program_that_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"] == {"privseg": "privseg_command:main"}
    assert project["tool"]["setuptools"]["py-modules"] == ["privseg_command"]
