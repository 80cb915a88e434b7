"""A batch job from its sources to its totals: planned, checked, and done by an engine."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from .chunks import Chunk
from .operations import Operation
from .places import absolute, make_folder, remove_leftovers
from .plan import Plan, Task, Totals
from .sources import chunks_of, source_urls
from .work import Job, check_first

_T = TypeVar("_T")


class Engine(Protocol):
    """Who runs a job."""

    def call(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Call a function where workers run; what it raises is raised here."""

    def run(self, job: Job, tasks: Iterable[Task]) -> Iterator[Totals]:
        """Do the tasks -> totals as they come, of a chunk or a part each."""


@dataclass(frozen=True)
class Started:
    """A job that is ready to run.

    Args:
        job: the job.
        engine: who runs it.
        tasks: what is to be done.
    """

    job: Job
    engine: Engine
    tasks: Sequence[Task]

    def expected(self) -> int | None:
        """How many images are to be done; None where a source does not say how many it has."""
        total = 0
        for task in self.tasks:
            count = self.job.plan.chunk(task.chunk).count
            if count < 0:
                return None
            total += max(count - len(task.done) * self.job.part_size, 0)
        return total

    def results(self) -> Iterator[Totals]:
        """Do what is to be done -> totals as they come.

        Raises:
            RuntimeError: a chunk could not be done.
        """
        yield from self.engine.run(self.job, self.tasks)
        missing = [task.chunk for task in self.job.plan.remaining()]
        if missing:
            raise RuntimeError(
                f"{len(missing)} chunks are not complete (the first is {missing[0]}); the same command goes on"
            )
        remove_leftovers(self.job.plan.output)


def start(
    operation: Operation,
    sources: Sequence[str],
    output: str,
    engine: Engine,
    *,
    part_size: int = 32,
    column: str | None = None,
    as_files: bool = False,
    retry_errors: bool = False,
) -> Started:
    """Plan a job, or find its plan, and check what would make all of it fail.

    Args:
        operation: what is done.
        sources: folders, parquet and tar files, URLs and names of data sets.
        output: path or URL of a folder, which every worker can write to.
        engine: who runs it.
        part_size: how many images a part of the output has at most.
        column: of images in parquet files, or the ending of names in tar files; None finds it.
        as_files: whether each result is a file of its own.
        retry_errors: whether parts that have rows with errors are made again.

    Raises:
        OSError, ValueError, RuntimeError: as the operation's `facts` and `check`, `chunks_of` and `Plan.open_or_make`.
    """
    urls, place = source_urls(sources), absolute(output).rstrip("/")
    settings = {"sources": urls, "part_size": part_size, "column": column, "as_files": as_files}
    facts = engine.call(operation.facts)
    definition = json.loads(json.dumps({"operation": operation.name, **facts, **settings}))
    make_folder(place)

    def checked() -> Iterator[Chunk]:
        """The chunks of a job that its first image does not refuse; nothing is written of one that is refused."""
        for index, chunk in enumerate(chunks_of(urls, part_size)):
            if index == 0:
                engine.call(check_first, operation, chunk, column)
            yield chunk

    plan = Plan.open_or_make(place, definition, checked())
    job = Job(operation, plan, part_size, column, as_files, retry_errors)
    return Started(job, engine, list(plan.remaining(retry_errors=retry_errors)))
