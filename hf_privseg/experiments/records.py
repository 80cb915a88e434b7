"""Results of an experiment that survive a killed run: figures in a JSON file, and segmentation maps in a folder."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from ..reporting.provenance import provenance
from ..setr.files import write_whole
from ..training.data import names_hash
from .arguments import ExperimentArguments
from .plain_models import PlainModel
from .tables import write_json

# JSON values, as the json module types them.
Json = dict[str, Any]

_FACTS = "dataset revision split preset label_map ignore_labels reduce_labels seed window stride scales flip"


def experiment_facts(args: ExperimentArguments, dataset: Dataset) -> Json:
    """The settings, apart from models and families, under which figures can be compared, and a hash of the data."""
    return {name: getattr(args, name) for name in _FACTS.split()} | {
        "num_images": len(dataset),
        "data": names_hash(dataset),
    }


class Records:
    """The results of an experiment in a JSON file, {**facts, "models": {...}, "records": {name: row}, "runs": [...]}.

    `runs` is the `provenance` of every process that added a row, so that a reader sees what made the figures.
    The file is written as a whole after every row. Several processes read it when they start, must wait for each other
    then, and hold the same rows; one of them writes.

    Args:
        path: of the file. The rows of an existing file are kept.
        facts: the settings of the experiment, as JSON values.
        writes: whether this process writes.

    Raises:
        ValueError: the file holds an experiment with other facts; the message names the differences.
    """

    def __init__(self, path: Path, facts: Json, *, writes: bool) -> None:
        self.path, self.facts, self.writes = path, facts, writes
        self.models: dict[str, dict[str, str]] = {}
        self.rows: dict[str, Json] = {}
        self.runs: list[Json] = []
        self._run = provenance()
        if path.exists():
            earlier = json.loads(path.read_text())
            self._compare({name: earlier.get(name) for name in facts}, facts)
            self.models, self.rows = earlier.get("models", {}), earlier.get("records", {})
            self.runs = earlier.get("runs", [])

    def bind(self, plain: PlainModel) -> None:
        """Note a model and its facts.

        Raises:
            ValueError: the file has results of other weights under this name.
        """
        facts = plain.facts
        self._compare(self.models.get(plain.name, facts), facts, f"model {plain.name}: ")
        self.models[plain.name] = facts

    def add(self, name: str, row: Json) -> None:
        """Keep a row of JSON values, with null in place of NaN, and write the file."""
        self.rows[name] = _without_nan(row)
        if self._run not in self.runs:
            self.runs.append(self._run)
        self.write()

    def write(self, **extra: Any) -> None:
        """Write the file, with further entries if given."""
        if self.writes:
            found = {"models": self.models, "records": self.rows, "runs": self.runs}
            write_json(self.path, {**self.facts, **found, **extra})

    def _compare(self, found: Json, expected: Json, subject: str = "") -> None:
        different = {name: (found.get(name), value) for name, value in expected.items() if found.get(name) != value}
        if different:
            listed = "; ".join(f"{subject}{name} {was!r}, not {now!r}" for name, (was, now) in different.items())
            raise ValueError(f"{self.path} holds another experiment ({listed}); choose another output folder")


class MapStore:
    """The segmentation maps of one condition in a folder, with which a killed run goes on in the middle of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __contains__(self, index: int) -> bool:
        return self._path(index).exists()

    def __getitem__(self, index: int) -> np.ndarray:
        with np.load(self._path(index)) as stored:
            return stored["segmentation_map"].astype(np.int64)

    def __setitem__(self, index: int, segmentation_map: np.ndarray) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.savez_compressed(content, segmentation_map=segmentation_map.astype(np.uint16))
        write_whole(self._path(index), content.getvalue(), overwrite=True)

    def clear(self) -> None:
        """Remove all maps."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index}.npz"


def _without_nan(value: object) -> Any:
    """JSON values with None in place of NaN, the figure of a class that does not occur."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
