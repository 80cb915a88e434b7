"""New processes of Python that need not import the libraries again.

A test that starts Python otherwise spends most of its time on the imports of torch and transformers. So a process
imports them once and forks from itself whatever it is asked to run. It has met no key of a test. A level is such a
process; each is forked from the one before and imports more. The workers of pytest-xdist share them.

As a program, this file is the first level.
"""

import atexit
import contextlib
import gc
import importlib.util
import json
import os
import random
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

# What each level imports, where it is installed, beside what those before it have imported.
LEVELS = {
    "client": ["numpy", "PIL.Image", "rich.console", "rich.table", "typer", "httpx", "safetensors.numpy"],
    "torch": [  # without transformers, but with what that imports
        "torch", "torchvision", "accelerate", "huggingface_hub", "scipy.optimize",
        "torch.distributed.checkpoint", "httpx2",
    ],
    "transformers": [  # without hf_privseg
        "transformers.modeling_utils", "transformers.models.auto.modeling_auto",
        "transformers.models.auto.image_processing_auto",
    ],
    "hf_privseg": ["hf_privseg", "hf_privseg.cli.app"],
    "training": [
        "datasets", "evaluate", "tensorboard", "torch.distributed", "torch.utils.tensorboard", "accelerate",
        "hf_privseg.training.evaluation", "hf_privseg.training.augmentation",
    ],
}  # fmt: skip
NAMES = list(LEVELS)
SETTINGS = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # libraries read them when they are imported


