"""What the paper's experiments share: their models, keys, images, and results that outlive a killed run."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from ..checkpoints import default_checkpoint
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.keys import SecretKey
from ..setr.modeling_setr import SetrForSemanticSegmentation
from ..training.arguments import ExperimentArguments


@dataclass(frozen=True)
class PlainModel:
    """A model before encryption, the processor that belongs to it, and what tables call it."""

    name: str
    source: str
    model: SetrForSemanticSegmentation
    processor: SetrImageProcessor

    @property
    def facts(self) -> dict[str, str]:
        """Where it came from, its decoder, and the SHA-256 of its weights: other weights are another experiment."""
        digest = hashlib.sha256()
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        decoder = self.model.config.decoder_type
        return {"source": self.source, "decoder": decoder, "weights_sha256": digest.hexdigest()}


def model_sources(args: ExperimentArguments) -> dict[str, str]:
    """The options --model and --models -> {name: folder or Hub id}; one model without a name is called "".

    Raises:
        SystemExit: both options, an entry without a name, or a name twice.
    """
    if args.models and args.model:
        raise SystemExit("Expected either --model or --models, and not both.")
    if not args.models:
        return {"": args.model or str(default_checkpoint())}
    pairs = [entry.partition("=") for entry in args.models]
    names = [name for name, _, _ in pairs]
    if not all(name and path for name, _, path in pairs) or len(set(names)) < len(names):
        raise SystemExit(
            f"--models takes different names with their paths, as in naive=PATH mla=PATH, got {args.models}"
        )
    return {name: path for name, _, path in pairs}


def load_plain_model(source: str | None, device: torch.device | str, name: str = "") -> PlainModel:
    """Folder or Hub id, None for the embedded checkpoint -> the model on `device`, ready to predict.

    Args:
        source: the checkpoint.
        device: where the model goes.
        name: what tables call it; by default its decoder.

    Raises:
        SystemExit: the model is encrypted.
    """
    source = source or str(default_checkpoint())
    model = SetrForSemanticSegmentation.from_pretrained(source).eval().to(device)
    if model.config.encryption is not None:
        raise SystemExit(f"{source} is encrypted; the experiment encrypts models itself and starts from plain ones.")
    return PlainModel(name or model.config.decoder_type, source, model, SetrImageProcessor.from_pretrained(source))


def plain_models(args: ExperimentArguments, device: torch.device | str) -> Iterator[PlainModel]:
    """The models of the command line, one after another.

    Raises:
        SystemExit: a model is encrypted, or its classes are not those of --id2label.
    """
    for name, source in model_sources(args).items():
        plain = load_plain_model(source, device, name)
        if args.id2label and args.load_class_names() != plain.model.config.id2label:
            classes = plain.model.config.id2label
            raise SystemExit(f"the classes of {source} are {classes}, not those of {args.id2label}.")
        yield plain


def seeded_key(seed: int, family: str) -> SecretKey:
    """`SecretKey.from_seed` without its warning: the key of a published experiment, which protects nothing."""
    with warnings.catch_warnings(action="ignore"):
        return SecretKey.from_seed(seed, family=family)


def evenly_spaced(dataset: Dataset, limit: int | None) -> Dataset:
    """`limit` rows from the first to the last at equal distances; all rows where that is as many or more."""
    if limit is None or limit >= len(dataset):
        return dataset
    return dataset.select(np.linspace(0, len(dataset) - 1, limit).round().astype(int))


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
            self.path.parent.mkdir(parents=True, exist_ok=True)
            content = {**self.facts, "models": self.models, "records": self.rows, **extra}
            temporary = self.path.with_name(f".{self.path.name}.tmp")
            temporary.write_text(json.dumps(content, indent=1))
            os.replace(temporary, self.path)

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
        temporary = self.folder / f"unfinished_{index}.npz"
        np.savez_compressed(temporary, label_map=label_map.astype(np.uint16))
        os.replace(temporary, self._path(index))

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
