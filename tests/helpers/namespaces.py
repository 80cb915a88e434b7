"""Two nodes on one machine: network namespaces of Linux with a cable between them, where the system permits that."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """A place for processes.

    Args:
        address: at which other nodes reach it.
        interface: of the network.
        prefix: words before a command that runs there.
    """

    address: str
    interface: str
    prefix: tuple[str, ...] = ()


@contextmanager
def two_nodes() -> Iterator[tuple[Node, Node]]:
    """Two nodes; without the right to make namespaces, both are this machine, on its loopback interface."""
    names = [f"privseg-{os.getpid()}-{number}" for number in (1, 2)]
    made = [name for name in names if _ip("netns", "add", name)]
    try:
        if len(made) < len(names) or not _connected(*names):
            yield Node("127.0.0.1", "lo"), Node("127.0.0.1", "lo")
            return
        first, second = (
            Node(f"10.213.0.{number}", f"node{number}", ("ip", "netns", "exec", name))
            for number, name in enumerate(names, 1)
        )
        yield first, second
    finally:
        for name in made:
            _ip("netns", "del", name)


def _connected(first: str, second: str) -> bool:
    """Lay a cable between two namespaces -> whether that is possible."""
    ends = ("node1", "netns", first, "type", "veth", "peer", "name", "node2", "netns", second)
    return _ip("link", "add", *ends) and all(
        _ip("-n", name, "link", "set", "lo", "up")
        and _ip("-n", name, "addr", "add", f"10.213.0.{number}/24", "dev", f"node{number}")
        and _ip("-n", name, "link", "set", f"node{number}", "up")
        for number, name in enumerate((first, second), 1)
    )


def _ip(*words: str) -> bool:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    program = shutil.which("ip", path=path)
    return program is not None and not subprocess.run([program, *words], capture_output=True, check=False).returncode
