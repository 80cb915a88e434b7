"""Times of things that are compared: taken in turns, so that what else a machine does falls on all of them alike."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_privseg.experiments.tables import ResultTable, print_tables, write_tables
from hf_privseg.setr.configuration_setr import SetrConfig

# Hidden size, layers, heads; "tiny" is for tests.
ENCODERS = {"tiny": (32, 6, 2), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}


def encoder_sizes(name: str) -> tuple[int, int, int]:
    """Name of an encoder -> hidden size, layers, heads; raises ValueError where there is none of that name."""
    if name not in ENCODERS:
        raise ValueError(f"expected an encoder among {', '.join(ENCODERS)}, got {name}")
    return ENCODERS[name]


def setr_config(encoder: str, decoder: Any, *, size: int, num_labels: int) -> SetrConfig:
    """The configuration of a SETR of published sizes, without auxiliary heads, which serve training alone."""
    hidden_size, layers, heads = encoder_sizes(encoder)
    return SetrConfig(
        decoder_type=decoder, hidden_size=hidden_size, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=4 * hidden_size, image_size=size, use_auxiliary_head=False, num_labels=num_labels,
    )  # fmt: skip


def seconds_of(run: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> Callable[[], float]:
    """What does something -> what does it and returns the seconds that it took, on a GPU too."""

    def timed() -> float:
        _wait()
        start = clock()
        run()
        _wait()
        return clock() - start

    return timed


def processor_seconds_of(run: Callable[[], object]) -> Callable[[], float]:
    """The same in seconds of processor time of all threads, where there is no GPU."""
    return seconds_of(run, time.perf_counter if torch.cuda.is_available() else time.process_time)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def interleaved(timed: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """{name: what returns the seconds that it took} -> {name: seconds of each round}, after one not counted.

    Every other round runs backwards, so that nobody always comes first.
    """
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for index in range(rounds + 1):
        for name, run in list(timed.items())[:: -1 if index % 2 else 1]:
            taken = run()
            if index:
                seconds[name].append(taken)
    return seconds


def ratio(seconds: Sequence[float], reference: Sequence[float]) -> float:
    """The median over the rounds of how many times longer the reference took."""
    return statistics.median(theirs / ours for ours, theirs in zip(seconds, reference, strict=True))


def report(output: str, tables: Sequence[ResultTable], *notes: str) -> None:
    """Write the tables in several forms, with what made them, and print them."""
    load = f"load of the machine at the end: {os.getloadavg()[0]:.1f}"
    lines = [load, *notes]
    write_tables(Path(output), tables, lines)
    print_tables(tables, "Notes", lines)
