"""Micro-batching: what shares a forward, whose turn it is, and requests that fail, are cancelled or come too many."""

import asyncio
import threading
import time

import pytest

from hf_privseg.service.batching import MicroBatcher, QueueFullError


def run(work, **settings):
    """Runs work(batcher, batches) with a batcher that doubles numbers and notes its batches."""
    batches = []

    def double(items):
        batches.append(list(items))
        if "slow" in settings:
            settings["slow"].wait(10)
        if any(item is None for item in items):
            raise ValueError("poisoned")
        return [2 * item for item in items]

    async def main():
        limits = {"max_batch": 4, "max_wait_seconds": 0.05, "max_queue": 16}
        batcher = MicroBatcher(double, **{**limits, **{k: v for k, v in settings.items() if k != "slow"}})
        batcher.start()
        try:
            return await asyncio.wait_for(work(batcher, batches), 20)
        finally:
            if "slow" in settings:
                settings["slow"].set()
            await batcher.close()

    return asyncio.run(main()), batches


def submit(batcher, item, tenant="a", size=1):
    return asyncio.ensure_future(batcher.submit(item, tenant=tenant, size=size))


def test_requests_of_one_size_share_a_batch_and_each_gets_its_own_result():
    async def work(batcher, _):
        return await asyncio.gather(*(submit(batcher, n) for n in range(6)))

    found, batches = run(work)
    assert found == [0, 2, 4, 6, 8, 10]
    assert batches == [[0, 1, 2, 3], [4, 5]]


def test_other_sizes_run_by_themselves():
    async def work(batcher, _):
        return await asyncio.gather(*(submit(batcher, n, size=n % 2, tenant=n) for n in range(4)))

    found, batches = run(work)
    assert found == [0, 2, 4, 6]
    assert sorted(batches) == [[0, 2], [1, 3]]


def test_a_single_request_waits_no_longer_than_asked_for():
    async def work(batcher, _):
        start = time.monotonic()
        await submit(batcher, 1)
        return time.monotonic() - start

    seconds, _ = run(work, max_wait_seconds=0.2)
    assert 0.2 <= seconds < 2
    seconds, _ = run(work, max_wait_seconds=0)
    assert seconds < 0.2


def test_the_places_of_a_batch_go_round_between_tenants():
    gate = threading.Event()

    async def work(batcher, batches):
        first = submit(batcher, 0, tenant="greedy")
        while not batches:
            await asyncio.sleep(0.01)
        many = [submit(batcher, n, tenant="greedy") for n in range(1, 7)]
        few = [submit(batcher, 10, tenant="modest"), submit(batcher, 20, tenant="other")]
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(first, *many, *few)

    _, batches = run(work, slow=gate, max_queue=100)
    assert batches[0] == [0]
    assert batches[1] == [1, 10, 20, 2]


def test_more_tenants_than_a_batch_has_places_all_get_one_before_anybody_gets_two():
    gate = threading.Event()

    async def work(batcher, batches):
        first = submit(batcher, 0, tenant="first")
        while not batches:
            await asyncio.sleep(0.01)
        waiting = [submit(batcher, 10 * tenant + n, tenant=tenant) for tenant in range(10) for n in range(1, 4)]
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(first, *waiting)

    _, batches = run(work, slow=gate, max_queue=100)
    served = [item for batch in batches[1:] for item in batch]
    assert [item % 10 for item in served] == [1] * 10 + [2] * 10 + [3] * 10
    assert [len(batch) for batch in batches] == [1] + [4] * 7 + [2]


def test_how_many_wait_is_told_whenever_it_changes():
    depths: list[int] = []

    async def work(batcher, _):
        one, two = submit(batcher, 1), submit(batcher, 2)
        await asyncio.sleep(0)
        two.cancel()
        return await one

    run(work, on_depth=depths.append)
    assert depths == [1, 2, 1, 0, 0]  # the last when it closes


def test_a_poisoned_request_fails_alone():
    async def work(batcher, _):
        return await asyncio.gather(*(submit(batcher, n) for n in (1, None, 3)), return_exceptions=True)

    (one, failed, three), batches = run(work)
    assert (one, three) == (2, 6)
    assert isinstance(failed, ValueError)
    assert str(failed) == "poisoned"
    assert batches == [[1, None, 3], [1], [None], [3]]


def test_a_cancelled_request_takes_no_place():
    gate = threading.Event()

    async def work(batcher, batches):
        first = submit(batcher, 0)
        while not batches:
            await asyncio.sleep(0.01)
        cancelled, kept = submit(batcher, 1), submit(batcher, 2)
        await asyncio.sleep(0)
        assert batcher.depth == 2
        cancelled.cancel()
        await asyncio.sleep(0.01)
        assert batcher.depth == 1
        gate.set()
        return await first, await kept

    found, batches = run(work, slow=gate)
    assert found == (0, 4)
    assert batches == [[0], [2]]


def test_a_full_queue_refuses_and_one_tenant_has_half_of_it():
    gate = threading.Event()

    async def work(batcher, batches):
        running = submit(batcher, 0)
        while not batches:
            await asyncio.sleep(0.01)
        waiting = [submit(batcher, n, tenant="a") for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match=r"^2 requests of this tenant wait already; try again later$"):
            await batcher.submit(3, tenant="a", size=1)
        waiting += [submit(batcher, n, tenant="b") for n in (4, 5)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match=r"^4 requests wait already; try again later$"):
            await batcher.submit(6, tenant="c", size=1)
        waiting[0].cancel()
        await asyncio.sleep(0)
        with pytest.raises(QueueFullError, match=r"^2 requests of this tenant wait already; try again later$"):
            await batcher.submit(7, tenant="b", size=1)
        waiting[0] = submit(batcher, 1, tenant="a")
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(running, *waiting)

    found, _ = run(work, slow=gate, max_queue=4)
    assert found == [0, 2, 4, 8, 10]


def test_closing_while_a_failed_batch_is_tried_item_by_item_leaves_nobody_waiting():
    gate = threading.Event()

    async def work(batcher, batches):
        waiting = [submit(batcher, item) for item in (1, None, 3)]
        while not batches:
            await asyncio.sleep(0.01)
        gate.set()
        while len(batches) < 2:
            await asyncio.sleep(0)
        await batcher.close()
        return await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)

    found, _ = run(work, slow=gate)
    assert len(found) == 3


def test_closing_cancels_what_waits():
    async def work(batcher, batches):
        waiting = submit(batcher, 1)
        await asyncio.sleep(0.01)
        await batcher.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    run(work, max_wait_seconds=5)
