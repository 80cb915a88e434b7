"""mIoU of the conventional method, in which a network is trained and tested on encrypted images: the paper's Table 2.

    python examples/table2.py --dataset data/camvid --ignore_labels 11 --image_size 176 240 --backbone resnet-18 \
        --epochs 30 --optimizer adamw --learning_rate 1e-3 --max_minutes 12 --output_dir outputs/table2
    accelerate launch --config_file examples/accelerate_configs/multi_gpu.yaml examples/table2.py \
        --dataset path/to/cityscapes --preset cityscapes --split val --image_size 512 1024 --epochs 200 \
        --backbone microsoft/resnet-50 --mixed_precision bf16 --output_dir outputs/table2
    python examples/table2.py --dataset data/camvid --preset camvid --image_size 176 240 --vit path/to/vit \
        --cells plain rrp-16-0 rrp-16-60 rrp-16-90 rrp-16-75-fresh --seeds 0 --output_dir outputs/restricted

A cell is a cipher with its block size, shf-4 to ffx-16, or plain. For each cell and seed an FCN is trained on images
that are encrypted with a key K after augmentation, and then tested (Kiya et al. 2022, Table 2):

    correct K  test images encrypted with K
    No-Enc     plain test images
    random K'  test images encrypted with another key
    baseline   the network of the cell `plain`, trained and tested on plain images

SETR with an encrypted embedding keeps its baseline; the cost of this method is the gap between baseline and correct K.
A seed fixes keys, first weights, order and augmentation. The ciphertext in [0, 1] is normalised as plain images are,
with mean = std = 0.5. --backbone resnet-18 and resnet-50 start from random weights, a folder or Hub id from its own.
--vit trains SETR in place of the FCN, from a pretrained ViT.

Two ciphers came after the paper: rrp-16-60, restricted random permutations that leave 60 % of the blocks and of the
pixels of a block in place (Horio et al. 2024), where labels move with the blocks and the client puts the answer back;
and any cipher with -fresh after it, a key of its own for every image in training and testing (Hirose et al. 2026).

The script writes results.json, results.csv and results.md (the paper's table with mean and range over the seeds, the
trainings, and which differences exceed those between seeds), and keeps each network in models/<cell>_<seed>. When the
same command is given again, a killed run goes on from its last checkpoint, to the same result unless --max_minutes
ends a training; cells and seeds may be added then. All cells of a seed are trained before the next seed, so that a
whole table is there early.
"""

import json
import math
import shutil
import time
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from hf_privseg import SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.baselines import BLOCKWISE_CIPHERS, RESNETS, FcnConfig, FcnForSemanticSegmentation
from hf_privseg.experiments.behind_cipher import behind_cipher
from hf_privseg.experiments.records import Records
from hf_privseg.experiments.seed_statistics import comparison, spread
from hf_privseg.experiments.table2_cells import CELLS, CONDITIONS, Cell
from hf_privseg.experiments.tables import ResultTable, print_tables, write_csv, write_tables
from hf_privseg.training.arguments import DataArguments, OptimizationArguments, parse_arguments, run_script
from hf_privseg.training.augmentation import AugmentedDataset, JointAugmentation, collate
from hf_privseg.training.checkpoints import load_latest_checkpoint, save_checkpoint
from hf_privseg.training.data import evenly_spaced
from hf_privseg.training.evaluation import evaluate_mean_iou
from hf_privseg.training.label_map import LabelMap
from hf_privseg.training.loop import build_optimizer, build_scheduler, remaining_batches, with_synchronized_norms

CSV_COLUMNS = ("dataset", "cell", "seed", "condition", "mean_iou", "updates", "planned_updates", "minutes")
NOT_FACTS = {"output_dir", "cells", "seeds", "checkpoint_every", "num_workers", "cpu"}  # these may change between runs


