"""A library that is compared, in a process and an environment of its own: it answers a line with a line."""

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class PeerProcess:
    """A script of `peers/` that runs in another environment; `versions` are what it says at its start.

    Args:
        python: of that environment.
        script: name of the file.
        request: JSON values, the script's one argument.
    """

    def __init__(self, python: Path, script: str, request: dict[str, Any]):
        command = [str(python), str(Path(__file__).parent / "peers" / script), json.dumps(request)]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._script = script
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.versions: dict[str, str] = json.loads(self._answer())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()  # ends its input, and so the process

    def ask(self, line: str) -> float:
        """Asks for something -> the number that comes back, such as the seconds that it took there."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._script} ended with exit code {self._process.wait()}; its message stands above")
        return line


def reason_to_skip(python: str | None, name: str, modules: str) -> str | None:
    """Why a peer is not measured; None where it is.

    Args:
        python: of its environment.
        name: for the message.
        modules: what has to be there, separated by commas.
    """
    if python is None:
        return f"{name} is skipped: no environment is given (the head of this file makes one)"
    if not Path(python).exists():
        return f"{name} is skipped: there is no {python} (the head of this file makes one)"
    tried = subprocess.run([python, "-c", f"import {modules}"], capture_output=True, text=True)
    if tried.returncode:
        return f"{name} is skipped: {python} has none ({tried.stderr.strip().splitlines()[-1]:.120})"
    return None
