"""What a fresh process costs: imports and commands of the command line, in seconds of the clock and of processor time.

    python benchmarks/start_up.py --output outputs/start_up.md

Every command runs in a process of its own, in turns, on a street image of the package and the embedded model.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from interleaved import report

from hf_privseg.catalog.street_images import STREET_IMAGES, street_file
from hf_privseg.experiments.tables import ResultTable
from hf_privseg.training.arguments import parse_arguments, run_script

_PRIVSEG = [sys.executable, "-m", "hf_privseg.cli"]


@dataclass(kw_only=True)
class Arguments:
    """What the command line takes."""

    output: str = field(metadata={"help": "Markdown file for the table."})
    rounds: int = field(default=5, metadata={"help": "Turns; medians are taken."})


def commands(folder: Path, image: Path) -> dict[str, list[str]]:
    """A folder and an image -> {what a row is called: the command}, which write into the folder."""
    key, output = str(folder / "secret.key"), str(folder / "out")
    model, base = "from hf_privseg import SetrForSemanticSegmentation", "from transformers import PreTrainedModel"
    return {
        "`import hf_privseg`": [sys.executable, "-c", "import hf_privseg"],
        f"`{base}`": [sys.executable, "-c", base],
        f"`{model}`": [sys.executable, "-c", model],
        "`privseg --help`": [*_PRIVSEG, "--help"],
        "`privseg info KEY`": [*_PRIVSEG, "info", key],
        "`privseg encrypt IMAGE`": [
            *_PRIVSEG,
            "encrypt",
            str(image),
            "--key-file",
            key,
            "--output",
            output,
            "--force",
        ],
        "`privseg segment IMAGE`": [
            *_PRIVSEG,
            "segment",
            str(image),
            "--model",
            "default",
            "--output",
            output,
            "--force",
        ],
    }


def run_once(command: Sequence[str]) -> tuple[float, float]:
    """A command -> its seconds of the clock and of processor time, with those of its children."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    taken, after = time.perf_counter() - start, os.times()
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stderr}")
    return taken, after.children_user + after.children_system - before.children_user - before.children_system


def measured(named: Mapping[str, list[str]], rounds: int) -> list[list[str]]:
    """Commands -> rows of the table; a first turn does not count."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in named}
    for index in range(rounds + 1):
        for name, command in named.items():
            found = run_once(command)
            if index:
                taken[name].append(found)
    return [[name, *(f"{median(each):.2f}" for each in zip(*pairs, strict=True))] for name, pairs in taken.items()]


def main() -> None:
    """Measures, then writes and prints the table."""
    args = parse_arguments(Arguments, description=__doc__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run_once([*_PRIVSEG, "keygen", str(folder / "secret.key")])
        rows = measured(commands(folder, street_file(next(iter(STREET_IMAGES)))), args.rounds)
    table = ResultTable(f"A fresh process, medians of {args.rounds}", ["command", "s", "processor, s"], rows)
    report(args.output, [table])


if __name__ == "__main__":
    run_script(main)
