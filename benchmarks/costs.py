"""What a forward pass costs apart from time: floating-point operations, and the most memory that it holds."""

from collections.abc import Callable
from itertools import accumulate

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count


def _product_flops(inputs: torch.Size, weight: torch.Size, *_: object, **__: object) -> int:
    return 2 * inputs.numel() * weight[0]


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query, key, value))


# Kernels for the CPU that PyTorch's counter does not know.
_FORMULAS = {
    torch.ops.mkldnn._linear_pointwise: _product_flops,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops,
}


def flops_of(run: Callable[[], object]) -> int:
    """Operations of the matrix products, convolutions and attention of what runs; a multiply-add is two."""
    counter = FlopCounterMode(display=False, custom_mapping=_FORMULAS)
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
