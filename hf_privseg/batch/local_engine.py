"""The engine without a cluster: processes of this machine, each of which does whole chunks."""

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import cache
from itertools import chain, islice
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

from .operations import Work
from .plan import Task, Totals
from .work import Job, run_task

_T = TypeVar("_T")
_ATTEMPTS = 3
_THREADS = "OMP_NUM_THREADS"
_WAITING = 1  # tasks beside those that run, so that no worker waits for the next one


class CannotBeginError(Exception):
    """A process cannot read the key or load the model; the message says why."""


class LocalEngine:
    """Runs chunks in processes.

    Args:
        workers: how many processes.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers

    def call(self, function: Callable[..., _T], *arguments: object) -> _T:
        """Call a function where workers run."""
        return function(*arguments)

    def run(self, job: Job, tasks: Iterable[Task]) -> Iterator[Totals]:
        """Do the tasks -> the totals of each, as they are ready.

        A task whose process dies is done again. Those that were running beside it are done one at a time then, so that
        the one that kills its process is known.

        Raises:
            RuntimeError: the process of a task has died three times, or cannot read the key or load the model.
            OSError: a part cannot be written.
        """
        fresh, suspects, deaths = iter(tasks), deque[Task](), Counter[int]()
        while True:
            running: dict[Future[Totals], Task] = {}
            try:
                with _pool(self._workers) as pool:
                    while True:
                        free = self._workers + _WAITING - len(running)
                        waiting: Iterable[Task] = chain(_drain(suspects), fresh)
                        if suspects:
                            free = 1 - len(running)
                            waiting = _drain(suspects)
                        for task in islice(waiting, max(free, 0)):
                            running[pool.submit(_run, job, task)] = task
                        if not running:
                            return
                        for future in wait(running, return_when=FIRST_COMPLETED).done:
                            totals = future.result()
                            del running[future]
                            yield totals
            except CannotBeginError as error:
                raise RuntimeError(
                    f"no worker can begin: {error}; once that is put right, the command goes on"
                ) from None
            except BrokenProcessPool:
                suspects.extendleft(reversed(running.values()))
                deaths.update(task.chunk for task in running.values())
                chunk, count = deaths.most_common(1)[0]
                if count >= _ATTEMPTS:
                    raise RuntimeError(
                        f"the process of chunk {chunk} ({job.plan.chunk(chunk).names[0]}, ...) has died {count} "
                        "times, maybe for lack of memory; the same command goes on, with fewer --workers too"
                    ) from None


def _drain(tasks: deque[Task]) -> Iterator[Task]:
    while tasks:
        yield tasks.popleft()


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with this block, whatever they are doing, and with this process, however it ends."""
    before = {*multiprocessing.active_children()}
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start)
    try:
        with _threads(max(1, (os.cpu_count() or 1) // workers)):
            yield pool
        pool.shutdown()
    except BaseException:
        for process in {*multiprocessing.active_children()} - before:
            process.terminate()
        pool.shutdown(wait=False, cancel_futures=True)
        raise


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Have processes that start in this block compute with so many threads, unless the user has said how many.

    Libraries read the variable when they are imported, which is before a process runs anything of ours.
    """
    if _THREADS in os.environ:
        yield
        return
    os.environ[_THREADS] = str(count)
    try:
        yield
    finally:
        del os.environ[_THREADS]


def _start() -> None:
    """Prepare a process: it ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait_for([parent.sentinel])
        os._exit(1)


def _run(job: Job, task: Task) -> Totals:
    operation: Any = job.operation  # operations are frozen, and so hashable
    try:
        work = _work(operation)
    except (OSError, ValueError, RuntimeError) as error:
        raise CannotBeginError(str(error)) from None
    return run_task(job, work, task)


@cache
def _work(operation: Any) -> Work:
    """The work of this process for an operation, whose key or model is read once."""
    work: Work = operation.work()
    return work
