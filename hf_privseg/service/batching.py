"""Micro-batching: requests of one size that arrive within milliseconds share one forward.

The places of a batch go round between the tenants that wait, first those whose last turn is longest ago: nobody who
sends a thousand images keeps another from sending one. A request that was cancelled takes no place. Of a batch that
fails, every item is tried by itself.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..setr.counts import counted

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Other = TypeVar("_Other")


class QueueFullError(RuntimeError):
    """So many requests wait that another one is refused; it may come again later."""


@dataclass(eq=False)  # an item is found in its queue by identity, not by comparing images
class _Waiting(Generic[_Item, _Result]):
    """An item in the queue, and the future that its result goes to."""

    item: _Item
    size: Hashable
    future: asyncio.Future[_Result]
    since: float = field(default=0.0)


class MicroBatcher(Generic[_Item, _Result]):
    """Runs items in batches, one batch at a time, in a thread of its own.

    Args:
        run: items of one size -> their results, in order.
        max_batch: items of a batch at most.
        max_wait_seconds: how long the first item of a batch waits for others.
        max_queue: items that wait at most; one tenant may hold half of the places.
        on_batch: is told the size of every batch.
        on_depth: is told how many items wait, whenever that changes.
    """

    def __init__(
        self,
        run: Callable[[Sequence[_Item]], Sequence[_Result]],
        *,
        max_batch: int,
        max_wait_seconds: float,
        max_queue: int,
        on_batch: Callable[[int], None] = lambda size: None,
        on_depth: Callable[[int], None] = lambda depth: None,
    ) -> None:
        self._run, self._on_batch, self._on_depth = run, on_batch, on_depth
        self._max_batch, self._max_wait, self._max_queue = max_batch, max_wait_seconds, max_queue
        self._queues: OrderedDict[Hashable, deque[_Waiting[_Item, _Result]]] = OrderedDict()
        self._changed = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="privseg-model")
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work, in the running event loop."""
        self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stop, once the batch that runs is done; items that still wait are cancelled."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for queue in self._queues.values():
            for waiting in queue:
                waiting.future.cancel()
        self._queues.clear()
        self._on_depth(0)
        self._executor.shutdown(wait=False)

    @property
    def depth(self) -> int:
        """How many items wait."""
        return sum(map(len, self._queues.values()))

    async def submit(self, item: _Item, *, tenant: Hashable, size: Hashable) -> _Result:
        """The result of an item, once its batch has run. Cancelling the call takes the item out of the queue.

        Args:
            item: what `run` takes.
            tenant: whose it is; the places of a batch go round between tenants.
            size: items of one size may share a batch.

        Raises:
            QueueFullError: too many items wait, or too many of this tenant.
            Exception: what `run` raises for this item.
        """
        queue = self._queues.setdefault(tenant, deque())
        if self.depth >= self._max_queue or len(queue) >= max(1, self._max_queue // 2):
            is_full = self.depth >= self._max_queue
            number = self.depth if is_full else len(queue)
            of = "" if is_full else " of this tenant"
            verb = "waits" if number == 1 else "wait"
            raise QueueFullError(f"{counted(number, 'request')}{of} {verb} already; try again later")
        loop = asyncio.get_running_loop()
        waiting = _Waiting(item, size, loop.create_future(), loop.time())
        queue.append(waiting)
        self._on_depth(self.depth)
        self._changed.set()
        try:
            return await waiting.future
        except asyncio.CancelledError:
            waiting.future.cancel()
            if waiting in queue:
                queue.remove(waiting)
                self._on_depth(self.depth)
            raise

    async def run_between(self, work: Callable[[], _Other]) -> _Other:
        """What work() returns, which runs between two batches: the model has one thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _work(self) -> None:
        while True:
            self._changed.clear()
            self._forget_idle_tenants()
            if not self._queues:
                await self._changed.wait()
                continue
            await self._wait_for_more()
            batch = self._take()
            if batch:
                self._on_depth(self.depth)
                self._on_batch(len(batch))
                await self._settle(batch)

    async def _wait_for_more(self) -> None:
        """Wait until a whole batch is there, or the first item has waited long enough."""
        loop = asyncio.get_running_loop()
        first = next(iter(self._queues.values()))[0]
        ends_at = first.since + self._max_wait
        while (left := ends_at - loop.time()) > 0:
            alike = sum(waiting.size == first.size for queue in self._queues.values() for waiting in queue)
            if alike >= self._max_batch:
                return
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), left)
            except TimeoutError:
                return

    def _take(self) -> list[_Waiting[_Item, _Result]]:
        """The next batch: of the size of the first tenant's first item, one from each tenant in turn."""
        self._forget_idle_tenants()
        if not self._queues:
            return []
        size = next(iter(self._queues.values()))[0].size
        batch: list[_Waiting[_Item, _Result]] = []
        while len(batch) < self._max_batch:
            before = len(batch)
            for tenant, queue in list(self._queues.items()):
                found = next((waiting for waiting in queue if waiting.size == size), None)
                if found is not None and len(batch) < self._max_batch:
                    queue.remove(found)
                    batch.append(found)
                    self._queues.move_to_end(tenant)
            if len(batch) == before:
                break
        return batch

    async def _settle(self, batch: list[_Waiting[_Item, _Result]]) -> None:
        """Run a batch and hand out its results; where it fails, run each item by itself."""
        try:
            try:
                results = await self.run_between(lambda: self._run([waiting.item for waiting in batch]))
            except Exception as error:
                if len(batch) == 1 and not batch[0].future.done():
                    batch[0].future.set_exception(error)
                for waiting in batch:
                    if not waiting.future.done():
                        await self._settle([waiting])
                return
            for waiting, result in zip(batch, results, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result(result)
        except asyncio.CancelledError:
            for waiting in batch:
                waiting.future.cancel()
            raise

    def _forget_idle_tenants(self) -> None:
        for tenant in [tenant for tenant, queue in self._queues.items() if not queue]:
            del self._queues[tenant]
