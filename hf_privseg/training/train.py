"""The training loop of `privseg train`, with Accelerate: what one epoch does, and all of them."""

import json
from pathlib import Path

import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from ..reporting.provenance import provenance
from .checkpoints import (
    check_folder_is_shared,
    check_same_options,
    latest_progress,
    load_latest_checkpoint,
    save_checkpoint,
)
from .data import names_hash
from .evaluation import evaluate_mean_iou
from .log import TrainingLog
from .loop import (
    WaitingTime,
    build_optimizer,
    build_scheduler,
    keep_images_per_update,
    remaining_batches,
    with_synchronized_norms,
)
from .train_arguments import TrainArguments
from .train_setup import Data, Start, build_loader, build_start, open_data, start_accelerator, total_updates
from .trained_model import finish, save_model


def train(args: TrainArguments) -> None:
    """Train a model as the options say, or go on with a training that was stopped.

    Raises:
        ValueError, OSError and their kin: options, files or data that do not fit; the message names what.
    """
    accelerator = start_accelerator(args)
    data = open_data(args, accelerator)
    run_epochs(args, accelerator, data, build_start(args, data))


def run_epochs(args: TrainArguments, accelerator: Accelerator, data: Data, start: Start) -> None:
    """The whole training of a model, whose result `finish` writes."""
    processor, output_dir = start.processor, Path(args.output_dir)
    checkpoints = output_dir / "checkpoints"
    check_folder_is_shared(accelerator, output_dir)
    progress = latest_progress(checkpoints) or new_progress(accelerator.num_processes)
    check_same_options(progress, args.definition(), output_dir)
    keep_images_per_update(accelerator, progress)
    plain = with_synchronized_norms(start.model, accelerator)
    optimizer = build_optimizer(plain, args, fresh=start.fresh)
    model, optimizer, loader = accelerator.prepare(plain, optimizer, build_loader(args, data, processor, plain.config))
    total = total_updates(args, loader, accelerator.gradient_accumulation_steps)
    scheduler = build_scheduler(optimizer, args, total)
    accelerator.register_for_checkpointing(scheduler)

    load_latest_checkpoint(accelerator, checkpoints)
    progress["total"] = total
    # Of every start of this training; names of images identify the data, if they are not streamed.
    progress["runs"] = [*progress.get("runs", []), provenance() | {"data": names_hash(data.train)}]
    log = TrainingLog(output_dir / "log.jsonl", progress, writes=accelerator.is_main_process)
    bar = tqdm(total=total, initial=progress["step"], desc="train", disable=not accelerator.is_local_main_process)
    while progress["step"] < total:
        train_epoch(accelerator, model, optimizer, scheduler, loader, progress, log, bar, args)
        if not progress["batches"]:
            raise ValueError(
                f"{args.train_split} gave no batch of {args.batch_size} images; use a smaller --batch-size"
            )
        record = end_epoch(accelerator, model, processor, data, progress, args)
        log.add(record)
        accelerator.print(json.dumps(record))
        save_checkpoint(accelerator, checkpoints, progress)
    finish(accelerator, model, processor, progress, data.statistics, args)


def new_progress(processes: int) -> dict:
    """What a run that begins in so many processes keeps in its checkpoints."""
    progress = {"step": 0, "epoch": 0, "batches": 0, "loss_sum": 0.0, "best": -1.0, "history": []}
    return progress | {"processes": processes, "last_processes": processes}


def train_epoch(
    accelerator: Accelerator,
    model,
    optimizer,
    scheduler,
    loader,
    progress: dict,
    log: TrainingLog,
    bar,
    args: TrainArguments,
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


def end_epoch(accelerator: Accelerator, model, processor, data: Data, progress: dict, args: TrainArguments) -> dict:
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
