"""A process that imports the libraries once and forks the processes of many runs of scripts from itself.

A run of two processes otherwise spends most of its time on imports. As a program, this file reads a job a line from
stdin, writes the id of its process group, and writes its exit code when it has ended.
"""

import atexit
import contextlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path


class Launcher:
    """The client of one such process."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, __file__]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True)
        assert process.stdin is not None
        assert process.stdout is not None
        self._jobs, self._answers = process.stdin, process.stdout
        atexit.register(process.kill)

    def run(
        self, script: Path, *options: object, processes: int, until: Callable[[], bool] | None = None
    ) -> subprocess.CompletedProcess:
        """Run a script in several processes -> exit code, stdout and stderr of all of them.

        Args:
            script: path.
            options: its command line.
            processes: of the run, which find each other as those of torchrun do.
            until: asked again and again; all processes are killed, without a warning, once it is true.
        """
        with tempfile.TemporaryDirectory() as folder:
            arguments = [*map(str, options)]
            job = {"script": str(script), "options": arguments, "processes": processes, "folder": folder}
            self._jobs.write(json.dumps(job) + "\n")
            self._jobs.flush()
            group = int(self._answers.readline())
            if until is not None:
                while not until() and not select.select([self._answers], [], [], 0)[0]:
                    pass  # `until` sleeps
                with contextlib.suppress(ProcessLookupError):  # it ended before it could be killed
                    os.killpg(group, signal.SIGKILL)
            code = int(self._answers.readline())
            texts = [(Path(folder) / name).read_text() for name in ("out", "err")]
        return subprocess.CompletedProcess(arguments, code, *texts)


@cache
def launcher() -> Launcher:
    """The one of this process."""
    return Launcher()


def serve() -> None:
    """Import what scripts import, then run the jobs of stdin."""
    for name in ("datasets", "evaluate", "tensorboard", "torch.distributed", "torch.utils.tensorboard", "accelerate"):
        __import__(name)
    for name in ("hf_privseg", "hf_privseg.training.evaluation", "hf_privseg.training.augmentation"):
        __import__(name)
    answers = os.fdopen(os.dup(1), "w")  # stdout proper is the run's
    for line in sys.stdin:
        group = os.fork()
        if not group:
            os.setsid()
            os._exit(run_all(json.loads(line)))
        answers.write(f"{group}\n")
        answers.flush()
        answers.write(f"{os.waitstatus_to_exitcode(os.waitpid(group, 0)[1])}\n")
        answers.flush()


def run_all(job: dict) -> int:
    """Fork the processes of a job -> the first exit code that is not 0; the others are ended then."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(job["folder"]) / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(job["processes"]):
        child = os.fork()
        if not child:
            os._exit(run_one(job, rank, port))
        children.append(child)
    for _ in range(len(children)):
        ended, status = os.wait()
        children.remove(ended)
        if code := os.waitstatus_to_exitcode(status):
            for child in children:
                os.kill(child, signal.SIGTERM)
            return abs(code)
    return 0


def run_one(job: dict, rank: int, port: int) -> int:
    """Run a script as one process of several -> its exit code."""
    if job["processes"] > 1:
        count = str(job["processes"])
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sys.argv = [job["script"], *job["options"]]
    code = 0
    try:
        runpy.run_path(job["script"], run_name="__main__")
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if code and not isinstance(ended.code, int):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve()
