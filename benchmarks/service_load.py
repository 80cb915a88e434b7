"""Load on a segmentation service, and uploads that mean no good: what it answers, how fast, and what memory it takes.

    python benchmarks/service_load.py
    python benchmarks/service_load.py --model encrypted_model --key-file secret.key --clients 50 --requests 2

Starts `privseg serve` in a process of its own on the loopback interface. Without --model, with the embedded model and
a new key. Each of the clients sends an image of its own again and again, a bounded number of times, through
`hf_privseg.client.SegmentationClient`: where the queue is full it waits and asks again. Then hostile files go up, each
of which must be refused with a reason; and at last the load again, to see that the service has survived. Memory is
that of the service's process, from /proc (Linux).
"""

import argparse
import io
import json
import os
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from hf_privseg import SecretKey, SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.client import SegmentationClient
from hf_privseg.client.http_calls import Call, HttpCalls
from hf_privseg.setr.errors import RequestRefusedError, ServiceError
from hf_privseg.setr.keys import FAMILIES

IMAGE_SIZE = (96, 128)  # height, width
MIB = 2**20
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Load:
    """What came of many clients at once: segmentation maps, failures by message, and seconds a request."""

    num_maps: int
    failures: list[str]
    seconds: list[float]
    wall_seconds: float

    def __str__(self) -> str:
        if not self.seconds:
            return f"no segmentation map, {len(self.failures)} failures: {self.failures[0]}"
        p95 = statistics.quantiles(self.seconds, n=20)[-1] if len(self.seconds) > 1 else self.seconds[0]
        return (
            f"{self.num_maps} segmentation maps, {len(self.failures)} failures in {self.wall_seconds:.1f} s; seconds "
            f"a request: median {statistics.median(self.seconds):.2f}, 95 % {p95:.2f}, longest {max(self.seconds):.2f}"
        )


@dataclass(frozen=True)
class Outcome:
    """What the service made of one hostile file."""

    name: str
    num_bytes: int
    seconds: float
    is_refused: bool
    answer: str


def put_under_load(url: str, key: SecretKey, *, clients: int, requests: int, timeout: float = 300.0) -> Load:
    """`clients` at once, each with a connection and a image of its own, `requests` times one after the other."""

    def one_client(number: int) -> tuple[list[float], list[str]]:
        rng = np.random.default_rng(number)
        image = Image.fromarray(rng.integers(0, 256, (*IMAGE_SIZE, 3), np.uint8))
        seconds, failures = [], []
        with SegmentationClient(url, processor=processor, timeout=timeout, retries=100) as client:
            for _ in range(requests):
                start = time.monotonic()
                try:
                    client.segment(image, key)
                    seconds.append(time.monotonic() - start)
                except ServiceError as error:
                    failures.append(str(error))
        return seconds, failures

    processor = SetrImageProcessor()  # images at their own size
    start = time.monotonic()
    with ThreadPoolExecutor(clients) as pool:
        results = list(pool.map(one_client, range(clients)))
    seconds = [second for found, _ in results for second in found]
    failures = [failure for _, found in results for failure in found]
    return Load(len(seconds), failures, seconds, time.monotonic() - start)


