"""The engine on a cluster of Ray: reading, computing and writing are stages of Ray Data, each of a size of its own.

    chunk numbers --(tasks: read, decode)--> parts of items --(actors: key or model)--> rows --(tasks: write)--> totals

A stage's results wait in the object store of the node that made them, and Ray Data keeps a bounded number of them:
decoded images and results pass through it, keys never do. What a dead node had is made again from the chunk numbers.
"""

import logging
import math
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from .plan import Task, Totals
from .work import Job, Part, compute, read_parts, write_part

# Ray reads them when it is imported: it tells nobody about a job, and its own process names no errors beside ours.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import ray
import ray.data
from ray.data import ActorPoolStrategy, TaskPoolStrategy

_T = TypeVar("_T")
_MAX_BLOCKS = 10_000
_SPARE_CPUS = 1.0  # that actors leave to readers and writers, which would never run otherwise
_WRITER_CPUS = 0.25
_SETTINGS = {
    "enable_progress_bars": False,
    "print_on_execution_start": False,
    "raise_original_map_exception": True,
}  # of Ray Data, for our data set alone
_TASK = pa.schema([("chunk", pa.int64()), ("done", pa.list_(pa.int64()))])


@dataclass(frozen=True)
class RayEngine:
    """Runs parts on the nodes of a cluster; the package is installed on each of them.

    Args:
        address: of a cluster, such as "auto" or "ray://head:10001"; None starts Ray on this machine.
        actors: how many actors hold the key or the model; None lets their number grow with what is free.
        readers, writers: how many tasks read and write at most; None leaves it to Ray.
        gpus: share of a GPU that an actor takes; None is one GPU for a model where the cluster has some.
        cpus: cores that an actor takes, beside a GPU too.
        memory: bytes of the object store of a Ray that is started here. It fills up whatever the size of a job, and
            what does not fit is spilled to disk.
    """

    address: str | None = None
    actors: int | None = None
    readers: int | None = None
    writers: int | None = None
    gpus: float | None = None
    cpus: float = 1.0
    memory: int = 2**30

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Connect to the cluster, or start one, for the time of this block."""
        if ray.is_initialized():  # by the program that this is a part of
            yield
            return
        local: dict[str, Any] = {}
        if self.address is None:
            cores = max(os.cpu_count() or 1, math.ceil((self.actors or 1) * self.cpus + _SPARE_CPUS))
            local = {"include_dashboard": False, "object_store_memory": self.memory, "num_cpus": cores}
        ray.init(address=self.address, log_to_driver=False, logging_level=logging.ERROR, **local)
        # What Ray Data logs is in its file; an error is raised too.
        consoles = [handler for handler in logging.getLogger("ray.data").handlers if handler.name == "console"]
        levels = [handler.level for handler in consoles]
        try:
            for handler in consoles:
                handler.setLevel(logging.CRITICAL)
            yield
        finally:
            for handler, level in zip(consoles, levels, strict=True):
                handler.setLevel(level)
            ray.shutdown()

    def call(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Call a function on a node of the cluster."""
        remote = ray.remote(num_cpus=1)(_call)  # on a node that has cores for work, and so the key
        try:
            return ray.get(remote.remote(function, *arguments))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None

    def run(self, job: Job, tasks: Iterable[Task]) -> Iterator[Totals]:
        """Do the tasks -> the totals of each part, as they are ready.

        Raises:
            RuntimeError: an actor or task failed, and went on failing; names the error.
        """
        rows = [{"chunk": task.chunk, "done": list(task.done)} for task in tasks]
        if not rows:
            return
        blocks = min(len(rows), _MAX_BLOCKS)
        tables = [pa.Table.from_pylist(rows[index::blocks], _TASK) for index in range(blocks)]
        stage: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
        gpus, chunks = self._gpus(job), ray.data.from_arrow(tables)
        vars(chunks.context).update(_SETTINGS)
        results = (
            chunks.map_batches(
                partial(_read, job), compute=TaskPoolStrategy(self.readers), num_cpus=self._reader_cpus, **stage
            )
            .map_batches(
                _Compute,
                fn_constructor_args=(job,),
                compute=self._pool(gpus),
                num_cpus=self.cpus,
                num_gpus=gpus,
                **stage,
            )
            .map_batches(partial(_write, job), compute=TaskPoolStrategy(self.writers), num_cpus=_WRITER_CPUS, **stage)
        )
        try:
            for row in results.iter_rows():
                yield Totals(row["images"], row["errors"])
        except ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            if isinstance(cause, OSError):
                raise cause from None
            lines = str(cause).strip().splitlines() or ["no message"]
            raise RuntimeError(
                f"a stage of the job failed ({type(cause).__name__}: {lines[-1]:.500}); the same command goes on"
            ) from error

    @property
    def _reader_cpus(self) -> float:
        """Another share than that of actors: Ray Data would make one stage of two that take the same."""
        return 0.5 if self.cpus != 0.5 else 0.6

    def _gpus(self, job: Job) -> float | None:
        if self.gpus is not None:
            return self.gpus or None
        return 1 if job.operation.uses_model and ray.cluster_resources().get("GPU", 0) else None

    def _pool(self, gpus: float | None) -> ActorPoolStrategy:
        """The actors, as many as leave cores to the other stages."""
        has = ray.cluster_resources()
        cores = has.get("CPU", 0) - _SPARE_CPUS
        fit = [cores // self.cpus] if self.cpus else []
        fit += [has.get("GPU", 0) // gpus] if gpus else []
        most = int(min(fit, default=1))
        if most < (self.actors or 1):
            raise ValueError(
                f"expected a cluster for {self.actors or 1} actors of {self.cpus:g} cores and {gpus or 0:g} GPUs, and "
                f"a core for the other stages, got {has.get('CPU', 0):g} cores and {has.get('GPU', 0):g} GPUs; lower "
                "--workers, --cpus-per-actor or --gpus-per-actor"
            )
        if self.actors is not None:
            return ActorPoolStrategy(size=self.actors)
        return ActorPoolStrategy(min_size=1, max_size=most)


def _call(function: Callable[..., _T], *arguments: object) -> _T:
    return function(*arguments)


def _read(job: Job, table: pa.Table) -> Iterator[pa.Table]:
    """A row with a chunk's number -> a row for each of its parts."""
    for row in table.to_pylist():
        for part in read_parts(job, Task(row["chunk"], tuple(row["done"]))):
            yield _row(part.chunk, part.number, part.is_last, pickle.dumps(part.items, protocol=5))


class _Compute:
    """An actor: it has read the key or loaded the model."""

    def __init__(self, job: Job) -> None:
        self._job, self._work = job, job.operation.work()

    def __call__(self, table: pa.Table) -> Iterator[pa.Table]:
        for row in table.to_pylist():
            part = Part(row["chunk"], row["number"], row["is_last"], pickle.loads(row["content"]))  # noqa: S301 - ours
            rows = compute(self._job.operation, self._work, part)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, rows.schema) as writer:
                writer.write_table(rows)
            yield _row(part.chunk, part.number, part.is_last, sink.getvalue().to_pybytes())


def _write(job: Job, table: pa.Table) -> Iterator[pa.Table]:
    for row in table.to_pylist():
        rows = pa.ipc.open_stream(row["content"]).read_all()
        totals = write_part(job, row["chunk"], row["number"], row["is_last"], rows)
        yield pa.table({"images": [totals.images], "errors": [totals.errors]})


def _row(chunk: int, number: int, is_last: bool, content: Any) -> pa.Table:
    values: Sequence[Any] = ([chunk], [number], [is_last], pa.array([content], pa.large_binary()))
    return pa.table(dict(zip(("chunk", "number", "is_last", "content"), values, strict=True)))
