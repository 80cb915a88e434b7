"""A Gradio function beside the route /v1/segment, with one engine and in one run: what a request costs on either way.

    python benchmarks/service_routes.py --state build/service_routes.jsonl

Starts both services in processes of their own on the loopback interface, with the embedded model under a new key, and
asks them in turns, so that other work on the machine slows both. Each client has one connection and sends an encrypted
image again and again. What was measured is kept in the file --state, line by line; started again, the run goes on
where it stopped. Memory is that of the services' processes, from /proc (Linux); requests and bytes are counted by a
relay before the service.
"""

import argparse
import functools
import json
import os
import platform
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from gradio_client import Client, handle_file
from service_load import memory_of, started_service

from hf_privseg import SecretKey, SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.client.http_calls import Call, HttpCalls
from hf_privseg.reporting.tables import markdown_table

ROUTES = ("gradio", "v1")
PACKAGES = ("torch", "fastapi", "uvicorn", "gradio", "gradio_client")
SETTLING_SECONDS = 1  # before memory is read
Send = Callable[[], None]


class State:
    """Measurements by name, in a file that outlives the run.

    Args:
        path: of the file, JSON lines; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.values: dict[str, Any] = dict(json.loads(line) for line in lines)

    def once(self, name: str, measure: Callable[[], Any]) -> Any:
        """What measure() returns, or returned in an earlier run."""
        if name not in self.values:
            self.values[name] = measure()
            with self._path.open("a") as file:
                file.write(json.dumps([name, self.values[name]]) + "\n")
            print(name, self.values[name], file=sys.stderr, flush=True)
        return self.values[name]


@contextmanager
def sender(route: str, url: str, path: Path) -> Iterator[Send]:
    """A client of its own -> a function that sends the file once and takes the segmentation map."""
    if route == "v1":
        content = path.read_bytes()
        with HttpCalls(url, timeout=3600, retries=1000) as calls:
            yield lambda: _expect_png(calls.send(Call("POST", "v1/segment", 2**24, "image/png", content)))
        return
    with tempfile.TemporaryDirectory() as folder:
        client = Client(url, verbose=False, download_files=folder, analytics_enabled=False)
        try:
            yield lambda: _expect_png(Path(client.predict(handle_file(path), api_name="/segment")).read_bytes())
        finally:
            client.close()


def _expect_png(content: bytes) -> None:
    if not content.startswith(b"\x89PNG"):
        raise RuntimeError(f"expected a segmentation map, got {content!r:.80}")


def load(route: str, url: str, path: Path, clients: int, requests: int) -> list[float]:
    """Images a second over all clients, which start together once they are connected, then seconds of each request."""
    barrier = threading.Barrier(clients + 1)

    def one(_: int) -> list[float]:
        seconds = []
        with sender(route, url, path) as send:
            barrier.wait()
            for _ in range(requests):
                start = time.monotonic()
                send()
                seconds.append(time.monotonic() - start)
        return seconds

    with ThreadPoolExecutor(clients) as pool:
        results = [pool.submit(one, number) for number in range(clients)]
        barrier.wait()
        start = time.monotonic()
        seconds = [second for result in results for second in result.result()]
        return [len(seconds) / (time.monotonic() - start), *seconds]


@contextmanager
def relay(url: str) -> Iterator[tuple[str, list[bytearray], list[bytearray]]]:
    """A relay before a service -> its address, and what clients sent and got so far, an entry a connection."""
    target = urlsplit(url)
    sent: list[bytearray] = []
    received: list[bytearray] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, to: socket.socket, record: bytearray) -> None:
        with suppress(OSError):
            while data := source.recv(2**16):
                record += data
                to.sendall(data)
            to.shutdown(socket.SHUT_WR)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection((target.hostname, target.port))
                for source, to, records in ((client, server, sent), (server, client, received)):
                    records.append(bytearray())
                    threading.Thread(target=pump, args=(source, to, records[-1]), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", sent, received
    finally:
        listener.close()


def traffic(route: str, url: str, path: Path, images: int) -> dict[str, float]:
    """Requests and bytes an image, once a client is connected."""

    def counted() -> tuple[int, int, int]:
        time.sleep(0.5)  # so that what is under way arrives
        heads = sum(len(re.findall(rb"(?:GET|POST|PUT|HEAD) \S+ HTTP/1\.1\r\n", bytes(each))) for each in sent)
        return heads, sum(map(len, sent)), sum(map(len, received))

    with relay(url) as (address, sent, received), sender(route, address, path) as send:
        send()
        before = counted()
        for _ in range(images):
            send()
        after = counted()
    return {
        name: (end - start) / images
        for name, start, end in zip(("requests", "sent", "received"), before, after, strict=True)
    }


def memory(route: str, url: str, pid: int, path: Path, requests: int, clients: int) -> list[float]:
    """MiB of a service before the requests, and after each tenth of them."""
    found = [memory_of(pid)[0]]
    for _ in range(10):
        load(route, url, path, clients, max(1, requests // clients // 10))
        time.sleep(SETTLING_SECONDS)
        found.append(memory_of(pid)[0])
        print(f"memory of {route} so far", found, file=sys.stderr, flush=True)
    return found


@contextmanager
def started_gradio(model: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """benchmarks/gradio_route.py, its temporary files in `folder` -> its address and process id."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, str(Path(__file__).with_name("gradio_route.py")), str(model), "--port", str(port)]
    environment = {**os.environ, "GRADIO_TEMP_DIR": str(folder), "GRADIO_ANALYTICS_ENABLED": "False"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        with HttpCalls(url, timeout=300, retries=1000) as calls:
            calls.send(Call("GET", "config"))
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def encrypted(folder: Path, size: int, key: SecretKey) -> Path:
    """An encrypted image of size x size pixels."""
    levels = np.random.default_rng(size).integers(0, 256, (size, size, 3), np.uint8)
    path = folder / f"{size}.encrypted.safetensors"
    (image,) = SetrImageProcessor().encrypt([levels], key)  # at its own size
    image.to_file(path, overwrite=True)
    return path


def report(state: State, arguments: argparse.Namespace) -> str:
    """What was measured, in Markdown."""
    found, size, many = state.values, arguments.size, arguments.clients

    def seconds(route: str, clients: int) -> list[float]:
        rounds = [found[f"{route}, {clients} clients, round {number}"][1:] for number in range(arguments.rounds)]
        return [second for each in rounds for second in each]

    def rate(route: str, clients: int) -> float:
        return statistics.median(
            found[f"{route}, {clients} clients, round {number}"][0] for number in range(arguments.rounds)
        )

    alone = [f"{statistics.median(seconds(route, many[0])):.2f}" for route in ROUTES]
    rows = [[f"seconds an image, {many[0]} client, median", *alone]]
    for clients in many:
        rows.append(
            [
                f"images a second, {clients} client{'s' * (clients > 1)}",
                *(f"{rate(route, clients):.2f}" for route in ROUTES),
            ]
        )
    for name, unit, factor in (("requests", "requests", 1), ("sent", "KiB sent", 1024), ("received", "KiB got", 1024)):
        rows.append([f"{unit} an image", *(f"{found[f'{route}, traffic'][name] / factor:.1f}" for route in ROUTES)])
    rows.append(["requests before memory is read", *map(str, arguments.memory_requests)])
    for name, place in (("before them", 0), ("after a tenth", 1), ("after all", -1)):
        rows.append([f"MiB {name}", *(f"{found[f'{route}, memory'][place]:.0f}" for route in ROUTES)])
    rows.append(["files left on the disk", *(str(found["files"][route]) for route in ROUTES)])
    text = markdown_table([f"images of {size} x {size}", "Gradio function", "`/v1/segment`"], rows)
    memory_size = arguments.memory_size or size
    return f"{text}\n\nThe requests before memory is read: images of {memory_size} x {memory_size}.\n{found['on']}"


def machine() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    python = f"Python {platform.python_version()}"
    return f"{platform.machine()}, {os.cpu_count()} cores, {threads} threads a process, {python}, {versions}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--state", type=Path, required=True, help="file of measurements; a run goes on with it")
    parser.add_argument("--size", type=int, default=512, help="side of an image in pixels")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 50])
    parser.add_argument("--requests", type=int, default=50, help="of all clients in a round, one each at least")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--memory-requests", type=int, nargs=2, default=[1000, 5000], help="before memory is read: of Gradio, of ours"
    )
    parser.add_argument("--memory-size", type=int, help="side of the images of these; as --size where not given")
    arguments = parser.parse_args(argv)
    state = State(arguments.state)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder, key = Path(name), SecretKey.generate()
        model = folder / "model"
        SetrForSemanticSegmentation.from_pretrained(default_checkpoint()).encrypt_model(key).save_pretrained(model)
        SetrImageProcessor().save_pretrained(model)
        places = {route: folder / route for route in ROUTES}
        for place in places.values():
            place.mkdir()
        services = {
            "gradio": stack.enter_context(started_gradio(model, places["gradio"])),
            "v1": stack.enter_context(started_service(model, places["v1"])),
        }
        measure(state, arguments, services, folder, key)
        state.once(
            "files", lambda: {r: sum(path.is_file() for path in place.rglob("*")) for r, place in places.items()}
        )
        state.once("on", machine)
    print(report(state, arguments))


def measure(
    state: State, arguments: argparse.Namespace, services: dict[str, tuple[str, int]], folder: Path, key: SecretKey
) -> None:
    """All measurements that the file of the state lacks."""
    path = encrypted(folder, arguments.size, key)
    for route, (url, _) in services.items():
        load(route, url, path, 2, 1)  # so that everything is loaded
    for clients in arguments.clients:
        each = max(1, arguments.requests // max(arguments.clients)) if clients == max(arguments.clients) else 0
        each = each or max(1, arguments.requests // clients // 2)
        for number in range(arguments.rounds):
            for route, (url, _) in services.items():
                work = functools.partial(load, route, url, path, clients, each)
                state.once(f"{route}, {clients} clients, round {number}", work)
    for route, (url, _) in services.items():
        state.once(f"{route}, traffic", functools.partial(traffic, route, url, path, 5))
    small = encrypted(folder, arguments.memory_size or arguments.size, key)
    for (route, (url, pid)), requests in zip(services.items(), arguments.memory_requests, strict=True):
        work = functools.partial(memory, route, url, pid, small, requests, 10)
        state.once(f"{route}, memory", work)


if __name__ == "__main__":
    main()
