"""The commands `privseg batch encrypt`, `segment` and `translate`: many images, on this machine or a cluster."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..setr.counts import counted
from .options import KEY_VARIABLE, STANDARD_INPUT, Bits, BitsPerBlock, Device, Dtype, Json, one_of
from .output import report

if TYPE_CHECKING:
    from ..batch.operations import Operation
    from ..batch.plan import Totals
    from ..batch.run import Engine, Started

batch = typer.Typer(
    no_args_is_help=True,
    help="Jobs over many images, on this machine or a cluster of Ray; killed at any moment, the same command goes on.",
)

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCES...",
        help="Folders, .parquet and .tar files (webdataset), patterns with *, Hub data sets (owner/name), URLs of "
        "such (s3://, gs://, hf://), or the output of another batch job.",
    ),
]
Output = Annotated[
    str, typer.Option("--output", "-o", help="Folder or URL for the results, which every worker can write to.")
]
EngineName = Annotated[
    str, one_of("--engine", choices=("local", "ray"), help="Processes of this machine, or a cluster of Ray.")
]
Address = Annotated[
    str | None, typer.Option(help="With --engine ray: the cluster, such as auto.  [default: one on this machine]")
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes; with --engine ray the actors that hold the key or the model.  [default: a core each, one for "
        "a model; with ray as many as fit]",
    ),
]
Readers = Annotated[int | None, typer.Option(min=1, help="With --engine ray: tasks that read and decode at most.")]
Writers = Annotated[int | None, typer.Option(min=1, help="With --engine ray: tasks that write at most.")]
CpusPerActor = Annotated[float, typer.Option(min=0, help="With --engine ray: cores that an actor takes, such as 0.5.")]
GpusPerActor = Annotated[
    float | None,
    typer.Option(min=0, help="With --engine ray: GPUs that an actor takes, such as 0.5.  [default: 1 for a model]"),
]
PartSize = Annotated[int, typer.Option("--part-size", min=1, help="Images in a part of the output, at most.")]
ImageColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the images in parquet files, or ending of their names in tar files.  [default: ciphertext, "
        "image or the only one]"
    ),
]
AsFiles = Annotated[
    bool, typer.Option("--files", help="Write each result to a file of its own, whose path is in the part.")
]
RetryErrors = Annotated[
    bool, typer.Option("--retry-errors", help="Make those parts of a job again that have rows with errors.")
]


@batch.command("encrypt", epilog="Example:\n\nprivseg batch encrypt images -o encrypted --model M -k secret.key")
def encrypt(
    sources: Sources,
    output: Output,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The SETR model that the images are for, as in privseg encrypt."),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", "-k", help="Key file, at the same path on every node that encrypts."),
    ] = None,
    key_env: Annotated[
        str, typer.Option(metavar="NAME", help="Without --key-file: environment variable of the workers with the key.")
    ] = KEY_VARIABLE,
    bits: Bits = None,
    bits_per_block: BitsPerBlock = None,
    part_size: PartSize = 32,
    image_column: ImageColumn = None,
    as_files: AsFiles = False,
    retry_errors: RetryErrors = False,
    engine: EngineName = "local",
    workers: Workers = None,
    address: Address = None,
    readers: Readers = None,
    writers: Writers = None,
    cpus_per_actor: CpusPerActor = 1.0,
    as_json: Json = False,
) -> None:
    """Encrypt images; a row each, with id, ciphertext, size, facts and seconds, or with its error.

    The key is read by the processes that encrypt: its path or the variable's name travels, the key never does.
    """
    if key_file == STANDARD_INPUT:
        raise typer.BadParameter(
            "every worker reads the key itself; give a file, or --key-env", param_hint="--key-file"
        )
    from ..batch.encryption import Encrypt
    from ..batch.key_source import KeySource

    path = None if key_file is None else str(key_file.absolute())
    operation = Encrypt(KeySource(path, key_env), None if model is None else _place(model), bits, bits_per_block)
    with _engine(engine, workers or os.cpu_count() or 1, workers, address, readers, writers, cpus_per_actor, 0) as on:
        _run(operation, sources, output, on, part_size, image_column, as_files, retry_errors, as_json)


@batch.command("segment", epilog="Example:\n\nprivseg batch segment encrypted -o maps --model encrypted_model")
def segment(
    sources: Sources,
    output: Output,
    model: Annotated[
        str,
        typer.Option(metavar="MODEL", help="The SETR model: a folder that every node has, a Hub id, or 'default'."),
    ],
    batch_size: Annotated[int, typer.Option(min=1, help="Images of one size that the model sees at once.")] = 4,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Pixels that the map of an encrypted image may have, as its file claims.")
    ] = 2**25,
    device: Device = None,
    dtype: Dtype = None,
    part_size: PartSize = 32,
    image_column: ImageColumn = None,
    as_files: AsFiles = False,
    retry_errors: RetryErrors = False,
    engine: EngineName = "local",
    workers: Workers = None,
    address: Address = None,
    readers: Readers = None,
    writers: Writers = None,
    cpus_per_actor: CpusPerActor = 1.0,
    gpus_per_actor: GpusPerActor = None,
    as_json: Json = False,
) -> None:
    """Segment images without a key: encrypted ones by the model of their key, plain ones by a plain model.

    A row each, with id, map (an indexed PNG), size, pixels of each class and seconds, or with its error.
    """
    from ..batch.segmentation import Segment

    operation = Segment(_place(model), batch_size, max_pixels, device, dtype)
    with _engine(engine, workers or 1, workers, address, readers, writers, cpus_per_actor, gpus_per_actor) as on:
        _run(operation, sources, output, on, part_size, image_column, as_files, retry_errors, as_json)


@batch.command("translate", epilog="Example:\n\nprivseg batch translate encrypted -o translated --update next.rekey")
def translate(
    sources: Sources,
    output: Output,
    update: Annotated[
        Path, typer.Option(help="Rekey update of privseg make-rekey-update, at the same path on every node.")
    ],
    part_size: PartSize = 32,
    image_column: ImageColumn = None,
    as_files: AsFiles = False,
    retry_errors: RetryErrors = False,
    engine: EngineName = "local",
    workers: Workers = None,
    address: Address = None,
    readers: Readers = None,
    writers: Writers = None,
    cpus_per_actor: CpusPerActor = 1.0,
    as_json: Json = False,
) -> None:
    """Translate ciphertexts of an old key into those of a new one, with the rekey update of its owner.

    Neither key is needed, and without an update or a key nothing can do it. An update is confidential.
    """
    from ..batch.translation import Translate

    operation = Translate(str(update.absolute()))
    with _engine(engine, workers or os.cpu_count() or 1, workers, address, readers, writers, cpus_per_actor, 0) as on:
        _run(operation, sources, output, on, part_size, image_column, as_files, retry_errors, as_json)


def _place(model: str) -> str:
    """A model's folder as an absolute path, for workers in other folders; other names as they are."""
    return str(Path(model).absolute()) if Path(model).is_dir() else model


