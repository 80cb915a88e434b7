"""Batch jobs: images a second against workers, memory against the size of a job, kills, translated ciphertexts, costs.

    python benchmarks/batch_jobs.py throughput --images 400
    python benchmarks/batch_jobs.py memory --images 200 2000
    python benchmarks/batch_jobs.py kills --images 400 --kills 5
    python benchmarks/batch_jobs.py translate --images 10000 --size 256 256
    python benchmarks/batch_jobs.py costs

Runs `privseg batch` in processes of its own, on JPEG files cut from the street images of the package. Seconds are
those of the command's report: without its start, with that of its workers. Memory is the largest sum over all
processes of the command of their proportional shares (PSS of Linux), which counts what they share once.
"""

import argparse
import json
import pickle
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq

from hf_privseg import EncryptedImage, SecretKey
from hf_privseg.batch.operations import decode_image
from hf_privseg.batch.segmentation import map_to_png
from hf_privseg.catalog.street_images import STREET_IMAGES, street_image
from hf_privseg.inference.pictures import palette_for
from hf_privseg.inference.segmentation import segment_images
from hf_privseg.reporting.provenance import provenance, provenance_in_words
from hf_privseg.reporting.tables import markdown_table
from hf_privseg.setr.image_encrypter import ImageEncrypter
from hf_privseg.storage.models import load_model

PRIVSEG = [sys.executable, "-m", "hf_privseg.cli"]
MIB = 2**20


