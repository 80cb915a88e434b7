"""What the scripts of private inference share: versions first, then a number for each line, until the input ends."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np


def problem() -> tuple[np.ndarray, np.ndarray]:
    """The blocks, (blocks, L), and the embedding, (L, width), of the folder that the script's argument names."""
    folder = Path(json.loads(sys.argv[1])["folder"])
    return np.load(folder / "blocks.npy"), np.load(folder / "embedding.npy")


def seconds_of(step: Callable[[], None], times: float = 1.0) -> Callable[[], float]:
    """A step -> what does it and returns its seconds of processor time, times the share that it stands for."""

    def timed() -> float:
        start = time.process_time()
        step()
        return (time.process_time() - start) * times

    return timed


def error_of(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, in units of the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def answer(facts: Mapping[str, str], steps: Mapping[str, Callable[[], float]]) -> None:
    """Reports the facts, then answers each line with the number of its step."""
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        print(steps[line.strip()](), flush=True)
