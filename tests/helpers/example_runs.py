"""Example programs, run as their users run them: in this process, which has the libraries loaded, or in new ones."""

import contextlib
import io
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from unittest import mock

from helpers import preloaded
from helpers.paths import EXAMPLES
from hf_privseg.cli.app import main

PRIVSEG = "privseg"  # in place of a script: the command line of the package


def run_here(script: str, *options: object) -> subprocess.CompletedProcess:
    """Run a script of examples/ as `__main__` with these options -> exit code, stdout and stderr."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = [script if script == PRIVSEG else f"examples/{script}", *map(str, options)]
    with mock.patch.object(sys, "argv", argv), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if script == PRIVSEG:
                main()
            else:
                runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            err.write("" if isinstance(ended.code, int | None) else str(ended.code))
        except Exception:
            code = 1
            err.write(traceback.format_exc())
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


def run(
    script: str, *options: object, processes: int = 1, until: Callable[[], bool] | None = None
) -> subprocess.CompletedProcess[str]:
    """The same in a new process, or in several, which find each other as those of torchrun do.

    Args:
        script: name of a file in examples/, or `PRIVSEG`.
        options: its command line.
        processes: of the run.
        until: asked again and again; all processes are killed, without a warning, once it is true.
    """
    environments = [os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} for _ in range(processes)]
    if processes > 1:
        count = str(processes)
        for rank, environment in enumerate(environments):
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            environment |= {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1"}
    return run_in(environments, script, *options, until=until)


def run_in(
    environments: list[dict[str, str]], script: str, *options: object, until: Callable[[], bool] | None = None
) -> subprocess.CompletedProcess[str]:
    """The same in a process for each of these environments, all with one free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        program = ["-m", "hf_privseg.cli"] if script == PRIVSEG else [str(EXAMPLES / script)]
        command = [*program, *map(str, options)]
        started = [
            preloaded.start("training", *command, env=environment | {"MASTER_PORT": port}, stdout=out, stderr=err)
            for environment in environments
        ]
        while any(process.poll() is None for process in started):
            if (until is not None and until()) or any(process.returncode for process in started):
                for process in started:
                    process.kill()
            time.sleep(0.005)
        code = next((process.returncode for process in started if process.returncode), 0)
        return subprocess.CompletedProcess(command, code, preloaded.content(out), preloaded.content(err))
