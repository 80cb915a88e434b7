"""mIoU of plain and encrypted models on plain and encrypted images: the paper's Table 1, for any data set.

    python examples/evaluate_encrypted.py --dataset data/camvid --ignore_labels 11 --output_dir outputs/table1
    python examples/evaluate_encrypted.py --dataset data/camvid --ignore_labels 11 --output_dir outputs/table1 \
        --models naive=outputs/naive pup=outputs/pup mla=outputs/mla --families permutation orthogonal
    python examples/evaluate_encrypted.py --dataset data/camvid --models dpt=PATH eomt=PATH --output_dir outputs/others

Conditions (Kiya et al. 2022, Table 1), the last three for every key family:

    baseline   plain model, plain image
    correct K  model and image encrypted with one key: the accuracy must be the baseline's
    No-Enc     encrypted model, plain image: must be useless
    random K'  encrypted model, image encrypted with another key: must be useless

The models are SETR, or of any other class that can be encrypted and whose processor does semantic segmentation.
The script writes results.json, results.csv (one row a condition) and results.md (the paper's table, and how far
embeddings and maps differ from the baseline's), and says for each family whether the results are as stated above. The
keys are seeded, so that the same command gives the same table. When it is given again, a killed run goes on, in the
middle of a condition too; models and families may be added then. Several processes share the images:
`accelerate launch examples/evaluate_encrypted.py ...`.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image
from transformers import PreTrainedModel

from hf_privseg import SecretKey, encrypt_model
from hf_privseg.experiments.arguments import ExperimentArguments
from hf_privseg.experiments.plain_models import PlainModel, any_plain_models, model_sources, seeded_key
from hf_privseg.experiments.records import MapStore, Records, experiment_facts
from hf_privseg.experiments.tables import ResultTable, print_tables, write_csv, write_markdown
from hf_privseg.training.arguments import parse_arguments, run_script
from hf_privseg.training.data import evenly_spaced
from hf_privseg.training.evaluation import compute_over_processes
from hf_privseg.training.label_map import LabelMap
from hf_privseg.training.metrics import MeanIoU

ENCRYPTED = ("correct K", "No-Enc", "random K'")
HEADER = ("data set", "decoder", "family", "baseline", *ENCRYPTED)
CSV_COLUMNS = ("dataset", "model", "decoder", "family", "condition", "mean_iou", "equal_pixels", "embedding_error")


@dataclass(kw_only=True)
class Arguments(ExperimentArguments):
    """The options of the script."""

    output_dir: str = field(metadata={"help": "Where results.json, results.csv and results.md go."})


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

    args: Arguments
    dataset: Dataset
    records: Records
    accelerator: Accelerator

    def label_map(self, plain: PlainModel) -> LabelMap:
        """The label map for the classes of a model, after a look at the labels."""
        quiet = not self.accelerator.is_main_process
        return self.args.inspect_labels(self.args.split, self.dataset, plain.names, quiet=quiet)[0]

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
        expected += [record_name(*each) for each in product(names, self.args.families, ENCRYPTED)]
        return sum(name not in self.records.rows for name in expected)


def record_name(model: str, family: str, name: str) -> str:
    """The name of a condition in results.json, for example "naive: permutation: correct K"."""
    return ": ".join(filter(None, (model, family, name)))


def conditions(plain: PlainModel, run: Run) -> Iterator[Condition]:
    """The missing conditions of a model, and the baseline if there are any, since they are compared with it."""
    rows = run.records.rows
    missing = {
        family: [name for name in ENCRYPTED if record_name(plain.name, family, name) not in rows]
        for family in run.args.families
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


def count(label_map: LabelMap, run: Run, store: MapStore, baseline: MapStore) -> dict[str, float | list[float]]:
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
        row: dict[str, Any] = {"model": plain.name, "decoder": plain.decoder}
        row |= {"family": condition.family, "condition": condition.name} | count(label_map, run, store, baseline)
        row["embedding_error"] = embedding_error(condition, plain, run.dataset[0]["image"])
        run.records.add(name, row)
        run.accelerator.wait_for_everyone()
        if run.accelerator.is_main_process and store.folder != baseline.folder:
            store.clear()
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        baseline.clear()


def paper_rows(records: Records, dataset: str) -> list[list[str]]:
    """The cells of the paper's table, one row a model and family, blank where nothing was evaluated."""
    rows = []
    for model, facts in records.models.items():
        decoder = facts["decoder"] if facts["decoder"] == model else f"{facts['decoder']} ({model})"
        families = dict.fromkeys(row["family"] for row in records.rows.values() if row["model"] == model)
        for family in [name for name in families if name]:
            names = [record_name(model, "", "baseline"), *(record_name(model, family, name) for name in ENCRYPTED)]
            found = [records.rows.get(name) for name in names]
            rows.append(
                [dataset, decoder, family, *("" if row is None else f"{row['mean_iou']:.4f}" for row in found)]
            )
    return rows


def detail_rows(records: Records) -> list[list[str]]:
    """The cells of the second table: how far maps and embeddings are from the baseline's."""
    return [
        [row["model"], row["family"], row["condition"], f"{row['equal_pixels']:.7f}", f"{row['embedding_error']:.1e}"]
        for row in records.rows.values()
    ]


def checks(records: Records) -> list[str]:
    """One line for each encrypted condition: whether its result is as in the paper."""
    lines = []
    for row in records.rows.values():
        if row["condition"] == "baseline":
            continue
        baseline, found = records.rows[record_name(row["model"], "", "baseline")]["mean_iou"], row["mean_iou"]
        if row["condition"] == "correct K":
            passed, claim = f"{found:.4f}" == f"{baseline:.4f}", "equals baseline to 4 digits"
        else:
            passed, claim = found < baseline / 3, "is below a third of baseline"
        subject = record_name(row["model"], row["family"], row["condition"])
        lines.append(f"{'yes' if passed else 'NO '}  {subject} {claim}: {found:.6f}, baseline {baseline:.6f}")
    return lines


def report(run: Run) -> None:
    """Write results.json, results.csv and results.md, and print tables and checks."""
    records, folder, dataset = run.records, Path(run.args.output_dir), Path(run.args.dataset).name
    title = f"mIoU, {run.args.split} (images: {len(run.dataset)})"
    second = ("model", "family", "condition", "equal pixels", "embedding error (first image)")
    tables = [
        ResultTable(title, HEADER, paper_rows(records, dataset)),
        ResultTable("Against the baseline", second, detail_rows(records)),
    ]
    lines = checks(records)
    records.write(checks=lines)
    write_csv(folder / "results.csv", CSV_COLUMNS, ({"dataset": dataset} | row for row in records.rows.values()))
    write_markdown(folder / "results.md", tables, lines)
    print_tables(tables, "As in the paper?", lines)


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
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
        report(run)


if __name__ == "__main__":
    run_script(main)
