"""The engine on a cluster of Ray: reading, computing and writing are stages of Ray Data, each of a size of its own.

    chunk numbers --(tasks: read, decode)--> parts of items --(actors: key or model)--> rows --(tasks: write)--> totals

A stage's results wait in the object store of the node that made them, and Ray Data keeps a bounded number of them:
decoded images and results pass through it, keys never do. An actor or task that dies is replaced by Ray Data. When a
node dies, the execution ends, and another one does what is still to be done, with as many actors as fit then.
"""

import logging
import math
import os
import pickle
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from ..setr.counts import counted
from .plan import Task, Totals
from .work import Job, Part, compute, read_parts, write_part

# Ray reads them when it is imported: it tells nobody about a job, and its own process names no errors beside ours.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import ray
import ray.data
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from .ray_cluster import SPARE_CPUS, Actors, Cluster, ClusterChangedError, Watch

_T = TypeVar("_T")
_MAX_BLOCKS = 10_000
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
            cores = max(os.cpu_count() or 1, math.ceil((self.actors or 1) * self.cpus + SPARE_CPUS))
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
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # it prints what it kept of nodes' logs
                ray.shutdown()

    def call(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Call a function on a node of the cluster."""
        remote = ray.remote(num_cpus=1)(_call)  # on a node that has cores for work, and so the key
        try:
            return ray.get(remote.remote(function, *arguments))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None

    def run(self, job: Job, tasks: Iterable[Task]) -> Iterator[Totals]:
        """Do the tasks -> the totals of each part, as they are ready. Warns when nodes were lost or came.

        Raises:
            ValueError: the cluster has no room for the actors.
            RuntimeError: an actor or task failed, and went on failing; names the error. Or no node is left.
        """
        to_do, cluster = _ToDo(tasks), Cluster.now()
        if not to_do:
            return
        actors = self._actors(job, cluster)
        while True:
            try:
                for row in self._results(job, to_do, cluster, actors).iter_rows():
                    to_do.cross_off(row["chunk"], row["number"], is_last=row["is_last"])
                    yield Totals(row["images"], row["errors"])
                return
            except (ClusterChangedError, ray.exceptions.RayError) as error:
                before, cluster = cluster, Cluster.now()
                if isinstance(error, ray.exceptions.RayError) and not before.lost(cluster):
                    raise _failed(error) from error
            if not to_do:
                return
            changes, size = f"the cluster has {before.changes(cluster)}", actors.fit(cluster)
            if not size:
                raise RuntimeError(
                    f"{changes}, and no room for an actor and a core for the other stages; the same command goes on"
                )
            warnings.warn(f"{changes}; the job goes on with {size} of {actors.wanted} actors", stacklevel=2)

    def _results(self, job: Job, to_do: "_ToDo", cluster: Cluster, actors: Actors) -> ray.data.Dataset:
        """The data set with a row for each part, which is computed when it is iterated over."""
        rows = to_do.rows()
        blocks = min(len(rows), _MAX_BLOCKS)
        chunks = ray.data.from_arrow([pa.Table.from_pylist(rows[index::blocks], _TASK) for index in range(blocks)])
        vars(chunks.context).update(_SETTINGS, custom_execution_callback_classes=[partial(Watch, cluster, actors)])
        stage: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow"}
        size = actors.fit(cluster)
        pool = ActorPoolStrategy(min_size=1 if self.actors is None else size, max_size=size)
        return (
            chunks.map_batches(
                partial(_read, job), compute=TaskPoolStrategy(self.readers), num_cpus=self._reader_cpus, **stage
            )
            .map_batches(
                _Compute,
                fn_constructor_args=(job,),
                compute=pool,
                num_cpus=self.cpus,
                num_gpus=actors.share.get("GPU"),
                **stage,
            )
            .map_batches(partial(_write, job), compute=TaskPoolStrategy(self.writers), num_cpus=_WRITER_CPUS, **stage)
        )

    @property
    def _reader_cpus(self) -> float:
        """Another share than that of actors: Ray Data would make one stage of two that take the same."""
        return 0.5 if self.cpus != 0.5 else 0.6

    def _actors(self, job: Job, cluster: Cluster) -> Actors:
        """How many actors the job has as long as no node dies, and what they take."""
        gpus = self.gpus
        if gpus is None:
            gpus = 1 if job.operation.uses_model and cluster.total("GPU") else 0
        share = {name: amount for name, amount in (("CPU", self.cpus), ("GPU", gpus)) if amount}
        most = Actors(share).fit(cluster)
        if most < (self.actors or 1):
            raise ValueError(
                f"expected a cluster for {self.actors or 1} actors of {self.cpus:g} cores and {gpus:g} GPUs, and a "
                f"core for the other stages, got {cluster.total('CPU'):g} cores and {cluster.total('GPU'):g} GPUs on "
                f"{counted(len(cluster.nodes), 'node')}; lower --workers, --cpus-per-actor or --gpus-per-actor"
            )
        return Actors(share, self.actors or most)


class _ToDo:
    """What is still to be done, as parts are crossed off."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = {task.chunk: task for task in tasks}
        self._done: dict[int, set[int]] = defaultdict(set)  # since then
        self._counts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def rows(self) -> list[dict[str, Any]]:
        """Rows of _TASK."""
        tasks = self._tasks.values()
        return [{"chunk": task.chunk, "done": [*task.done, *self._done.get(task.chunk, ())]} for task in tasks]

    def cross_off(self, chunk: int, number: int, *, is_last: bool) -> None:
        """A part is done."""
        self._done[chunk].add(number)
        if is_last:
            self._counts[chunk] = number + 1
        if len(self._tasks[chunk].done) + len(self._done[chunk]) == self._counts.get(chunk):
            del self._tasks[chunk], self._done[chunk], self._counts[chunk]


def _failed(error: ray.exceptions.RayError) -> Exception:
    """What a stage raised, in words."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, OSError):
        return cause
    lines = str(cause).strip().splitlines() or ["no message"]
    return RuntimeError(
        f"a stage of the job failed ({type(cause).__name__}: {lines[-1]:.500}); the same command goes on"
    )


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
        part = {name: [row[name]] for name in ("chunk", "number", "is_last")}
        yield pa.table({**part, "images": [totals.images], "errors": [totals.errors]})


def _row(chunk: int, number: int, is_last: bool, content: Any) -> pa.Table:
    values: Sequence[Any] = ([chunk], [number], [is_last], pa.array([content], pa.large_binary()))
    return pa.table(dict(zip(("chunk", "number", "is_last", "content"), values, strict=True)))