class Process:
    """A started process; what it has in common with subprocess.Popen means the same."""

    stdin = stdout = stderr = None  # it has no pipes

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._replies = connection, connection.makefile()
        self.pid = int(self._replies.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Exit code, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end -> exit code; the negative signal if one ended it."""
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._connection, selectors.EVENT_READ)
                if not selector.select(timeout):
                    raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            self.returncode = int(self._replies.readline())
            self.let_go()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def let_go(self) -> None:
        """Ask no more of it; this ends a process that is not detached."""
        self._replies.close()
        self._connection.close()

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a warning."""
        self.send_signal(signal.SIGKILL)


def start(
    level: str,
    *arguments: object,
    env: dict[str, str] | None = None,
    cwd: os.PathLike[str] | str | None = None,
    stdin: Any = None,
    stdout: Any = None,
    stderr: Any = None,
) -> Process:
    """Start `python ARGUMENTS`.

    Args:
        level: name of the libraries that it has imported already.
        arguments: `-c CODE`, `-m MODULE` or a script, and what follows it.
        env: its whole environment (default: this process's).
        cwd: its folder (default: this process's).
        stdin, stdout, stderr: open files (default: none, and this process's own).
    """
    with open(os.devnull, "r+b") as nothing:
        files = [nothing if stdin is None else stdin, stdout or 1, stderr or 2]
        environment = {**(os.environ if env is None else env)}
        return _ask(_address(level), list(map(str, arguments)), environment, cwd, files)


def run(
    level: str,
    *arguments: object,
    env: dict[str, str] | None = None,
    cwd: os.PathLike[str] | str | None = None,
    input: str = "",
    timeout: float = 600,
) -> subprocess.CompletedProcess[str]:
    """The same to its end -> exit code, stdout and stderr."""
    with (
        tempfile.TemporaryFile("w+") as given,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        given.write(input)
        given.seek(0)
        process = start(level, *arguments, env=env, cwd=cwd, stdin=given, stdout=out, stderr=err)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess([*map(str, arguments)], code, content(out), content(err))


def content(file: IO[str]) -> str:
    """All that was written to a file."""
    file.seek(0)
    return file.read()


# ------------------------------------------------------------------------------------------- the levels' addresses


@cache
def _address(level: str) -> Path:
    """A level's socket; the level is started if nobody has."""
    import filelock

    address = _folder() / level
    with filelock.FileLock(f"{address}.lock"):
        if not _hold(address):
            address.unlink(missing_ok=True)
            options = [__file__, str(address), *LEVELS[level]]
            environment = {**os.environ} | SETTINGS
            if level == NAMES[0]:
                nothing = subprocess.DEVNULL
                started: Any = subprocess.Popen(
                    [sys.executable, *options], env=environment, stdin=nothing, stdout=nothing
                )
                # these run in the reverse order, after those that let go of the levels
                atexit.register(shutil.rmtree, _folder(), ignore_errors=True)
                atexit.register(started.wait)
            else:
                with open(os.devnull, "r+b") as no_file:
                    before = _address(NAMES[NAMES.index(level) - 1])
                    started = _ask(before, options, environment, None, [no_file, no_file, 2], detached=True)
            while not _hold(address):
                if started.poll() is not None:
                    raise RuntimeError(f"the process that imports {LEVELS[level]} ended: {started.returncode}")
                time.sleep(0.02)
            if level != NAMES[0]:
                started.let_go()
    return address


@cache
def _folder() -> Path:
    """The folder of the sockets, which all workers of one run of the tests share."""
    run_id = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = Path(tempfile.gettempdir()) / f"preloaded-{os.getuid()}-{run_id[:12]}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _hold(address: Path) -> bool:
    """Connect to a level for as long as this process lives, which keeps it alive -> whether it is there."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(address))
    except OSError:
        connection.close()
        return False
    atexit.register(connection.close)
    return True


def _ask(
    address: Path,
    arguments: list[str],
    environment: dict[str, str],
    cwd: os.PathLike[str] | str | None,
    files: list[Any],
    detached: bool = False,
) -> Process:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(address))
    job = {
        "arguments": arguments,
        "environment": environment,
        "cwd": os.path.abspath(cwd or "."),
        "detached": detached,
    }
    text = json.dumps(job).encode()
    numbers = [file if isinstance(file, int) else file.fileno() for file in files]
    socket.send_fds(connection, [len(text).to_bytes(8, "big")], numbers)
    connection.sendall(text)
    return Process(connection)


# ------------------------------------------------------------------------------------- what a level's process does


def serve(address: str, modules: list[str]) -> None:
    """Import modules, then fork what is asked for until nobody is connected any more."""
    for name in modules:
        if importlib.util.find_spec(name.partition(".")[0]):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the collector would write to, and so copy, every page of a child
    level = Level(f"{address}.new")
    os.rename(f"{address}.new", address)
    level.run()


class Level:
    """Accepts connections, forks a process for each job that comes over one, and answers its id and its exit code."""

    def __init__(self, address: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen(64)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._connected: set[socket.socket] = set()
        self._running: dict[
            int, socket.socket | None
        ] = {}  # process -> who is told of its end, and ends it by leaving

    def run(self) -> None:
        while True:
            for key, _ in self._selector.select():
                key.data()
            if not self._connected and not self._running:
                return

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        self._selector.register(connection, selectors.EVENT_READ, partial(self._answer, connection))
        self._connected.add(connection)

    def _answer(self, connection: socket.socket) -> None:
        size, files, *_ = socket.recv_fds(connection, 8, 3)
        if not size:
            self._leave(connection)
            return
        job = json.loads(_exactly(connection, int.from_bytes(size, "big")))
        child = os.fork()
        if not child:
            self._selector.close()
            for other in (self._listener, *self._connected):
                other.close()
            _become(job, files)
        for number in files:
            os.close(number)
        self._running[child] = None if job["detached"] else connection
        end = os.pidfd_open(child)
        self._selector.register(end, selectors.EVENT_READ, partial(self._bury, child, end))
        connection.sendall(f"{child}\n".encode())

    def _leave(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        self._connected.remove(connection)
        connection.close()
        for child, asker in self._running.items():
            if asker is connection:
                os.kill(child, signal.SIGKILL)

    def _bury(self, child: int, end: int) -> None:
        self._selector.unregister(end)
        os.close(end)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        asker = self._running.pop(child)
        if asker is not None:
            with contextlib.suppress(OSError):  # it has left
                asker.sendall(f"{code}\n".encode())


def _exactly(connection: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        found += connection.recv(size - len(found))
    return found


def _become(job: dict[str, Any], files: list[int]) -> None:
    """Run a job in this process, which it ends."""
    code = 1
    try:
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets jobs in the background ignore it
        os.chdir(job["cwd"])
        random.seed()
        sys.modules["numpy"].random.seed()
        _adopt(job["environment"])
        _execute(job["arguments"])
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if code and not isinstance(ended.code, int):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the end of a program does
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code & 255)


def _adopt(environment: dict[str, str]) -> None:
    """Take over an environment, with what the interpreter and transformers have read from the former one."""
    former = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:] = [part for part in sys.path[1:] if part not in former]
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None
    if cache_folder := environment.get("HF_MODULES_CACHE"):
        for name, module in list(sys.modules.items()):
            if name.startswith("transformers.") and "HF_MODULES_CACHE" in vars(module):
                vars(module)["HF_MODULES_CACHE"] = cache_folder


def _execute(arguments: list[str]) -> None:
    """Do what `python ARGUMENTS` does."""
    kind, *rest = arguments
    added = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.path[:] = ["" if kind in ("-c", "-m") else str(Path(kind).parent), *added, *sys.path[1:]]
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(rest[0], "<string>", "exec"), vars(main))  # noqa: S102 - a test's own text
    elif kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2:])