def hostile_files(
    key: SecretKey,
    processor: SetrImageProcessor,
    *,
    num_bytes: int = 10**8,
    sides: Sequence[int] = (20000, 8192, 4000),
) -> dict[str, bytes]:
    """Name -> content of files that a service has to refuse.

    Args:
        key: the one of the service's model; most of the files fit it otherwise.
        processor: the model's.
        num_bytes: size of the largest one.
        sides: of the decompression bombs, in pixels.
    """
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*IMAGE_SIZE, 3), np.uint8))

    def contained(key: SecretKey, **settings: int) -> bytes:
        return processor.encrypt(image, key, **settings).to_bytes()

    good, levels = contained(key), contained(SecretKey.generate("permutation"))
    other_family = next(family for family in FAMILIES if family not in (key.family, "permutation"))
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG")
    return {
        **{f"bomb of {side} x {side} pixels": png_bomb(side, key) for side in sides},
        "tensor larger than its file": tensor_bomb(),
        "header of 2^63 bytes": struct.pack("<Q", 2**63 - 1) + b"{" + bytes(1000),
        "header of nested JSON": good.replace(b'{"', b'{"a":' + b"[" * 3000 + b',"', 1),
        "image's size of 8192 x 8192": with_original_size(good, "[8192, 8192]"),
        "truncated safetensors": good[: len(good) // 2],
        "truncated PNG": levels[: len(levels) // 2],
        "changed pixels": good[:-8] + bytes(byte ^ 1 for byte in good[-8:]),
        "JPEG": jpeg.getvalue(),
        "image in plain": png_of(image),
        "text": b"no image at all",
        "empty file": b"",
        "wrong fingerprint": contained(SecretKey.generate(key.family)),
        "wrong family": contained(SecretKey.generate(other_family)),
        "wrong patch size": contained(key, patch_size=processor.patch_size // 2),
        f"{num_bytes / 1e6:.0f} MB": bytes(num_bytes),
    }


def attack(url: str, files: dict[str, bytes], *, timeout: float = 120.0) -> list[Outcome]:
    """Send each file as an image, past all checks of a client -> what came back."""
    outcomes = []
    with HttpCalls(url, timeout=timeout, retries=20) as calls:
        for name, content in files.items():
            start = time.monotonic()
            call = Call("POST", "v1/segment", accept="application/json", content=content)
            try:
                answer, is_refused = f"ACCEPTED: {calls.send(call)!r:.80}", False
            except ServiceError as error:
                answer, is_refused = str(error), isinstance(error, RequestRefusedError)
            outcomes.append(Outcome(name, len(content), time.monotonic() - start, is_refused, answer))
    return outcomes


def png_bomb(side: int, key: SecretKey) -> bytes:
    """A PNG of side x side zeros, and a header that fits it; a thousandth of its decoded size."""
    facts = {"format": 1, "family": "permutation", "version": 1, "fingerprint": key.fingerprint, "patch_size": 16}
    sizes = {"original_size": [side, side], "valid_region": [side, side], "sha256": "0" * 64}
    packer, row = zlib.compressobj(9), bytes(3 * side + 1)
    pixels = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"tEXt", b"privseg\0" + json.dumps(facts | sizes).encode()),
        (b"IDAT", pixels),
        (b"IEND", b""),
    ]
    packed = [struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def tensor_bomb() -> bytes:
    """safetensors of a header that promises 20 GB of pixels, and no pixels."""
    values = {"dtype": "I16", "shape": [3, 60000, 60000], "data_offsets": [0, 2 * 3 * 60000**2]}
    header = json.dumps({"values": values, "__metadata__": {"privseg": "{}"}}).encode()
    return struct.pack("<Q", len(header)) + header


def with_original_size(content: bytes, size: str) -> bytes:
    """A container in safetensors whose header gives another original size."""
    old, length = f"[{IMAGE_SIZE[0]}, {IMAGE_SIZE[1]}]", int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].replace(f'original_size\\": {old}'.encode(), f'original_size\\": {size}'.encode())
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def png_of(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@contextmanager
def started_service(model: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """`privseg serve` of an encrypted model, its temporary files in `folder` -> its address and process id."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "hf_privseg.cli", "serve", str(model), "--port", str(port), "--no-page"]
    process = subprocess.Popen(command, env={**os.environ, "TMPDIR": str(folder)}, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        with HttpCalls(url, timeout=300, retries=1000) as calls:
            calls.send(Call("GET", "readyz"))
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def memory_of(pid: int) -> tuple[float, float]:
    """MiB that a process holds now, and the most since `forget_peak`."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    now, peak = (int(lines[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak


def forget_peak(pid: int) -> None:
    """Start the measurement of the peak anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def measured(pid: int, title: str, work: Callable[[], _Result]) -> _Result:
    """work() and its result, with the memory that the service took for it printed."""
    before, _ = memory_of(pid)
    forget_peak(pid)
    result = work()
    after, peak = memory_of(pid)
    print(f"\n{title}\n  memory before {before:.0f}, peak {peak:.0f}, after {after:.0f} MiB", flush=True)
    return result


def left_in(folder: Path) -> str:
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return f"{len(sizes)} files with {sum(sizes) / MIB:.1f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="folder of an encrypted model; its key is in --key-file")
    parser.add_argument("--key-file", type=Path)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=2, help="of each client")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.model is None:
            model, key = folder / "model", SecretKey.generate()
            SetrForSemanticSegmentation.from_pretrained(default_checkpoint()).encrypt_model(key).save_pretrained(model)
            SetrImageProcessor.from_pretrained(default_checkpoint()).save_pretrained(model)
        else:
            model, key = arguments.model, SecretKey.from_file(arguments.key_file)
        run(model, key, folder / "uploads", clients=arguments.clients, requests=arguments.requests)


def run(model: Path, key: SecretKey, uploads: Path, *, clients: int, requests: int) -> None:
    """The whole measurement, printed."""
    files = hostile_files(key, SetrImageProcessor())
    with started_service(model, uploads) as (url, pid):

        def load() -> Load:
            return put_under_load(url, key, clients=clients, requests=requests)

        put_under_load(url, key, clients=4, requests=1)  # so that everything is loaded
        print(" ", measured(pid, f"{clients} clients, {requests} requests each", load))
        for title in ("Hostile files", "Hostile files, a second time"):
            outcomes = measured(pid, title, lambda: attack(url, files))
        print("\n  | file | bytes | seconds | refused | answer |\n  |---|---|---|---|---|")
        for outcome in outcomes:
            answer = outcome.answer.removeprefix(f"refused by {url} ").replace(url, "URL").replace("|", "/")
            verdict = "yes" if outcome.is_refused else "NO"
            print(f"  | {outcome.name} | {outcome.num_bytes} | {outcome.seconds:.2f} | {verdict} | {answer:.110} |")
        print(" ", measured(pid, f"Again {clients} clients, {requests} requests each", load))
        print(f"\n  written to the disk: {left_in(uploads)}")


if __name__ == "__main__":
    main()
