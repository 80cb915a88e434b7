"""Pieces of a training loop. The loops themselves are visible in train.py and in examples/table2.py."""

import time
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.data_loader import DataLoaderShard
from transformers import PreTrainedModel, get_polynomial_decay_schedule_with_warmup

from .arguments import OptimizationArguments

Batch = dict[str, torch.Tensor]
Model = TypeVar("Model", bound=torch.nn.Module)
Item = TypeVar("Item")


def build_optimizer(
    model: PreTrainedModel, args: OptimizationArguments, *, fresh: Collection[str] = ()
) -> torch.optim.Optimizer:
    """An optimizer in which encoder and heads have their own learning rates, and matrices alone have weight decay.

    Args:
        model: `base_model_prefix` names its encoder.
        args: optimizer, learning_rate, head_lr_factor and weight_decay.
        fresh: names of the encoder's parameters that were drawn anew; they learn as fast as the heads.

    Raises:
        ValueError: an optimizer other than adamw and sgd.
    """
    encoder = f"{model.base_model_prefix}."
    groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        decays = parameter.ndim > 1 and "position_embeddings" not in name and "cls_token" not in name
        learned = name.startswith(encoder) and name not in fresh
        groups.setdefault((learned, decays), []).append(parameter)
    parameters = [
        {
            "params": members,
            "lr": args.learning_rate * (1 if learned else args.head_lr_factor),
            "weight_decay": args.weight_decay if decays else 0.0,
        }
        for (learned, decays), members in groups.items()
    ]
    if args.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=args.learning_rate, momentum=0.9)
    if args.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=args.learning_rate)
    raise ValueError(f"expected the optimizer adamw or sgd, got {args.optimizer!r}")


def build_scheduler(
    optimizer: torch.optim.Optimizer, args: OptimizationArguments, total: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """A schedule of linear warm-up, then polynomial decay to `final_lr_ratio` of the peak at the update `total`."""
    last = args.learning_rate * args.final_lr_ratio
    warmup_steps = min(args.warmup_steps, total - 1)  # the library divides by the updates after the warm-up
    return get_polynomial_decay_schedule_with_warmup(optimizer, warmup_steps, total, last, args.power)


def with_synchronized_norms(model: Model, accelerator: Accelerator) -> Model:
    """The model with batch norms that see the batches of all GPUs, if there are several; call it before `prepare`."""
    if accelerator.num_processes > 1 and accelerator.device.type == "cuda":
        return torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def keep_images_per_update(accelerator: Accelerator, progress: dict[str, Any]) -> None:
    """Have a run that goes on in another number of processes update on as many images as before.

    Half the processes accumulate the gradients of twice as many batches, which are the same ones.

    Args:
        accelerator: of the processes that go on, with the accumulation that the options ask for.
        progress: of the run. `processes` is the number with which it began; `batches` and `loss_sum` count those of
            one of the `last_processes`, which this function brings up to date.

    Raises:
        ValueError: the batches of an update cannot be divided among the processes.
    """
    asked, number = accelerator.gradient_accumulation_steps, accelerator.num_processes
    each, rest = divmod(asked * progress["processes"], number)
    if rest:
        raise ValueError(
            f"expected a number of processes that divides {asked * progress['processes']}, the batches of each update "
            f"since this run began, got {number}; go on with {progress['processes']}"
        )
    accelerator.gradient_accumulation_steps = each
    before, progress["last_processes"] = progress["last_processes"], number
    progress["batches"] = progress["batches"] * before // number
    progress["loss_sum"] *= before / number


def remaining_batches(accelerator: Accelerator, loader: DataLoaderShard, progress: dict[str, Any]) -> Iterable[Batch]:
    """The batches of the epoch `progress["epoch"]` after the first `progress["batches"]`, in their fixed order.

    Args:
        accelerator: the one that prepared the loader.
        loader: as `accelerator.prepare` returns it.
        progress: of the run.
    """
    loader.set_epoch(progress["epoch"])
    if hasattr(loader.dataset, "set_epoch"):  # Accelerate 1.15 tells the data set in runs of one process alone
        loader.dataset.set_epoch(progress["epoch"])
    if not progress["batches"]:
        return loader
    batches = accelerator.skip_first_batches(loader, progress["batches"])
    batches.set_epoch(progress["epoch"])
    return _with_random_state_kept(batches)


class WaitingTime:
    """How much of a loop's time passes while it waits for its next batch."""

    def __init__(self) -> None:
        self._waited, self._whole = 0.0, 0.0

    @property
    def share(self) -> float:
        """In [0, 1], of all the time of the loops so far, up to the last batch that they took."""
        return self._waited / self._whole if self._whole else 0.0

    def measured(self, batches: Iterable[Item]) -> Iterator[Item]:
        """The batches as they are, with an eye on the clock."""
        iterator, left, missing = iter(batches), time.perf_counter(), object()
        while True:
            asked = time.perf_counter()
            batch: Any = next(iterator, missing)
            came = time.perf_counter()
            self._waited += came - asked
            self._whole += came - left
            left = came
            if batch is missing:
                return
            yield batch


def _with_random_state_kept(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, whose start leaves torch's random state as the interrupted run had it.

    A loader draws a seed for its workers when it starts. The interrupted run drew it at the start of the epoch.
    """
    state = torch.get_rng_state()
    iterator = iter(batches)
    first = next(iterator, None)
    torch.set_rng_state(state)
    if first is not None:
        yield first
        yield from iterator
