"""One forward for a batch in which every image is encrypted with a key of its own.

Models that are encrypted with different keys differ in the weight of the patch embedding's projection alone. So a
batch of mixed keys runs through one network whose projection applies a weight of its own to each image; everything
behind it is one batch like any other. No weight of the model is ever written to: several batches may run in threads.
"""

from collections.abc import Sequence
from copy import copy

import torch
from torch import nn

from ..setr.modeling_setr import SetrForSemanticSegmentation

_PATH = ("setr", "embeddings", "patch_embeddings")


class PerImageProjection(nn.Module):
    """The projection of a patch embedding, with one weight for each image of the batch.

    Args:
        weights: (hidden_size, channels, patch_size, patch_size) each, in the order of the images.
        bias: (hidden_size,), which no key changes.
    """

    def __init__(self, weights: Sequence[torch.Tensor], bias: torch.Tensor | None):
        super().__init__()
        self._weights, self._bias = list(weights), bias

    @property
    def weight(self) -> torch.Tensor:
        """The first image's weight; the patch embedding asks it for its dtype."""
        return self._weights[0]

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width) -> (batch, hidden_size, rows, columns) of patches."""
        stride = self.weight.shape[-2:]
        if all(weight is self.weight for weight in self._weights):
            return nn.functional.conv2d(pixel_values, self.weight, self._bias, stride)
        each = zip(pixel_values.split(1), self._weights, strict=True)
        return torch.cat([nn.functional.conv2d(one, weight, self._bias, stride) for one, weight in each])


def with_weights(model: SetrForSemanticSegmentation, weights: Sequence[torch.Tensor]) -> SetrForSemanticSegmentation:
    """A model and a projection weight for each image of a batch -> a view of the model for that batch.

    The view shares every module and parameter with the model, apart from the projection and the few modules on the way
    to it. (`torch.func.functional_call` would exchange parameters of the shared modules while it runs.)
    """
    view = parent = _shallow(model)
    for name in _PATH:
        child = _shallow(getattr(parent, name))
        parent._modules[name] = child
        parent = child
    bias = getattr(parent.projection, "bias", None)
    parent._modules["projection"] = PerImageProjection(weights, bias)
    return view  # type: ignore[return-value]  # a copy has the type of its original


def _shallow(module: nn.Module) -> nn.Module:
    """A module with registers of its own, so that replacing an entry in one leaves the other alone."""
    duplicate = copy(module)
    duplicate._modules, duplicate._parameters = dict(module._modules), dict(module._parameters)
    return duplicate
