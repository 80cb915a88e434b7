"""Example programs, run as their users run them: in this process, which has the libraries loaded, or in new ones."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
import traceback
from unittest import mock

from helpers.paths import EXAMPLES
from helpers.preloaded import launcher


def run_here(script: str, *options: object) -> subprocess.CompletedProcess:
    """Run a script of examples/ as `__main__` with these options -> exit code, stdout and stderr."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = [f"examples/{script}", *map(str, options)]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            err.write("" if isinstance(ended.code, int | None) else str(ended.code))
        except Exception:
            code = 1
            err.write(traceback.format_exc())
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


def run(script: str, *options: object, processes: int = 1) -> subprocess.CompletedProcess:
    """The same in a new process, or in several."""
    if processes > 1:
        return launcher().run(EXAMPLES / script, *options, processes=processes)
    command = [sys.executable, str(EXAMPLES / script), *map(str, options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