def make_images(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """So many JPEG files of this (height, width), each another part of a street image."""
    folder.mkdir()
    streets, (height, width) = [street_image(name) for name in STREET_IMAGES], size
    places = random.Random(0)
    for index in range(count):
        street = streets[index % len(streets)]
        left, top = places.randrange(street.width - width), places.randrange(street.height - height)
        street.crop((left, top, left + width, top + height)).save(folder / f"{index:06}.jpg", quality=90)
    return folder


def privseg(*arguments: object) -> None:
    """Run a command that has to succeed."""
    subprocess.run([*PRIVSEG, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A job in a process of its own, which has ended at the end."""
    command = [*PRIVSEG, "batch", *map(str, arguments), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def measured(*arguments: object) -> tuple[dict[str, float], int]:
    """Run a job -> its report, and the peak of its memory in bytes."""
    peak = 0
    with started(*arguments) as process:
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, memory_of(tree))
            time.sleep(0.2)
        assert process.stdout is not None
        report: dict[str, float] = json.loads(process.stdout.read())
    assert not report["errors"], report
    return report, peak


def memory_of(tree: psutil.Process) -> int:
    """The memory of a process and all below it."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for process in [tree, *tree.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                total += process.memory_full_info().pss
    return total


def throughput(place: Path, options: argparse.Namespace) -> None:
    """Encrypt and segment by 1 and 2 workers of each engine."""
    images = make_images(place / "images", options.images[0], options.size)
    model, key = place / "model", place / "secret.key"
    privseg("encrypt-model", "default", model, "-k", key)
    few = make_images(place / "few", max(options.images[0] // 10, 1), options.size)
    encrypted = place / "encrypted"
    privseg("batch", "encrypt", few, "-o", encrypted, "-k", key, "--part-size", 4)
    rows = []
    for engine in options.engines:
        for operation, source, settings in (
            ("encrypt", images, ("-k", key)),
            ("segment", encrypted, ("--model", model, "--part-size", 4)),
        ):
            speeds = []
            for workers in (1, 2):
                output = place / f"{engine}-{operation}-{workers}"
                how = ("--engine", engine, "--workers", workers)
                report, _ = measured(operation, source, "-o", output, *settings, *how)
                speeds.append(report["images"] / report["seconds"])
            rows.append([operation, engine, str(int(report["images"])), *(f"{speed:.3g}" for speed in speeds)])
    print(markdown_table(("job", "engine", "images", "images/s, 1 worker", "2 workers"), rows))


def memory(place: Path, options: argparse.Namespace) -> None:
    """The peak of jobs of encryption of different sizes."""
    rows = []
    for count in options.images:
        images = make_images(place / f"images-{count}", count, options.size)
        for engine in options.engines:
            how = ("--engine", engine, "--workers", 2, "-o", place / f"{engine}-{count}")
            report, peak = measured("encrypt", images, "-k", place / "secret.key", *how)
            rows.append([engine, str(count), f"{peak / MIB:.0f}", f"{report['seconds']:.1f}"])
    print(markdown_table(("engine", "images", "peak MiB", "seconds"), rows))


def kills(place: Path, options: argparse.Namespace) -> None:
    """Kill a job again and again, let it end, and compare with a job that nobody disturbs."""
    images = make_images(place / "images", options.images[0], options.size)
    job = ("encrypt", images, "-k", place / "secret.key", "--workers", 2, "--part-size", 4)
    measured(*job, "-o", place / "whole")
    output, parts = place / "killed", []
    for _ in range(options.kills):
        with started(*job, "-o", output) as process:
            before = len(list(output.glob("part-*")))
            goal = before + random.randint(1, max(options.images[0] // 4 // (options.kills + 1), 1))
            while process.poll() is None and len(list(output.glob("part-*"))) < goal:
                time.sleep(0.005)
            time.sleep(random.random() / 10)
        parts.append(len(list(output.glob("part-*"))))
    report, _ = measured(*job, "-o", output)
    same = rows_of(output) == rows_of(place / "whole")
    print(
        f"Killed {options.kills} times, after {', '.join(map(str, parts))} parts; then {report['images_now']} images."
    )
    print(f"{report['images']} rows, {'the same as' if same else 'OTHERS THAN'} those of a job that was not killed.")


def rows_of(folder: Path) -> list[dict[str, object]]:
    """All rows of an output, without their seconds."""
    paths = sorted(folder.glob("part-*"))
    return [row for path in paths for row in pq.read_table(path).drop_columns(["seconds"]).to_pylist()]


def translate(place: Path, options: argparse.Namespace) -> None:
    """Translate ciphertexts of one key into those of another."""
    images, key = make_images(place / "images", options.images[0], options.size), place / "secret.key"
    privseg("keygen", place / "next.key")
    privseg("make-rekey-update", place / "next.rekey", "-k", key, "--new-key-file", place / "next.key")
    encryption, _ = measured("encrypt", images, "-o", place / "old", "-k", key, "--workers", 2)
    job = ("translate", place / "old", "-o", place / "new", "--update", place / "next.rekey", "--workers", 2)
    translation, peak = measured(*job)
    size = sum(path.stat().st_size for path in (place / "old").glob("part-*"))
    seconds = translation["seconds"]
    print(f"Encrypted {options.images[0]} images in {encryption['seconds']:.0f} s ({size / 1e9:.2f} GB).")
    print(
        f"Translated them in {seconds:.0f} s ({options.images[0] / seconds:.3g} a second, peak {peak / MIB:.0f} MiB)."
    )


def costs(place: Path, options: argparse.Namespace) -> None:
    """Processor time and bytes of one image in each step of a job."""
    content = next(make_images(place / "images", 1, options.size).iterdir()).read_bytes()
    rows = []
    for family in ("orthogonal", "permutation"):
        key, encrypter = SecretKey.generate(family), ImageEncrypter()
        levels = decode_image("image.jpg", content, encrypter)
        assert isinstance(levels, np.ndarray)
        encrypted = encrypter.encrypt(levels, key)
        file = encrypted.to_bytes()
        steps: dict[str, Callable[[], object]] = {
            "decode JPEG": partial(decode_image, "image.jpg", content, encrypter),
            "encrypt": partial(encrypter.encrypt, levels, key),
            "write": encrypted.to_bytes,
            "read": partial(EncryptedImage.from_bytes, file),
        }
        times = [f"{1000 * processor_seconds(step):.1f}" for step in steps.values()]
        sizes = [len(content), len(file), len(pickle.dumps(encrypted, 5)), len(pickle.dumps(levels, 5))]
        rows.append([family, *times, *(f"{size / 1000:.0f}" for size in sizes)])
    header = ["family", *(f"{name}, ms" for name in steps), "JPEG, kB", "ciphertext, kB", "read, kB", "levels, kB"]
    print(markdown_table(header, rows))
    model, processor = load_model("default", device="cpu")
    (found,) = segment_images(model, processor, [levels])
    assert not isinstance(found, Exception)
    palette = palette_for(model.config)
    seconds, size = processor_seconds(lambda: map_to_png(found, palette)), len(map_to_png(found, palette))
    print(
        f"A map of {found.shape[1]} x {found.shape[0]} pixels as PNG: {1000 * seconds:.1f} ms, {size / 1000:.1f} kB."
    )


def processor_seconds(step: Callable[[], object]) -> float:
    """The median of some runs, after the first one."""
    times = []
    for _ in range(30):
        begin = time.process_time()
        step()
        times.append(time.process_time() - begin)
    return statistics.median(times[1:])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is asked for, and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    runs = {run.__name__: run for run in (throughput, memory, kills, translate, costs)}
    parser.add_argument("run", choices=runs)
    parser.add_argument("--images", type=int, nargs="+", default=[400])
    parser.add_argument("--size", type=int, nargs=2, default=[360, 480], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--engines", nargs="+", choices=("local", "ray"), default=["local", "ray"])
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        privseg("keygen", place / "secret.key")
        runs[options.run](place, options)
    print(provenance_in_words(provenance()))


if __name__ == "__main__":
    main()
