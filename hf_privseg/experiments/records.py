"""Results of an experiment that outlive a killed run: figures as JSON, and the segmentation maps behind them."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..setr.files import write_whole
from .arguments import ExperimentArguments
from .plain_models import PlainModel
from .tables import write_json


def experiment_facts(args: ExperimentArguments, dataset: Dataset) -> dict[str, Any]:
    """What makes an experiment, models and families aside: with other values, its figures are not comparable."""
    names: tuple[str, ...] = (
        "dataset",
        "revision",
        "split",
        "preset",
        "label_map",
        "ignore_labels",
        "reduce_labels",
        "seed",
    )
    names += ("window", "stride", "scales", "flip")
    return {name: getattr(args, name) for name in names} | {"num_images": len(dataset)}


class Records:
    """Results of an experiment in one JSON file, {**facts, "models": {...}, "records": {name: row}}.

    Every row is on disk, the file whole, before the next one is computed. Several processes read the file when they
    start (let them wait for each other then) and hold the same rows; one of them writes.

    Args:
        path: of the file; what it holds is taken over.
        facts: what makes the experiment: data, seed, ... JSON values.
        writes: whether this process writes.

    Raises:
        SystemExit: the file holds an experiment with other facts; names the differences.
    """

    def __init__(self, path: Path, facts: dict[str, Any], *, writes: bool) -> None:
        self.path, self.facts, self.writes = path, facts, writes
        self.models: dict[str, dict[str, str]] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        if path.exists():
            earlier = json.loads(path.read_text())
            self._compare({name: earlier.get(name) for name in facts}, facts)
            self.models, self.rows = earlier.get("models", {}), earlier.get("records", {})

    def bind(self, plain: PlainModel) -> None:
        """Notes a model; rows of another model by its name are refused.

        Raises:
            SystemExit: the file has results of other weights under this name.
        """
        facts = plain.facts
        self._compare(self.models.get(plain.name, facts), facts, f"model {plain.name}: ")
        self.models[plain.name] = facts

    def add(self, name: str, row: dict[str, Any]) -> None:
        """Keeps a row (JSON values; NaN becomes null) and writes the file."""
        self.rows[name] = _without_nan(row)
        self.write()

    def write(self, **extra: Any) -> None:
        """Writes the file, with further entries (conclusions from the rows) where there are any."""
        if self.writes:
            write_json(self.path, {**self.facts, "models": self.models, "records": self.rows, **extra})

    def _compare(self, found: dict[str, Any], expected: dict[str, Any], subject: str = "") -> None:
        different = {name: (found.get(name), value) for name, value in expected.items() if found.get(name) != value}
        if different:
            listed = "; ".join(f"{subject}{name} {was!r}, not {now!r}" for name, (was, now) in different.items())
            raise SystemExit(f"{self.path} holds another experiment ({listed}); choose another output folder.")


class MapStore:
    """Label maps of one condition on disk, so that a killed run goes on in the middle of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, index: int) -> bool:
        return self._path(index).exists()

    def __getitem__(self, index: int) -> np.ndarray:
        with np.load(self._path(index)) as stored:
            return stored["label_map"].astype(np.int64)

    def __setitem__(self, index: int, label_map: np.ndarray) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.savez_compressed(content, label_map=label_map.astype(np.uint16))
        write_whole(self._path(index), content.getvalue(), overwrite=True)

    def clear(self) -> None:
        """Removes all maps."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index}.npz"


def _without_nan(value: Any) -> Any:
    """Floats that are NaN (a class that does not occur) -> None, which JSON has."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