@contextmanager
def _engine(
    name: str,
    processes: int,
    actors: int | None,
    address: str | None,
    readers: int | None,
    writers: int | None,
    cpus: float,
    gpus: float | None,
) -> "Iterator[Engine]":
    """The engine that is asked for, connected to its cluster."""
    if name == "local":
        if (address, readers, writers, cpus, gpus or None) != (None, None, None, 1.0, None):
            raise typer.BadParameter(
                "--address, --readers, --writers, --cpus-per-actor and --gpus-per-actor belong to --engine ray"
            )
        from ..batch.local_engine import LocalEngine

        yield LocalEngine(processes)
        return
    from ..batch.ray_engine import RayEngine

    engine = RayEngine(address, actors, readers, writers, gpus, cpus)
    with engine.connected():
        yield engine


def _run(
    operation: "Operation",
    sources: list[str],
    output: str,
    engine: "Engine",
    part_size: int,
    image_column: str | None,
    as_files: bool,
    retry_errors: bool,
    as_json: bool,
) -> None:
    """Run a job to its end, and report."""
    from ..batch.run import start

    started = start(
        operation,
        sources,
        output,
        engine,
        part_size=part_size,
        column=image_column,
        as_files=as_files,
        retry_errors=retry_errors,
    )
    begin = time.perf_counter()
    now = _followed(started)
    seconds = time.perf_counter() - begin
    total = started.job.plan.totals()
    place = started.job.plan.output
    earlier = f" {counted(total.images - now.images, 'image')} of earlier runs." * (total.images > now.images)
    report(
        {
            "output": place,
            "images": total.images,
            "errors": total.errors,
            "images_now": now.images,
            "seconds": seconds,
        },
        f"{counted(now.images, 'image')} in {seconds:.1f} s ({now.images / max(seconds, 1e-9):.3g} a second)."
        f"{earlier} Wrote {place}.",
        as_json=as_json,
    )
    if total.errors:
        raise ValueError(
            f"no {operation.content} for {total.errors} of {counted(total.images, 'image')}: their rows in {place} "
            "say why, as error; --retry-errors tries them again"
        )


def _followed(started: "Started") -> "Totals":
    """Do what is to be done, behind a progress bar on standard error -> its totals."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ..batch.plan import Totals
    from ..reporting.tables import terminal

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    totals = Totals(0, 0)
    with (
        Progress(*columns, console=terminal(stderr=True)) as progress,
        open(os.devnull, "w") as nowhere,
        redirect_stdout(nowhere),  # Ray prints the logs of a node that dies; standard output is for results alone
    ):
        bar = progress.add_task("Images", total=started.expected())
        for each in started.results():
            totals += each
            errors = f", {totals.errors} with errors" * (totals.errors > 0)
            progress.update(bar, completed=totals.images, description=f"Images{errors}")
    return totals
