"""mIoU of plain and encrypted models on plain and encrypted images: the paper's Table 1, for any data set.

    python examples/evaluate_encrypted.py --dataset path/to/camvid --split test --output_dir outputs/table1

Conditions (Kiya et al. 2022, Table 1), the last three for every cipher family:

    baseline   plain model, plain image
    correct K  model and image encrypted with one key: the accuracy must be the baseline's
    no enc     encrypted model, plain image: must be useless
    random K'  encrypted model, image encrypted with another key: must be useless

Finished conditions are kept in output_dir/results.json; the same command goes on with the missing ones.
Several processes share the images: `accelerate launch examples/evaluate_encrypted.py ...`.
"""

import copy
import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.table import Table

from hf_privseg import SecretKey, SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.keys import FAMILIES
from hf_privseg.training.arguments import parse_arguments
from hf_privseg.training.data import LabelMap, load_segmentation_dataset
from hf_privseg.training.evaluation import predict_maps
from hf_privseg.training.metrics import MeanIoU

COLUMNS = ("condition", "mean_iou", "equal_pixels", "embedding_error")


@dataclass
class Arguments:
    """What the command line takes."""

    dataset: str = field(metadata={"help": "Folder with images/<split> and annotations/<split>, or a Hub id."})
    output_dir: str = field(metadata={"help": "Where results.json and results.md go."})
    model: str | None = field(default=None, metadata={"help": "Plain checkpoint. Default: the embedded one."})
    split: str = field(default="test", metadata={"help": "Split to evaluate."})
    families: list[str] = field(default_factory=lambda: list(FAMILIES), metadata={"help": "Cipher families."})
    ignore_labels: list[int] = field(default_factory=lambda: [255], metadata={"help": "Stored labels without class."})
    reduce_labels: bool = field(default=False, metadata={"help": "Stored 0 is background, k is class k - 1 (ADE20K)."})
    limit: int | None = field(default=None, metadata={"help": "Evenly spaced images to use. Default: all."})
    seed: int = field(default=0, metadata={"help": "Seed of the experiment's keys (not for private images)."})
    cpu: bool = field(default=False, metadata={"help": "Use the CPU even where there is a GPU."})


@dataclass
class Condition:
    """One row of the table: a model and the key that its images are encrypted with."""

    name: str
    model: SetrForSemanticSegmentation
    secret_key: SecretKey | None


def conditions(model: SetrForSemanticSegmentation, args: Arguments) -> list[Condition]:
    """The baseline, and three conditions a family. The keys are seeded so that a run can be repeated."""
    rows = [Condition("baseline", model, None)]
    for family in args.families:
        with warnings.catch_warnings(action="ignore"):
            correct, other = (SecretKey.from_seed(args.seed * 2 + n, family=family) for n in (0, 1))
        encrypted = copy.deepcopy(model).encrypt_model(correct)
        rows.append(Condition(f"{family}: correct K", encrypted, correct))
        rows.append(Condition(f"{family}: no enc", encrypted, None))
        rows.append(Condition(f"{family}: random K'", encrypted, other))
    return rows


@torch.inference_mode()
def embedding_error(condition: Condition, plain: SetrForSemanticSegmentation, processor, image) -> float:
    """Largest difference between the patch embeddings of the condition and of the plain model on the plain image."""
    embed = [model.base_model.embeddings.patch_embeddings for model in (condition.model, plain)]
    keys = (condition.secret_key, None)
    tokens = [
        module(processor(image, secret_key=key, return_tensors="pt").pixel_values.to(plain.device))
        for module, key in zip(embed, keys, strict=True)
    ]
    return (tokens[0] - tokens[1]).abs().max().item()


def evaluate(condition: Condition, processor, dataset, label_map: LabelMap, baseline_maps, accelerator) -> dict:
    """One row of results; fills `baseline_maps` where it is the baseline's turn."""
    metric = MeanIoU(condition.model.config.num_labels)
    same = torch.zeros(2, dtype=torch.float64)
    maps = predict_maps(
        condition.model,
        processor,
        dataset["image"],
        secret_key=condition.secret_key,
        desc=condition.name,
        total=len(dataset),
        disable=not accelerator.is_local_main_process,
    )
    for index, (prediction, annotation) in enumerate(zip(maps, dataset["annotation"], strict=True)):
        metric.add(prediction=prediction, reference=label_map(annotation))
        if condition.name == "baseline":
            baseline_maps.append(prediction.astype(np.uint8))
        same += torch.tensor([(prediction == baseline_maps[index]).sum(), prediction.size])
    metric.confusion = accelerator.reduce(torch.from_numpy(metric.confusion).to(accelerator.device)).cpu().numpy()
    same = accelerator.reduce(same.to(accelerator.device)).cpu()
    result = metric.compute()
    return {
        "mean_iou": result["mean_iou"],
        "per_category_iou": result["per_category_iou"].tolist(),
        "equal_pixels": (same[0] / same[1]).item(),
    }


def report(results: dict, output_dir: Path) -> None:
    """Writes results.json and results.md, and prints the table."""
    table = Table(*COLUMNS, title=f"{results['num_images']} images of {results['split']}")
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for name, row in results["conditions"].items():
        cells = [name, f"{row['mean_iou']:.4f}", f"{row['equal_pixels']:.6f}", f"{row['embedding_error']:.1e}"]
        table.add_row(*cells)
        lines.append("| " + " | ".join(cells) + " |")
    (output_dir / "results.json").write_text(json.dumps(results, indent=1))
    (output_dir / "results.md").write_text("\n".join(lines) + "\n")
    Console().print(table)


def main() -> None:
    args: Arguments = parse_arguments(Arguments, description=__doc__)
    accelerator = Accelerator(cpu=args.cpu)
    output_dir = Path(args.output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = args.model or default_checkpoint()
    model = SetrForSemanticSegmentation.from_pretrained(checkpoint).eval().to(accelerator.device)
    processor = SetrImageProcessor.from_pretrained(checkpoint)
    label_map = LabelMap(model.config.num_labels, tuple(args.ignore_labels), reduce_labels=args.reduce_labels)
    dataset = load_segmentation_dataset(args.dataset, split=args.split)
    if args.limit is not None and args.limit < len(dataset):
        dataset = dataset.select(np.linspace(0, len(dataset) - 1, args.limit).round().astype(int))
    facts = {
        "model": str(checkpoint),
        "dataset": args.dataset,
        "split": args.split,
        "num_images": len(dataset),
        "seed": args.seed,
    }
    results = facts | {"conditions": {}}
    file = output_dir / "results.json"
    if file.exists():
        earlier = json.loads(file.read_text())
        found = {name: earlier.get(name) for name in facts}
        if found != facts:
            raise SystemExit(f"{file} holds another experiment, {found}; choose another --output_dir.")
        results = earlier
    example = dataset[0]["image"]
    share = dataset.shard(accelerator.num_processes, accelerator.process_index, contiguous=False)
    baseline_maps: list[np.ndarray] = []
    for condition in conditions(model, args):
        if condition.name in results["conditions"] and condition.name != "baseline":
            continue
        row = evaluate(condition, processor, share, label_map, baseline_maps, accelerator)
        row["embedding_error"] = embedding_error(condition, model, processor, example)
        results["conditions"][condition.name] = row
        if accelerator.is_main_process:
            report(results, output_dir)


if __name__ == "__main__":
    main()
