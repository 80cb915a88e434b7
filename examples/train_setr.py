"""Trains SETR with Accelerate, in one process or several, on CPUs or GPUs.

    python examples/train_setr.py --dataset data/camvid --vit path/to/vit --output_dir outputs/setr --ignore_labels 11
    python examples/train_setr.py --dataset path/to/cityscapes --preset cityscapes --crop_size 768 --vit ...
    python examples/train_setr.py --dataset path/to/ADEChallengeData2016 --preset ade20k --train_split training \
        --eval_split validation --vit ...
    accelerate launch --config_file examples/accelerate_configs/multi_gpu.yaml examples/train_setr.py ...

A data set is a folder with images/<split> and annotations/<split>, whose files have the same stems
(--annotation_pattern describes other names), or whatever `datasets` loads. Segmentation maps are as large as their
images and in a lossless format. The names of the classes come from --preset, --id2label or the folder's classes.json.
Before anything is trained, the classes in a sample of both splits are counted and printed, and what looks wrong is a
warning. Segmentation maps of 0 and 255, for example, need --label_map FILE with {"0": 0, "255": 1}, because 255
otherwise stands for pixels without a class. Images of other than three channels, grey ones or TIFF files of one page a
channel, need --num_channels.

--fresh_embedding and --fresh_layers draw parts of the encoder anew, which then learn as fast as the decoder, so that
no public patch embedding is near the model's.

The trained model is plain. `model.encrypt_model(secret_key)` encrypts it afterwards, without further training.

An encrypted checkpoint is trained on ciphertexts of its key, which `privseg encrypt-dataset` makes, without the key.
`decrypt_model(secret_key)` gives the plain model afterwards. Of the augmentation crops on the patch grid remain.

When the same command is given again, a run that was stopped goes on from its last checkpoint, and ends with the
weights of an uninterrupted run. output_dir then holds the final model, `best` (the highest validation mIoU),
`checkpoints`, TensorBoard logs and log.jsonl.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from huggingface_hub import create_repo, upload_folder
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from hf_privseg import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.catalog.datasets import PRESETS
from hf_privseg.reporting.tables import markdown_table
from hf_privseg.storage.model_cards import describe_model
from hf_privseg.training.arguments import DataArguments, OptimizationArguments, parse_arguments, run_script
from hf_privseg.training.augmentation import (
    AugmentedDataset,
    AugmentedStream,
    JointAugmentation,
    collate,
)
from hf_privseg.training.checkpoints import load_latest_checkpoint, save_checkpoint
from hf_privseg.training.data import evenly_spaced
from hf_privseg.training.evaluation import evaluate_mean_iou
from hf_privseg.training.fresh_weights import reinitialize, whiten_embedding
from hf_privseg.training.grid_crops import GridCrops
from hf_privseg.training.label_map import LabelMap
from hf_privseg.training.label_statistics import TABLE_HEADER, LabelStatistics
from hf_privseg.training.log import TrainingLog
from hf_privseg.training.loop import (
    WaitingTime,
    build_optimizer,
    build_scheduler,
    remaining_batches,
    with_synchronized_norms,
)
from hf_privseg.training.rows import check_encryption

WHITENING_IMAGES = 64  # of the training split, whose blocks a whitened patch embedding is made for
PATHS = ("dataset", "output_dir", "vit", "checkpoint", "id2label", "label_map")


@dataclass(kw_only=True)
class Arguments(DataArguments, OptimizationArguments):
    """The options of the script."""

    output_dir: str = field(metadata={"help": "Where the model, checkpoints and logs go."})
    vit: str | None = field(default=None, metadata={"help": "Pretrained HF ViT (folder or Hub id) to start from."})
    checkpoint: str | None = field(default=None, metadata={"help": "SETR checkpoint to start from instead."})

    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str = field(default="val", metadata={"help": "Split to choose the best checkpoint on."})
    streaming: bool = field(default=False, metadata={"help": "Fetch training images one by one; needs --max_steps."})
    shuffle_buffer: int = field(default=1000, metadata={"help": "Rows that a streamed data set is shuffled within."})

    num_channels: int | None = field(
        default=None, metadata={"help": "Channels of the images. Default: those of --checkpoint, or 3."}
    )
    decoder: str = field(default="naive", metadata={"help": "naive, pup or mla."})
    use_cls_token: bool | None = field(default=None, metadata={"help": "Keep the class token. Default: as published."})
    use_auxiliary_head: bool = field(default=True, metadata={"help": "Auxiliary losses on intermediate layers."})
    fresh_embedding: str | None = field(
        default=None,
        metadata={
            "help": "Draw patch and position embeddings anew, far from those of the weights given: random as "
            "transformers are initialised, or whitened, at random with equal variance in every direction.",
            "choices": ["random", "whitened"],
        },
    )
    fresh_layers: int = field(default=0, metadata={"help": "Draw so many of the encoder's first layers, too."})
    drop_path_rate: float = field(default=0.1, metadata={"help": "Stochastic depth of the last layer."})

    resize_factor: float = field(default=1.0, metadata={"help": "Up-sampling of images before they are patched."})
    crop_size: int = field(default=512, metadata={"help": "Side of training crops in pixels, a multiple of 16."})
    grid_crops: bool = field(
        default=False,
        metadata={"help": "Augment by crops on the patch grid alone. Ciphertexts allow nothing else in any case."},
    )
    scale_range: list[float] = field(default_factory=lambda: [0.5, 2.0], metadata={"help": "Random scale, relative."})

    max_steps: int | None = field(default=None, metadata={"help": "Updates in all, instead of epochs."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Batches that make one update."})

    eval_every: int = field(default=4, metadata={"help": "Epochs between evaluations."})
    seed: int = field(default=0, metadata={"help": "Seed of initial heads, order and augmentation."})
    half_weights: bool = field(default=True, metadata={"help": "Store final weights as fp16 (loaded as fp32)."})
    push_to_hub: str | None = field(default=None, metadata={"help": "Hub repository (owner/name) for the result."})
    hub_private: bool = field(
        default=True, metadata={"help": "Create it as private. Whoever reads the plain model can invert ciphertexts."}
    )


@dataclass
class Data:
    """Both splits with their label maps, the names of the classes, and how often each occurs in training.

    Args:
        names: {class: name}.
        train: the split to train on.
        train_map: turns its stored labels into classes.
        statistics: of its classes.
        validation: the split to choose the best checkpoint on.
        validation_map: turns its stored labels into classes.
    """

    names: dict[int, str]
    train: datasets.Dataset | datasets.IterableDataset
    train_map: LabelMap
    statistics: LabelStatistics
    validation: datasets.Dataset
    validation_map: LabelMap


def open_data(args: Arguments, accelerator: Accelerator) -> Data:
    """Open both splits and look at their labels."""
    names, quiet = args.load_class_names(), not accelerator.is_main_process
    train = args.load_split(args.train_split, streaming=args.streaming)
    train_map, statistics = args.inspect_labels(args.train_split, train, names, quiet=quiet)
    validation = args.load_split(args.eval_split)
    validation_map, _ = args.inspect_labels(args.eval_split, validation, names, quiet=quiet)
    return Data(names, train, train_map, statistics, validation, validation_map)


def build_model(args: Arguments, id2label: dict[int, str]) -> SetrForSemanticSegmentation:
    """A ViT with a random decoder, or an existing SETR, whose decoder is random too if its type or classes change."""
    fields = {name: getattr(args, name) for name in ("use_auxiliary_head", "drop_path_rate", "use_cls_token")}
    fields |= {"decoder_type": args.decoder, "id2label": id2label}
    fields["label2id"] = None  # follows from id2label
    fields["semantic_loss_ignore_index"] = None  # as the number of classes asks for
    if args.preset and not args.id2label:
        fields["palette"] = [list(colour) for colour in PRESETS[args.preset].palette]
    if args.vit and not args.checkpoint:
        return SetrForSemanticSegmentation.from_vit(args.vit, **fields, num_channels=args.num_channels or 3)
    if not args.checkpoint or args.vit:
        raise ValueError("expected either --vit (a pretrained ViT) or --checkpoint (a SETR), got both or neither")
    config = SetrConfig.from_pretrained(args.checkpoint)
    if args.num_channels not in (None, config.num_channels):
        raise ValueError(
            f"expected --num_channels {config.num_channels}, as {args.checkpoint} has, got {args.num_channels}; "
            "images of other channels need a model that starts with --vit"
        )
    fields["use_cls_token"] = config.use_cls_token if args.use_cls_token is None else args.use_cls_token
    replaced = {"out_indices", "auxiliary_num_stages"} if config.decoder_type != args.decoder else set()
    replaced |= {"palette"} if config.id2label != id2label else set()
    kept = {name: value for name, value in config.to_dict().items() if name not in replaced}
    return SetrForSemanticSegmentation.from_pretrained(
        args.checkpoint, config=SetrConfig(**(kept | fields)), ignore_mismatched_sizes=True, dtype=torch.float32
    )


def build_loader(args: Arguments, data: Data, processor: SetrImageProcessor, config: SetrConfig) -> DataLoader:
    """Shuffled, augmented batches; the order and each sample depend on the seed and the epoch alone.

    Args:
        args: the options.
        data: the training split.
        processor: the model's.
        config: the model's, whose key encrypts the data, too.
    """
    key = config.key_facts
    scale_range = args.scale_range[0], args.scale_range[1]
    if args.grid_crops or key is not None:
        augmentation: GridCrops | JointAugmentation = GridCrops(processor, args.crop_size)
    else:
        augmentation = JointAugmentation(
            args.crop_size, args.resize_factor, scale_range, num_channels=processor.num_channels
        )
    given: dict[str, Any] = {"augmentation": augmentation, "label_map": data.train_map, "seed": args.seed, "key": key}
    is_stored = isinstance(data.train, datasets.Dataset)
    if is_stored:
        dataset: Dataset = AugmentedDataset(data.train, **given)
    else:
        dataset = AugmentedStream(data.train, **given, buffer_size=args.shuffle_buffer)
    return DataLoader(
        dataset,
        args.batch_size,
        drop_last=True,
        collate_fn=collate,
        num_workers=args.num_workers,
        shuffle=is_stored or None,
        generator=torch.Generator().manual_seed(args.seed),
    )


def save_model(accelerator: Accelerator, model, processor, folder: Path, half_weights: bool) -> None:
    """Write model and processor as `from_pretrained` reads them, the weights as they are or as fp16."""
    plain = accelerator.unwrap_model(model)
    state = accelerator.get_state_dict(model)
    if half_weights:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    if accelerator.is_main_process:
        plain.save_pretrained(folder, state_dict=state)
        processor.save_pretrained(folder)


def describe_training(folder: Path, recipe: dict, statistics: LabelStatistics) -> None:
    """Write training.json, and a section of the model card: the recipe, the evaluations and the classes."""
    (folder / "training.json").write_text(json.dumps(recipe, indent=1))
    card, arguments = folder / "README.md", recipe["arguments"]
    text = card.read_text(encoding="utf-8").partition("\n## Training\n")[0]
    # The card is published, so it shows the last part of a local path alone.
    shown = {name: Path(value).name if name in PATHS and value else value for name, value in arguments.items()}
    options = " ".join(f"--{name} {value}" for name, value in shown.items() if value not in (None, False))
    evaluations = [row for row in recipe["history"] if "mean_iou" in row]
    rows = [[str(row["epoch"]), f"{row['loss']:.4f}", f"{row['mean_iou']:.4f}"] for row in evaluations]
    figures = markdown_table(("epoch", "training loss", "validation mIoU"), rows)
    classes = markdown_table(TABLE_HEADER, statistics.rows())
    card.write_text(
        f"{text.rstrip()}\n\n## Training\n\n`examples/train_setr.py {options}`, {recipe['processes']} process(es). "
        f"Evaluated on the split `{arguments['eval_split']}`, at the size of the labels, single scale, no flip:\n\n"
        f"{figures}\nThe classes in {statistics.stored.describe()}:\n\n{classes}",
        encoding="utf-8",
    )
    if evaluations:
        metrics = {"mean_iou": round(evaluations[-1]["mean_iou"], 4)}
        describe_model(folder, dataset=str(shown["dataset"]), split=arguments["eval_split"], metrics=metrics)


def start_accelerator(args: Arguments) -> Accelerator:
    """The processes, devices and precision that `accelerate launch` or the options ask for; everything is seeded."""
    accelerator = Accelerator(
        cpu=args.cpu,
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        log_with="tensorboard",
        project_dir=args.output_dir,
        step_scheduler_with_optimizer=False,
    )
    accelerator.init_trackers("tensorboard")
    set_seed(args.seed)
    return accelerator


def total_updates(args: Arguments, loader: DataLoader) -> int:
    """The number of updates: --max_steps, or that of --epochs passes over the data."""
    if args.max_steps is not None:
        return args.max_steps
    if args.streaming:
        raise ValueError("a streamed data set does not know its length: give --max_steps, the number of updates")
    # At least one, so that the loop starts and reports an empty loader.
    return max(math.ceil(len(loader) / args.gradient_accumulation_steps) * args.epochs, 1)


def finish(
    accelerator: Accelerator, model, processor, history: list[dict], statistics: LabelStatistics, args: Arguments
) -> None:
    """Write the final model with its card, and publish it on the Hub if asked; checkpoints stay local."""
    output_dir = Path(args.output_dir)
    save_model(accelerator, model, processor, output_dir, args.half_weights)
    if accelerator.is_main_process:
        recipe = {"arguments": asdict(args), "processes": accelerator.num_processes, "history": history}
        describe_training(output_dir, recipe, statistics)
        if args.push_to_hub:
            create_repo(args.push_to_hub, private=args.hub_private, exist_ok=True)
            files = ["*.json", "*.safetensors", "README.md"]
            ignored = ["best/*", "checkpoints/*", "training.json"]  # training.json holds local paths
            upload_folder(
                repo_id=args.push_to_hub, folder_path=output_dir, allow_patterns=files, ignore_patterns=ignored
            )
    accelerator.end_training()


def train_epoch(
    accelerator: Accelerator, model, optimizer, scheduler, loader, progress: dict, log: TrainingLog, bar, args
) -> None:
    """One pass over the loader, or the rest of one; it keeps `progress`, with which a killed run goes on."""
    model.train()
    losses: list[torch.Tensor] = []  # of this process, of the batches that make the next update
    waiting = WaitingTime()
    for batch in waiting.measured(remaining_batches(accelerator, loader, progress)):
        with accelerator.accumulate(model):
            loss = model(**batch).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients and args.max_grad_norm:
                accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.detach())
        progress["batches"] += 1
        if not accelerator.sync_gradients:
            continue
        loss_sum = accelerator.reduce(torch.stack(losses).sum(), reduction="mean").item()  # one exchange an update
        progress["loss_sum"] += loss_sum
        scheduler.step()
        progress["step"] += 1
        figures = {"loss": loss_sum / len(losses), "lr": scheduler.get_last_lr()[0]}
        losses.clear()
        accelerator.log(figures | {"waiting": waiting.share}, step=progress["step"])
        log.add({"step": progress["step"]} | figures)
        bar.update()
        mean = progress["loss_sum"] / progress["batches"]
        bar.set_postfix(epoch=progress["epoch"], loss=f"{mean:.4f}", waiting=f"{waiting.share:.1%}")
        if progress["step"] >= bar.total:
            return
        if progress["step"] % args.checkpoint_every == 0:
            save_checkpoint(accelerator, Path(args.output_dir) / "checkpoints", progress)


def end_epoch(accelerator: Accelerator, model, processor, data: Data, progress: dict, args: Arguments) -> dict:
    """The record of a finished epoch, with the figures of an evaluation if one is due; the best model is kept."""
    progress["epoch"] += 1
    record = {"epoch": progress["epoch"], "step": progress["step"]}
    record["loss"] = progress["loss_sum"] / progress["batches"]
    progress |= {"batches": 0, "loss_sum": 0.0}
    if progress["epoch"] % args.eval_every == 0 or progress["step"] >= progress["total"]:
        plain = accelerator.unwrap_model(model)
        result = evaluate_mean_iou(plain, processor, data.validation, data.validation_map, accelerator)
        record |= {name: float(result[name]) for name in ("mean_iou", "overall_accuracy")}
        accelerator.log({"mean_iou": record["mean_iou"]}, step=progress["step"])
        if record["mean_iou"] > progress["best"]:
            progress["best"] = record["mean_iou"]
            save_model(accelerator, model, processor, Path(args.output_dir) / "best", args.half_weights)
    progress["history"].append(record)
    return record


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    accelerator = start_accelerator(args)
    data = open_data(args, accelerator)
    model = build_model(args, data.names)
    for rows in (data.train, data.validation):
        check_encryption(rows, model.config.key_facts)
    fresh = reinitialize(model, embedding=args.fresh_embedding is not None, num_layers=args.fresh_layers)
    processor = SetrImageProcessor(
        resize_factor=args.resize_factor,
        patch_size=model.config.patch_size,
        num_channels=model.config.num_channels,
        ignore_index=data.train_map.ignore_index,
    )
    if args.fresh_embedding == "whitened":
        rows = data.train.take(WHITENING_IMAGES) if args.streaming else evenly_spaced(data.train, WHITENING_IMAGES)
        whiten_embedding(model, (processor(row["image"], return_tensors="pt")["pixel_values"] for row in rows))
    model = with_synchronized_norms(model, accelerator)
    optimizer = build_optimizer(model, args, fresh=fresh)
    model, optimizer, loader = accelerator.prepare(model, optimizer, build_loader(args, data, processor, model.config))
    total = total_updates(args, loader)
    scheduler = build_scheduler(optimizer, args, total)
    accelerator.register_for_checkpointing(scheduler)

    output_dir = Path(args.output_dir)
    progress = load_latest_checkpoint(accelerator, output_dir / "checkpoints")
    progress = progress or {"step": 0, "epoch": 0, "batches": 0, "loss_sum": 0.0, "best": -1.0, "history": []}
    progress["total"] = total
    log = TrainingLog(output_dir / "log.jsonl", progress, writes=accelerator.is_main_process)
    bar = tqdm(total=total, initial=progress["step"], desc="train", disable=not accelerator.is_local_main_process)
    while progress["step"] < total:
        train_epoch(accelerator, model, optimizer, scheduler, loader, progress, log, bar, args)
        if not progress["batches"]:
            raise ValueError(
                f"{args.train_split} gave no batch of {args.batch_size} images; use a smaller --batch_size"
            )
        record = end_epoch(accelerator, model, processor, data, progress, args)
        log.add(record)
        accelerator.print(json.dumps(record))
        save_checkpoint(accelerator, output_dir / "checkpoints", progress)
    finish(accelerator, model, processor, progress["history"], data.statistics, args)


if __name__ == "__main__":
    run_script(main)
