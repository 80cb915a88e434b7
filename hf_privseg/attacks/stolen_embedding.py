"""Images from z = b E through a patch embedding that was learned from the plain layers behind it.

The provider holds every weight but the patch embedding E in plain, so it can learn an embedding E' with which they
work, and invert z through E' as if that were E, corrected by the moments of z (`invert_drifted_embedding`). E' is
learned from

- labels: the network's answers on the attacker's own images (`model_theft.steal_embedding`), or
- hints: some layers' features of the public network that the model was trained from (`fit_hints`; Romero et al.,
  "FitNets: Hints for thin deep nets", arXiv:1412.6550), as far as training has left the layers in the same
  coordinates.

No key hides any of this, because z and the layers behind it are the same for every key. But an embedding that makes
the layers work need not be E: they read a few hundred directions of a block, and answers ask for coarse ones. Where
the model's E is far from every public one, E' came out useless on CamVid (`benchmarks/private_embedding.py`), and the
moments of z alone led further.

Assumptions: labelled images of similar scenes, or the public network. Cost: `steps` passes forward and backward
through the model.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .model_theft import Progress, StolenEmbedding, TheftBudget, learn_embedding
from .public_base import embedding_matrix, invert_drifted_embedding
from .tools.blocks import LinearDecoder
from .tools.statistics import BlockStatistics

# (batch, channels, h, w) pixels in [-1, 1] -> features of some layers, each (batch, hidden_size, h', w')
Features = Callable[[torch.Tensor], Sequence[torch.Tensor]]

UNKNOWN_DRIFT = 0.3  # of a learned embedding, as a guess; a wrong one costs little


def fit_hints(
    features: Features,
    hints: Features,
    projection: nn.Parameter,
    images: torch.Tensor,
    *,
    start: torch.Tensor | None = None,
    budget: TheftBudget | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> StolenEmbedding:
    """A patch embedding with which a model's features are those of a public network.

    Args:
        features: of the model, which reads `projection`; nothing else changes.
        hints: of the public network, as many and of the same shapes.
        projection: the weight of the model's patch embedding. It is trained and then set back.
        images: `(n, channels, height, width)` float in [-1, 1].
        start: an embedding to begin with, best the public network's; random weights by default.
        budget: how long to train; `TheftBudget()` by default.
        seed: of the first weights, batches and flips.
        progress: called with the number of updates and the loss, after each. The loss is about 2 where the features
            have nothing in common, and 0 where they are equal.

    Raises:
        ValueError: no image.
    """
    if not len(images):
        raise ValueError("expected one or more images to compare features on, got none")

    def loss(chosen: torch.Tensor, *, flipped: bool) -> torch.Tensor:
        batch = images[chosen].flip(-1) if flipped else images[chosen]
        with torch.no_grad():
            wanted = hints(batch)
        return torch.stack([_distance(own, hint) for own, hint in zip(features(batch), wanted, strict=True)]).mean()

    return learn_embedding(loss, projection, len(images), start=start, budget=budget, seed=seed, progress=progress)


def invert_stolen_embedding(
    stolen: StolenEmbedding, prior: BlockStatistics, seen: BlockStatistics, *, drift: float = UNKNOWN_DRIFT
) -> LinearDecoder:
    """A learned embedding, an image prior and moments of z, without the bias -> decoder of z.

    Raises:
        ValueError: the prior or the moments are of another length.
    """
    return invert_drifted_embedding(embedding_matrix(stolen.weight.cpu().numpy()), prior, seen, drift=drift)


def _distance(own: torch.Tensor, hint: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of two maps of features, each normalised over its channels."""
    own, hint = (F.layer_norm(features.movedim(1, -1).float(), features.shape[1:2]) for features in (own, hint))
    return F.mse_loss(own, hint)
