"""One shared network under any number of patch embeddings, without ever writing to a weight.

A view is a copy of the few modules on the way to the patch embedding, and of nothing else: it shares every other
module, and every parameter but one, with the model. Views can therefore run at the same time in any number of threads.
`torch.func.functional_call` would not do: it exchanges the parameters of the shared modules while it runs.
"""

from copy import copy, deepcopy
from typing import Any

import torch
from torch import nn

from ..setr.modeling_setr import SetrForSemanticSegmentation
from ..setr.public_facts import KeyFacts

_PATH = ("setr", "embeddings", "patch_embeddings", "projection")


def with_projection_weight(
    model: SetrForSemanticSegmentation, weight: torch.Tensor, key_facts: KeyFacts
) -> SetrForSemanticSegmentation:
    """Model, another weight (hidden_size, channels, patch_size, patch_size) float -> a view of it with that weight.

    Args:
        model: stays as it is.
        weight: replaces the projection's; not copied where dtype and device are those of the model's.
        key_facts: about the key that encrypted the weight; `config.encryption` of the view says them.

    Raises:
        ValueError: a weight of another shape.
    """
    view, *modules = _copied_along(model, _PATH)
    own = modules[-1].weight
    if weight.shape != own.shape:
        raise ValueError(f"expected a projection weight of shape {tuple(own.shape)}, got {tuple(weight.shape)}")
    modules[-1].weight = nn.Parameter(weight.to(own), requires_grad=False)
    config = deepcopy(model.config)
    config.encryption = key_facts.to_dict()
    view.config = config
    return view


def _copied_along(module: Any, path: tuple[str, ...]) -> list[Any]:
    """A module and the names of its descendants -> shallow copies of all of them, linked to each other."""
    copies = [_shallow(module)]
    for name in path:
        child = _shallow(getattr(copies[-1], name))
        copies[-1]._modules[name] = child
        copies.append(child)
    return copies


def _shallow(module: nn.Module) -> nn.Module:
    """A module with registers of its own, so that replacing an entry in one leaves the other alone."""
    duplicate = copy(module)
    duplicate._modules, duplicate._parameters = dict(module._modules), dict(module._parameters)
    return duplicate
