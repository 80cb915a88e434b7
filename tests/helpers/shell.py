"""A shell for the commands of a page, whose `privseg` runs in the process of the test."""

import contextlib
import io
import json
import os
import shlex
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from unittest import mock

import pytest

from helpers import preloaded
from hf_privseg.cli.app import main

# A `privseg` that has its command run in the process of the test.
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


class Server(socketserver.UnixStreamServer):
    """Runs commands for a shell; `extra` are options that a command gets besides its own."""

    extra: Mapping[str, Sequence[str]] = {}


class Command(socketserver.StreamRequestHandler):
    """Runs one command of `privseg` for a shell."""

    server: Server

    def handle(self):
        folder, arguments, key, given = json.loads(self.rfile.readline())
        arguments += self.server.extra.get(arguments[0], ())
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


@contextlib.contextmanager
def privseg_shell(folder: Path, extra: Mapping[str, Sequence[str]] | None = None) -> Iterator[Callable[[str], str]]:
    """Runs a block of commands in a folder -> standard output; fails where the block does.

    Args:
        folder: the commands' own.
        extra: {command: options that it gets besides those in the block}, such as a small budget.
    """
    (folder / "bin").mkdir()
    programs = {"privseg": f"#!{sys.executable}\n{PRIVSEG.format(address=str(folder / 'socket'))}"}
    programs["python"] = f'#!/bin/sh\nexec {sys.executable} "$@"\n'
    for name, text in programs.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    def run(block: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", block], capture_output=True, text=True, check=False, timeout=500, env=environment
        )
        assert done.returncode == 0, block + done.stderr
        return done.stdout

    before = Path.cwd()
    with Server(str(folder / "socket"), Command) as server:
        server.extra = extra or {}
        threading.Thread(target=server.serve_forever, daemon=True).start()
        os.chdir(folder)
        try:
            yield run
        finally:
            os.chdir(before)
            server.shutdown()


def run_page(blocks: Sequence[str], shell: Callable[[str], str], ready: str) -> list[str]:
    """Run the blocks of a page one after the other -> what each printed.

    A block of `privseg serve` alone starts a service, which ends with the page.

    Args:
        blocks: shell commands.
        shell: runs a block.
        ready: address at which the service says that it is ready.
    """
    outputs, servers = [], []
    try:
        for block in blocks:
            if block.startswith("privseg serve"):
                _, *arguments = shlex.split(block.replace("\\\n", " "))
                servers.append(preloaded.start("hf_privseg", "-m", "hf_privseg.cli", *arguments))
                wait_for(servers[-1], ready)
            else:
                outputs.append(shell(block))
    finally:
        for server in servers:
            server.terminate()
            server.wait(timeout=60)
    return outputs


def wait_for(server: preloaded.Process, ready: str) -> None:
    """Wait until a service answers."""
    deadline = time.monotonic() + 240
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(ready, timeout=10):
            return
        assert server.poll() is None, "the service ended before it was ready"
        if time.monotonic() > deadline:
            pytest.fail("the service did not become ready")
        time.sleep(0.3)
