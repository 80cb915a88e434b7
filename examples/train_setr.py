"""Trains SETR on plain images, with Accelerate: one process, several, or GPUs, by the same file.

    python examples/train_setr.py --dataset path/to/camvid --vit path/to/vit-small-patch16 --output_dir outputs/setr
    accelerate launch --multi_gpu examples/train_setr.py ...

The model is trained on plain images; encrypting it afterwards, `model.encrypt_model(secret_key)`, needs no training.
A run that was stopped goes on from its last checkpoint with `--resume`.
"""

import json
import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, set_seed
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from hf_privseg import SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.training.data import (
    AugmentedDataset,
    JointAugmentation,
    LabelMap,
    collate,
    load_segmentation_dataset,
)
from hf_privseg.training.evaluation import predict_maps
from hf_privseg.training.metrics import MeanIoU

logger = logging.getLogger("train_setr")


@dataclass
class Arguments:
    """What the command line takes."""

    dataset: str = field(metadata={"help": "Folder with images/<split> and annotations/<split>, or a Hub id."})
    output_dir: str = field(metadata={"help": "Where checkpoints, the final model and the logs go."})
    vit: str = field(metadata={"help": "Pretrained HF ViT (folder or Hub id) that the encoder starts from."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str = field(default="val", metadata={"help": "Split to evaluate on."})
    classes: str | None = field(
        default=None,
        metadata={"help": "JSON file {classes: [...], ignore_index: int}. Default: classes.json in the data folder."},
    )
    decoder: str = field(default="naive", metadata={"help": "naive, pup or mla."})
    use_auxiliary_head: bool = field(
        default=True, metadata={"help": "Auxiliary losses on intermediate layers (about 20 % of a step on a CPU)."}
    )
    resize_factor: float = field(
        default=1.0, metadata={"help": "Up-sampling of images before they are cut in patches."}
    )
    crop_size: int = field(default=512, metadata={"help": "Side of training crops in pixels, a multiple of 16."})
    scale_range: list[float] = field(
        default_factory=lambda: [0.5, 2.0], metadata={"help": "Random scale of training images."}
    )
    epochs: int = field(default=16, metadata={"help": "Passes over the training split."})
    batch_size: int = field(default=8, metadata={"help": "Images a step and process."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Batches that make one update."})
    learning_rate: float = field(default=6e-5, metadata={"help": "Peak learning rate of the encoder (AdamW)."})
    head_learning_rate: float = field(default=6e-4, metadata={"help": "Peak learning rate of decoder and heads."})
    weight_decay: float = field(default=0.01, metadata={"help": "Decoupled weight decay of matrices."})
    warmup_steps: int = field(default=40, metadata={"help": "Updates of linear warm-up."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradient norm to clip at."})
    drop_path_rate: float = field(default=0.1, metadata={"help": "Stochastic depth of the last layer."})
    eval_every: int = field(default=4, metadata={"help": "Epochs between evaluations."})
    num_workers: int = field(default=0, metadata={"help": "Processes that load images."})
    seed: int = field(default=0, metadata={"help": "Seed of initial heads, order and augmentation."})
    resume: bool = field(default=False, metadata={"help": "Go on from the last checkpoint in output_dir."})
    cpu: bool = field(default=False, metadata={"help": "Use the CPU even where there is a GPU."})


def parameter_groups(model: SetrForSemanticSegmentation, args: Arguments) -> list[dict]:
    """Encoder and heads with their learning rates; no weight decay for vectors, tokens and positions."""
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and "position_embeddings" not in name and "cls_token" not in name
        groups.setdefault((name.startswith("setr."), decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": args.learning_rate if in_encoder else args.head_learning_rate,
            "weight_decay": args.weight_decay if decays else 0.0,
        }
        for (in_encoder, decays), parameters in groups.items()
    ]


def evaluate_model(model, processor, dataset, label_map: LabelMap, accelerator: Accelerator) -> dict:
    """mIoU over a split at the size of its labels: each process takes its share, counts are summed once."""
    model.eval()
    metric = MeanIoU(model.config.num_labels)
    share = dataset.shard(accelerator.num_processes, accelerator.process_index, contiguous=False)
    maps = predict_maps(
        model,
        processor,
        share["image"],
        desc="evaluate",
        total=len(share),
        disable=not accelerator.is_local_main_process,
    )
    for prediction, annotation in zip(maps, share["annotation"], strict=True):
        metric.add(prediction=prediction, reference=label_map(annotation))
    metric.confusion = accelerator.reduce(torch.from_numpy(metric.confusion).to(accelerator.device)).cpu().numpy()
    model.train()
    return metric.compute()


def main() -> None:
    args: Arguments = HfArgumentParser(Arguments).parse_args_into_dataclasses()[0]
    output_dir = Path(args.output_dir)
    accelerator = Accelerator(
        cpu=args.cpu,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        project_config=ProjectConfiguration(
            project_dir=str(output_dir), total_limit=2, automatic_checkpoint_naming=False
        ),
    )
    logging.basicConfig(level=logging.INFO if accelerator.is_main_process else logging.ERROR)
    set_seed(args.seed)

    classes = json.loads(Path(args.classes or Path(args.dataset) / "classes.json").read_text())
    names = classes["classes"]
    label_map = LabelMap(len(names), ignore_labels=(255, classes.get("ignore_index", 255)))
    augmentation = JointAugmentation(args.crop_size, args.resize_factor, tuple(args.scale_range))
    train = load_segmentation_dataset(args.dataset, split=args.train_split)
    validation = load_segmentation_dataset(args.dataset, split=args.eval_split)
    train_loader = DataLoader(
        AugmentedDataset(train, augmentation, label_map, seed=args.seed),
        batch_size=args.batch_size,
        shuffle=True,
        drop_last=True,
        collate_fn=collate,
        num_workers=args.num_workers,
        generator=torch.Generator().manual_seed(args.seed),
    )

    model = SetrForSemanticSegmentation.from_vit(
        args.vit,
        decoder=args.decoder,
        drop_path_rate=args.drop_path_rate,
        use_auxiliary_head=args.use_auxiliary_head,
        id2label=dict(enumerate(names)),
        label2id={name: index for index, name in enumerate(names)},
    )
    processor = SetrImageProcessor(resize_factor=args.resize_factor)
    optimizer = torch.optim.AdamW(parameter_groups(model, args))
    steps_per_epoch = math.ceil(len(train_loader) / accelerator.num_processes / args.gradient_accumulation_steps)
    total_steps = steps_per_epoch * args.epochs
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / args.warmup_steps, max(1 - step / total_steps, 0) ** 0.9),
    )
    model, optimizer, train_loader = accelerator.prepare(model, optimizer, train_loader)

    progress_file, state_dir = output_dir / "progress.json", output_dir / "state"
    step, start_epoch = 0, 0
    if args.resume and progress_file.exists():
        progress = json.loads(progress_file.read_text())
        accelerator.load_state(str(state_dir))
        scheduler.load_state_dict(torch.load(output_dir / "scheduler.pt", weights_only=True))
        step, start_epoch = progress["step"], progress["epoch"]
    bar = tqdm(total=total_steps, initial=step, desc="train", disable=not accelerator.is_local_main_process)
    for epoch in range(start_epoch, args.epochs):
        train_loader.set_epoch(epoch)
        losses = []
        for batch in train_loader:
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
                optimizer.step()
                if accelerator.sync_gradients:
                    scheduler.step()
                optimizer.zero_grad()
            losses.append(loss.item())
            if accelerator.sync_gradients:
                step += 1
                bar.update()
                bar.set_postfix(epoch=epoch, loss=f"{np.mean(losses[-20:]):.3f}")
        record = {"epoch": epoch + 1, "step": step, "loss": float(np.mean(losses))}
        if (epoch + 1) % args.eval_every == 0 or epoch + 1 == args.epochs:
            result = evaluate_model(accelerator.unwrap_model(model), processor, validation, label_map, accelerator)
            record |= {"mean_iou": result["mean_iou"], "per_category_iou": result["per_category_iou"].tolist()}
        accelerator.save_state(str(state_dir))
        if accelerator.is_main_process:
            torch.save(scheduler.state_dict(), output_dir / "scheduler.pt")
            accelerator.unwrap_model(model).save_pretrained(output_dir)
            processor.save_pretrained(output_dir)
            progress_file.write_text(json.dumps({"step": step, "epoch": epoch + 1}))
            with (output_dir / "log.jsonl").open("a") as log:
                log.write(json.dumps(record) + "\n")
            logger.info("%s", record)
    if accelerator.is_main_process:
        (output_dir / "arguments.json").write_text(json.dumps(asdict(args), indent=2))
    accelerator.end_training()


if __name__ == "__main__":
    main()