@dataclass(kw_only=True)
class Arguments(DataArguments, OptimizationArguments):
    """The options of the script."""

    output_dir: str = field(metadata={"help": "Where networks, results.json, results.csv and results.md go."})
    image_size: list[int] = field(metadata={"help": "Height and width that images are resized to."})
    backbone: str = field(
        default="resnet-50", metadata={"help": f"{' or '.join(RESNETS)} from scratch, or a pretrained ResNet."}
    )
    vit: str | None = field(default=None, metadata={"help": "Train SETR from this pretrained ViT, and no FCN."})
    decoder: str = field(default="mla", metadata={"help": "Of SETR: naive, pup or mla."})
    output_stride: int = field(default=8, metadata={"help": "8, as published, or 16 or 32: coarser and faster."})
    cells: list[str] = field(default_factory=lambda: list(CELLS), metadata={"help": "Places of the table."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "A training each."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    split: str = field(default="test", metadata={"help": "Split to evaluate."})
    limit: int | None = field(default=None, metadata={"help": "Evenly spaced images to evaluate. Default: all."})
    scale_range: list[float] = field(default_factory=lambda: [0.5, 2.0], metadata={"help": "Random scale, relative."})
    max_minutes: float | None = field(default=None, metadata={"help": "Ends a training early; the results say so."})
    optimizer: str = field(default="sgd", metadata={"help": "adamw, or sgd (momentum 0.9) as usual for an FCN."})
    learning_rate: float = field(default=0.01, metadata={"help": "Peak learning rate."})
    head_lr_factor: float = field(default=1.0, metadata={"help": "Heads learn this much faster."})
    final_lr_ratio: float = field(default=0.01, metadata={"help": "Last learning rate, relative to the peak."})
    weight_decay: float = field(default=5e-4, metadata={"help": "Weight decay of kernels."})

    def __post_init__(self) -> None:
        if len(self.image_size) != 2:
            raise ValueError(f"expected --image_size to be height and width, got {self.image_size}")
        for cell in map(Cell, self.cells):
            if any(side % cell.block_size for side in self.image_size):
                raise ValueError(
                    f"expected --image_size to be multiples of the blocks of {cell.name}, got {self.image_size}"
                )

    @property
    def network(self) -> str:
        """What is trained, in words."""
        if self.vit:
            return f"SETR-{self.decoder.upper()} on {Path(self.vit).name} (pretrained)"
        start = "from scratch" if self.backbone in RESNETS else "pretrained"
        return f"FCN on {Path(self.backbone).name} ({start}), output stride {self.output_stride}"


@dataclass
class Run:
    """The options, data and records that all trainings and evaluations share."""

    args: Arguments
    accelerator: Accelerator
    dataset: Dataset
    records: Records

    @cached_property
    def id2label(self) -> dict[int, str]:
        return self.args.load_class_names()

    def label_map(self, split: str, rows: Dataset) -> LabelMap:
        """The label map for a split, after a look at its labels."""
        quiet = not self.accelerator.is_main_process
        return self.args.inspect_labels(split, rows, self.id2label, quiet=quiet)[0]

    @cached_property
    def train(self) -> tuple[Dataset, LabelMap]:
        """The rows to train on, and their label map."""
        rows = self.args.load_split(self.args.train_split)
        return rows, self.label_map(self.args.train_split, rows)

    @cached_property
    def truth(self) -> LabelMap:
        """The label map of the images to evaluate."""
        return self.label_map(self.args.split, self.dataset)

    def folder(self, cell: Cell, seed: int) -> Path:
        return Path(self.args.output_dir) / "models" / f"{cell.name}_{seed}"


def record_name(cell: Cell, seed: int, condition: str) -> str:
    """The name of a result in results.json, for example "shf-4: seed 0: correct K"."""
    return f"{cell.name}: seed {seed}: {condition}"


def start_accelerator(args: Arguments) -> Accelerator:
    """Processes, devices and precision, as `accelerate launch` or the options say."""
    order = DataLoaderConfiguration(use_seedable_sampler=True)
    return Accelerator(
        cpu=args.cpu,
        mixed_precision=args.mixed_precision,
        dataloader_config=order,
        step_scheduler_with_optimizer=False,
    )


Network = FcnForSemanticSegmentation | SetrForSemanticSegmentation


def build_model(args: Arguments, id2label: dict[int, str]) -> Network:
    """An FCN with a random or pretrained backbone and random heads, in the fastest memory layout for convolutions.

    Or a SETR without auxiliary heads, where a ViT is given.
    """
    fields: dict[str, Any] = {"id2label": id2label, "label2id": {name: index for index, name in id2label.items()}}
    if args.vit:
        fields |= {"decoder_type": args.decoder, "use_auxiliary_head": False, "drop_path_rate": 0.0}
        return SetrForSemanticSegmentation.from_vit(args.vit, **fields)
    fields["output_stride"] = args.output_stride
    if args.backbone in RESNETS:
        model = FcnForSemanticSegmentation(FcnConfig(backbone_config=RESNETS[args.backbone], **fields))
    else:
        model = FcnForSemanticSegmentation.from_backbone(args.backbone, **fields)
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-arg] # transformers wraps it untyped


def build_loader(args: Arguments, rows: Dataset, label_map: LabelMap, seed: int) -> DataLoader:
    """Shuffled, augmented batches; the order and each sample depend on the seed and the epoch alone."""
    size, scale = (args.image_size[0], args.image_size[1]), (args.scale_range[0], args.scale_range[1])
    augmentation = JointAugmentation(size, scale_range=scale, image_size=size)
    dataset = AugmentedDataset(rows, augmentation, label_map, seed=seed)
    if len(dataset) < args.batch_size:
        raise ValueError(
            f"expected a batch of {args.batch_size} images or more in {args.train_split}, got {len(dataset)}; use a "
            "smaller --batch_size"
        )
    order: dict[str, Any] = {"shuffle": True, "generator": torch.Generator().manual_seed(seed)}
    return DataLoader(
        dataset, args.batch_size, drop_last=True, collate_fn=collate, num_workers=args.num_workers, **order
    )


def is_over(progress: dict, total: int, args: Arguments) -> bool:
    """Whether a training has made all of its updates or used up its time."""
    return progress["step"] >= total or progress["seconds"] >= 60 * (args.max_minutes or math.inf)


def train_epoch(
    accelerator: Accelerator, model, optimizer, scheduler, loader, cipher_of, progress: dict, bar, args, folder: Path
) -> None:
    """One pass over the loader, or the rest of one; it keeps `progress`, with which a killed run goes on."""
    started = time.monotonic() - progress["seconds"]
    for batch in remaining_batches(accelerator, loader, progress):
        with behind_cipher(model, cipher_of):
            loss = model(**batch).loss
        accelerator.backward(loss)
        if args.max_grad_norm:
            accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        # Loss and time are averaged over the processes, so that all of them stop at the same update.
        seen = torch.tensor([loss.item(), time.monotonic() - started], device=accelerator.device)
        value, progress["seconds"] = accelerator.reduce(seen, reduction="mean").tolist()
        progress["loss_sum"] += value
        progress["batches"] += 1
        progress["step"] += 1
        bar.update()
        bar.set_postfix(epoch=progress["epoch"], loss=f"{progress['loss_sum'] / progress['batches']:.4f}")
        if is_over(progress, bar.total, args):
            return
        if progress["step"] % args.checkpoint_every == 0:
            save_checkpoint(accelerator, folder / "checkpoints", progress)


def train(cell: Cell, seed: int, run: Run) -> None:
    """Train the network of a cell, or go on with it, and write it to its folder with training.json."""
    args, folder = run.args, run.folder(cell, seed)
    set_seed(seed)
    accelerator = start_accelerator(args)
    model = with_synchronized_norms(build_model(args, run.id2label).train(), accelerator)
    optimizer = build_optimizer(model, args)
    model, optimizer, loader = accelerator.prepare(model, optimizer, build_loader(args, *run.train, seed))
    total = len(loader) * args.epochs
    scheduler = build_scheduler(optimizer, args, total)
    accelerator.register_for_checkpointing(scheduler)
    cipher_of = cell.cipher_of(cell.conditions[0], seed)

    progress = load_latest_checkpoint(accelerator, folder / "checkpoints")
    progress = progress or {"step": 0, "epoch": 0, "batches": 0, "loss_sum": 0.0, "seconds": 0.0, "history": []}
    silent = not accelerator.is_local_main_process
    bar = tqdm(total=total, initial=progress["step"], desc=f"train {cell.name}, seed {seed}", disable=silent)
    while not is_over(progress, total, args):
        train_epoch(accelerator, model, optimizer, scheduler, loader, cipher_of, progress, bar, args, folder)
        progress["history"].append(progress["loss_sum"] / max(progress["batches"], 1))
        progress |= {"epoch": progress["epoch"] + 1, "batches": 0, "loss_sum": 0.0}
    bar.close()
    state = accelerator.get_state_dict(model)
    if accelerator.is_main_process:
        accelerator.unwrap_model(model).save_pretrained(folder, state_dict=state)
        size = {"height": args.image_size[0], "width": args.image_size[1]}
        patch_size = math.lcm(cell.block_size, accelerator.unwrap_model(model).config.patch_size if args.vit else 1)
        SetrImageProcessor(size=size, patch_size=patch_size).save_pretrained(folder)
        facts = {"updates": progress["step"], "planned_updates": total, "minutes": progress["seconds"] / 60}
        (folder / "training.json").write_text(json.dumps(facts | {"loss": progress["history"]}))
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    accelerator.wait_for_everyone()


def evaluate(cell: Cell, seed: int, run: Run) -> None:
    """Add the missing results of a trained cell, computed in the precision of its training."""
    folder = run.folder(cell, seed)
    training = json.loads((folder / "training.json").read_text())
    del training["loss"]
    network: type[Network] = SetrForSemanticSegmentation if run.args.vit else FcnForSemanticSegmentation
    model: Any = network.from_pretrained(folder).eval()
    model = model.to(
        run.accelerator.device, memory_format=torch.preserve_format if run.args.vit else torch.channels_last
    )
    processor = SetrImageProcessor.from_pretrained(folder)
    for condition in cell.conditions:
        name = record_name(cell, seed, condition)
        if name in run.records.rows:
            continue
        with run.accelerator.autocast(), behind_cipher(model, cell.cipher_of(condition, seed)):
            result = evaluate_mean_iou(model, processor, run.dataset, run.truth, run.accelerator, desc=name)
        row = {"cell": cell.name, "seed": seed, "condition": condition, "mean_iou": result["mean_iou"]}
        run.records.add(name, row | training | {"per_category_iou": result["per_category_iou"].tolist()})


# ------------------------------------------------------------------------------------------------------- results


Figures = dict[tuple[str, str], dict[int, float]]  # {(cell, condition): {seed: mIoU}}


def figures(run: Run) -> Figures:
    """The mIoU of everything that has been evaluated."""
    found: Figures = {}
    for row in run.records.rows.values():
        found.setdefault((row["cell"], row["condition"]), {})[row["seed"]] = row["mean_iou"]
    return found


def comparisons(found: Figures) -> list[str]:
    """Lines that compare correct K with baseline, No-Enc and random K', then ciphers of one block size, then sizes."""
    cells = list(dict.fromkeys(name for name, _ in found if name != "plain"))
    correct = CONDITIONS[0]
    pairs = [
        ((cell, correct), other)
        for cell in cells
        for other in (("plain", "baseline"), *((cell, condition) for condition in CONDITIONS[1:]))
    ]
    for index, cell in enumerate(cells):
        alike = [other for other in cells[index + 1 :] if set(other.split("-")) & set(cell.split("-"))]
        pairs += [((cell, correct), (other, correct)) for other in alike]
    return [
        comparison(" ".join(one), found[one].values(), " ".join(two), found[two].values())
        for one, two in pairs
        if one in found and two in found
    ]


def title(run: Run, found: Figures) -> str:
    """What was trained and tested, the budget, and the baseline."""
    args = run.args
    batch = args.batch_size * run.accelerator.num_processes
    budget = f"{args.epochs} epochs in batches of {batch}"
    budget += f" or {args.max_minutes:g} minutes a training" if args.max_minutes else ""
    baseline = spread(found.get(("plain", "baseline"), {}).values()) or "not evaluated"
    return (
        f"mIoU, {Path(args.dataset).name}, {args.split} (images: {len(run.dataset)}); {args.network}, "
        f"{args.image_size[1]} x {args.image_size[0]} pixels, {budget}; mean (lowest to highest) of the seeds; "
        f"baseline {baseline}"
    )


def paper_table(run: Run, found: Figures) -> ResultTable:
    """The paper's table: one row a block size, three figures a cipher."""
    columns = list(product(BLOCKWISE_CIPHERS, CONDITIONS))
    header = ["block size", *(f"{cipher.upper()} {condition}" for cipher, condition in columns)]
    sizes = sorted({Cell(name).block_size for name, _ in found if Cell(name).is_of_the_paper})
    rows = [
        [str(size), *(spread(found.get((f"{cipher}-{size}", name), {}).values()) for cipher, name in columns)]
        for size in sizes
    ]
    return ResultTable(title(run, found), header, rows)


def later_table(run: Run, found: Figures) -> ResultTable:
    """What came after the paper: one row a cell."""
    names = dict.fromkeys(name for name, _ in found if name != "plain" and not Cell(name).is_of_the_paper)
    rows = [
        [
            cell.cipher.upper(),
            str(cell.block_size),
            f"{cell.fixed:.0%}" if cell.cipher == "rrp" else "",
            "one an image" if cell.is_fresh else "one for all",
            *(spread(found.get((cell.name, condition), {}).values()) for condition in CONDITIONS),
        ]
        for cell in sorted(
            map(Cell, names), key=lambda cell: (cell.is_fresh, cell.cipher, cell.block_size, cell.fixed)
        )
    ]
    return ResultTable(title(run, found), ["cipher", "block size", "kept in place", "keys", *CONDITIONS], rows)


def training_table(run: Run, found: Figures) -> ResultTable:
    """One row a training: its cost, whether it was cut short, and the gap to the baseline of the same seed."""
    rows = []
    for row in run.records.rows.values():
        if row["condition"] not in ("baseline", CONDITIONS[0]):
            continue
        baseline = found.get(("plain", "baseline"), {}).get(row["seed"])
        gap = "" if baseline is None else f"{row['mean_iou'] - baseline:+.4f}"
        updates = f"{row['updates']} of {row['planned_updates']}"
        updates += " (out of time)" if row["updates"] < row["planned_updates"] else ""
        rows.append([row["cell"], str(row["seed"]), updates, f"{row['minutes']:.1f}", f"{row['mean_iou']:.4f}", gap])
    return ResultTable("Trainings", ("cell", "seed", "updates", "minutes", "mIoU", "mIoU - baseline"), rows)


def write_report(run: Run) -> tuple[list[ResultTable], list[str]]:
    """Write results.json, results.csv and results.md of all results so far -> tables and comparisons."""
    found, folder, dataset = figures(run), Path(run.args.output_dir), Path(run.args.dataset).name
    tables = [paper_table(run, found), later_table(run, found), training_table(run, found)]
    tables = [table for table in tables if table.rows]
    lines = comparisons(found)
    run.records.write(comparisons=lines)
    write_csv(folder / "results.csv", CSV_COLUMNS, ({"dataset": dataset} | row for row in run.records.rows.values()))
    write_tables(folder / "results.md", tables, lines, runs=run.records.runs, forms=(".md", ".tex"))
    return tables, lines


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    accelerator = start_accelerator(args)
    dataset = evenly_spaced(args.load_split(args.split), args.limit)
    facts = {name: value for name, value in asdict(args).items() if name not in NOT_FACTS}
    facts |= {"mixed_precision": accelerator.mixed_precision, "processes": accelerator.num_processes}
    facts["num_images"] = len(dataset)
    records = Records(Path(args.output_dir) / "results.json", facts, writes=accelerator.is_main_process)
    accelerator.wait_for_everyone()
    records.write()  # from now on the folder belongs to these settings
    run = Run(args, accelerator, dataset, records)
    for seed, cell in product(args.seeds, map(Cell, args.cells)):
        if all(record_name(cell, seed, condition) in records.rows for condition in cell.conditions):
            continue
        if not (run.folder(cell, seed) / "training.json").exists():
            train(cell, seed, run)
        evaluate(cell, seed, run)
        if accelerator.is_main_process:
            write_report(run)
    if accelerator.is_main_process:
        tables, lines = write_report(run)
        print_tables(tables, "Which differences exceed those between seeds?", lines)


if __name__ == "__main__":
    run_script(main)
