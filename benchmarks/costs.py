"""What a forward pass costs apart from time: floating-point operations, and the most memory that it holds."""

from collections.abc import Callable
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode


def flops_of(run: Callable[[], object]) -> int:
    """Operations of the matrix products, convolutions and attention of what runs; a multiply-add is two."""
    counter = FlopCounterMode(display=False)
    with counter:
        run()
    return int(counter.get_total_flops())


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes that tensors made by what runs hold at one time, beside what was there before.

    On a GPU as its allocator counts them, otherwise as PyTorch allocates them on the CPU. Libraries that keep buffers
    of their own are not counted.
    """
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    results = profiled.profiler
    assert results is not None
    assert results.kineto_results is not None
    events = (event for event in results.kineto_results.events() if event.name() == "[memory]")
    return max(accumulate(event.nbytes() for event in events), default=0)
