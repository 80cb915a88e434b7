"""`privseg evaluate`: mIoU of plain models and, if asked for, of encrypted ones under the paper's conditions."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image
from transformers import PreTrainedModel

from ..any_vit.model_encryption import encrypt_model
from ..setr.keys import SecretKey
from ..training.data import evenly_spaced
from ..training.evaluation import compute_over_processes
from ..training.label_map import LabelMap
from ..training.metrics import MeanIoU
from .arguments import model_sources
from .evaluation_arguments import EvaluationArguments
from .evaluation_report import ENCRYPTED, record_name, report
from .plain_models import PlainModel, any_plain_models, seeded_key
from .records import MapStore, Records, experiment_facts


@dataclass
class Condition:
    """A condition of the table: a model and the key that its images are encrypted with."""

    family: str
    name: str
    model: PreTrainedModel
    secret_key: SecretKey | None


@dataclass
class Run:
    """The options, data, records and processes that all conditions share."""

    args: EvaluationArguments
    dataset: Dataset
    records: Records
    accelerator: Accelerator

    def label_map(self, plain: PlainModel) -> LabelMap:
        """The label map for the classes of a model, after a look at the labels."""
        quiet = not self.accelerator.is_main_process
        return self.args.inspect_labels(self.args.split, self.dataset, plain.names, quiet=quiet)[0]

    @property
    def families(self) -> list[str]:
        """The key families of encrypted copies; none where the plain models alone are measured."""
        return self.args.families if self.args.encrypted else []

    @property
    def share(self) -> range:
        """The images of this process."""
        return range(self.accelerator.process_index, len(self.dataset), self.accelerator.num_processes)

    def store(self, record: str) -> MapStore:
        """The folder of the segmentation maps of a condition until it is finished."""
        return MapStore(Path(self.args.output_dir) / "unfinished" / record.replace(": ", "_").replace(" ", "_"))

    def num_missing(self, model: str) -> int:
        """How many conditions have no result yet, the running one of this model included."""
        names = [name for name in model_sources(self.args) if name] or [model]
        expected = [record_name(name, "", "baseline") for name in names]
        expected += [record_name(*each) for each in product(names, self.families, ENCRYPTED)]
        return sum(name not in self.records.rows for name in expected)


def conditions(plain: PlainModel, run: Run) -> Iterator[Condition]:
    """The missing conditions of a model, and the baseline if there are any, since they are compared with it."""
    rows = run.records.rows
    missing = {
        family: [name for name in ENCRYPTED if record_name(plain.name, family, name) not in rows]
        for family in run.families
    }
    if any(missing.values()) or record_name(plain.name, "", "baseline") not in rows:
        yield Condition("", "baseline", plain.model, None)
    for family, names in missing.items():
        if names:
            correct, other = (seeded_key(run.args.seed * 2 + n, family) for n in (0, 1))
            encrypted = encrypt_model(copy.deepcopy(plain.model), correct)
            keys = dict(zip(ENCRYPTED, (correct, None, other), strict=True))
            yield from (Condition(family, name, encrypted, keys[name]) for name in names)


def predict(condition: Condition, plain: PlainModel, run: Run, store: MapStore) -> None:
    """Compute the missing segmentation maps of this process's share."""
    missing = [index for index in run.share if index not in store]
    title = record_name(plain.name, condition.family, condition.name)
    maps = plain.maps(
        condition.model,
        run.dataset.select(missing)["image"],
        secret_key=condition.secret_key,
        inference=run.args.inference,
        desc=f"{title} ({run.num_missing(plain.name)} conditions to go)",
        initial=len(run.share) - len(missing),
        total=len(run.share),
        disable=not run.accelerator.is_local_main_process,
    )
    for index, segmentation_map in zip(missing, maps, strict=True):
        store[index] = segmentation_map


def count(label_map: LabelMap, run: Run, store: MapStore, baseline: MapStore) -> dict[str, Any]:
    """mIoU of the stored maps over all processes, and the share of pixels that equal the baseline's."""
    metric = MeanIoU(label_map.num_labels)
    same = torch.zeros(2, dtype=torch.float64)
    annotations = run.dataset.select(run.share)["annotation"]
    for index, annotation in zip(run.share, annotations, strict=True):
        prediction = store[index]
        metric.add(prediction=prediction, reference=label_map(annotation))
        same += torch.tensor([(prediction == baseline[index]).sum(), prediction.size])
    equal, pixels = run.accelerator.reduce(same.to(run.accelerator.device)).tolist()
    result = compute_over_processes(metric, run.accelerator)
    return {
        "mean_iou": result["mean_iou"],
        "mean_accuracy": result["mean_accuracy"],
        "overall_accuracy": result["overall_accuracy"],
        "per_category_iou": result["per_category_iou"].tolist(),
        "equal_pixels": equal / pixels,
    }


def embedding_error(condition: Condition, plain: PlainModel, image: Image.Image) -> float:
    """Largest difference between the patch embeddings of the condition and of the plain model on the plain image."""
    found = plain.embedded(condition.model, image, secret_key=condition.secret_key)
    return (found - plain.embedded(plain.model, image)).abs().max().item()


def evaluate_model(plain: PlainModel, run: Run) -> None:
    """Add the missing records of a model, one by one."""
    baseline, label_map = run.store(record_name(plain.name, "", "baseline")), run.label_map(plain)
    for condition in conditions(plain, run):
        name = record_name(plain.name, condition.family, condition.name)
        store = run.store(name)
        predict(condition, plain, run, store)
        if name in run.records.rows:
            continue  # the baseline, of which the maps alone were needed
        row: dict[str, Any] = {"model": plain.name, "decoder": plain.decoder, "classes": list(plain.names.values())}
        row |= {"family": condition.family, "condition": condition.name} | count(label_map, run, store, baseline)
        row["embedding_error"] = embedding_error(condition, plain, run.dataset[0]["image"])
        run.records.add(name, row)
        run.accelerator.wait_for_everyone()
        if run.accelerator.is_main_process and store.folder != baseline.folder:
            store.clear()
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        baseline.clear()


def evaluate(args: EvaluationArguments) -> None:
    """Measure what the options name, print tables, and write results.json, results.csv and results.md.

    Raises:
        EncryptionStateError: a model is encrypted.
        ValueError, OSError and their kin: options, files or data that do not fit; the message names what.
    """
    accelerator = Accelerator(cpu=args.cpu)
    dataset = evenly_spaced(args.load_split(args.split), args.limit)
    facts = experiment_facts(args, dataset)
    records = Records(Path(args.output_dir) / "results.json", facts, writes=accelerator.is_main_process)
    accelerator.wait_for_everyone()
    run = Run(args, dataset, records, accelerator)
    for plain in any_plain_models(args, accelerator.device):
        records.bind(plain)
        evaluate_model(plain, run)
    if accelerator.is_main_process:
        report(args, records, len(dataset))
