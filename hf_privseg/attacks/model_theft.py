"""The encrypted model used without its key: a new patch embedding is learned from labelled images.

Everything behind the patch embedding of an encrypted model is plain, and the key hides only E. Anyone who holds the
model and some labelled images can train a new E. This is a fine-tuning attack on a model that a key protects
(AprilPyone Maungmaung and Kiya, "A protection method of trained CNN model with a secret key from unauthorized access",
APSIPA Transactions on Signal and Information Processing 10, 2021). A public embedding near E is a good start, but none
is needed.

Assumptions: labelled images of the model's classes; no key, and no image of a client. Cost: `steps` forward and
backward passes of the model, without gradients of anything but the embedding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn

# (batch, channels, h, w) pixels in [-1, 1] -> (batch, classes, h', w') logits
Segment = Callable[[torch.Tensor], torch.Tensor]
Progress = Callable[[int, float], None]


class Loss(Protocol):
    """What an embedding is learned from."""

    def __call__(self, chosen: torch.Tensor, *, flipped: bool) -> torch.Tensor:
        """Indices of images, and whether they are mirrored -> a scalar to make small."""
        ...


INITIAL_DEVIATION = 0.02  # of a fresh embedding's weights, as vision transformers are initialised
IGNORE_LABEL = 255


@dataclass(frozen=True, kw_only=True)
class TheftBudget:
    """How long the thief trains.

    Attributes:
        steps: number of updates.
        batch_size: images an update.
        learning_rate: the peak of Adam's learning rate, which falls to zero along a cosine.
    """

    steps: int = 300
    batch_size: int = 2
    learning_rate: float = 1e-3


@dataclass(frozen=True)
class StolenEmbedding:
    """A patch embedding with which the model takes plain images.

    Attributes:
        weight: of the projection's shape, (hidden_size, channels, patch_size, patch_size).
        losses: cross entropy at each update.
    """

    weight: torch.Tensor = field(repr=False)
    losses: tuple[float, ...] = field(repr=False)


def steal_embedding(
    segment: Segment,
    projection: nn.Parameter,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    start: torch.Tensor | None = None,
    budget: TheftBudget | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> StolenEmbedding:
    """An encrypted model and plain labelled images -> a patch embedding with which it takes plain images.

    Args:
        segment: the model, best in evaluation mode, which reads `projection` and gives logits; nothing else changes.
        projection: the weight of the model's patch embedding. It is trained and then set back.
        images: `(n, channels, height, width)` float in [-1, 1].
        labels: `(n, height, width)` int64, 255 where no label counts.
        start: a public embedding to begin with; random weights by default.
        budget: how long to train; `TheftBudget()` by default.
        seed: of the first weights, batches and flips.
        progress: called with the number of updates and the loss, after each.

    Raises:
        ValueError: images and labels are no pairs.
    """
    if len(images) != len(labels) or images.shape[-2:] != labels.shape[-2:] or not len(images):
        raise ValueError(
            f"expected a segmentation map for each image, of its size, got images of shape {tuple(images.shape)} and "
            f"labels of shape {tuple(labels.shape)}"
        )

    def loss(chosen: torch.Tensor, *, flipped: bool) -> torch.Tensor:
        batch, truth = images[chosen], labels[chosen]
        if flipped:
            batch, truth = batch.flip(-1), truth.flip(-1)
        return _cross_entropy(segment(batch), truth)

    return learn_embedding(loss, projection, len(images), start=start, budget=budget, seed=seed, progress=progress)


def learn_embedding(
    loss: Loss,
    projection: nn.Parameter,
    num_images: int,
    *,
    start: torch.Tensor | None = None,
    budget: TheftBudget | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> StolenEmbedding:
    """Whatever a patch embedding should achieve -> one that was trained for it.

    Args:
        loss: of images with these indices, mirrored or not, under the present weight of `projection`.
        projection: the weight of the model's patch embedding. It is trained and then set back.
        num_images: how many images there are.
        start: a public embedding to begin with; random weights by default.
        budget: how long to train; `TheftBudget()` by default.
        seed: of the first weights, batches and flips.
        progress: called with the number of updates and the loss, after each.
    """
    budget = budget or TheftBudget()
    generator = torch.Generator().manual_seed(seed)
    fresh = INITIAL_DEVIATION * torch.randn(projection.shape, generator=generator)
    weight = (fresh if start is None else start.detach()).to(projection)
    losses = []
    with with_weight(projection, weight):
        optimizer = torch.optim.Adam([projection], lr=budget.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, budget.steps)
        for step in range(1, budget.steps + 1):
            chosen = torch.randint(num_images, (budget.batch_size,), generator=generator)
            found = loss(chosen, flipped=bool(torch.rand((), generator=generator) < 0.5))
            (projection.grad,) = torch.autograd.grad(found, [projection])
            optimizer.step()
            schedule.step()
            losses.append(found.item())
            if progress is not None:
                progress(step, losses[-1])
        stolen = projection.detach().clone()
    return StolenEmbedding(stolen, tuple(losses))


@contextmanager
def with_weight(projection: nn.Parameter, weight: torch.Tensor) -> Iterator[None]:
    """Within the context the model has `weight` for its patch embedding; afterwards its own, and no gradient."""
    kept, needed = projection.detach().clone(), projection.requires_grad
    try:
        with torch.no_grad():
            projection.copy_(weight)
        projection.requires_grad_(True)
        yield
    finally:
        with torch.no_grad():
            projection.copy_(kept)
        projection.grad = None
        projection.requires_grad_(needed)


@torch.no_grad()
def mean_iou(segment: Segment, images: torch.Tensor, labels: torch.Tensor, num_labels: int) -> float:
    """Images and labels as for `steal_embedding` -> mean intersection over union of the classes that occur, 0 to 1."""
    counts = torch.zeros(num_labels, num_labels, dtype=torch.int64)
    for image, truth in zip(images, labels, strict=True):
        logits = nn.functional.interpolate(segment(image[None]), truth.shape, mode="bilinear", align_corners=False)
        found, counted = logits[0].argmax(dim=0), truth != IGNORE_LABEL
        pairs = truth[counted] * num_labels + found[counted]
        counts += torch.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)
    both = counts.diagonal()
    union = counts.sum(dim=0) + counts.sum(dim=1) - both
    return float((both[union > 0] / union[union > 0]).mean())


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    whole = nn.functional.interpolate(logits, labels.shape[-2:], mode="bilinear", align_corners=False)
    return nn.functional.cross_entropy(whole, labels, ignore_index=IGNORE_LABEL)
