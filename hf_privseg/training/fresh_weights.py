"""Random weights in place of public ones: a patch embedding that nobody has, and layers that read it."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from ..setr.modeling_setr import SetrForSemanticSegmentation
from ..setr.public_facts import check_plain_model

LEAST_VARIANCE = 1e-6  # of a direction, relative to a block's: less is noise, which whitening must not blow up


def reinitialize(model: SetrForSemanticSegmentation, *, embedding: bool = False, num_layers: int = 0) -> list[str]:
    """Draw parts of a model's encoder anew, in place, with torch's global random generator.

    Args:
        model: it may come from public weights.
        embedding: whether to draw the patch embedding, the position embeddings and the class token.
        num_layers: how many of the encoder's first layers to draw.

    Returns:
        The names of the parameters that were drawn.

    Raises:
        EncryptionStateError: the patch embedding of an encrypted model, whose key it would lose.
        ValueError: the encoder has fewer layers.
    """
    if embedding:
        check_plain_model(
            model.config.key_facts, advice="draw the patch embedding anew first, and encrypt it afterwards"
        )
    layers = model.base_model.layers
    if not 0 <= num_layers <= len(layers):
        raise ValueError(f"expected from 0 to {len(layers)} layers to be drawn anew, got {num_layers}")
    parts: Sequence[nn.Module] = [*([model.base_model.embeddings] if embedding else []), *layers[:num_layers]]
    drawn = {id(parameter) for part in parts for parameter in part.parameters()}
    for parameter in model.parameters():
        if id(parameter) in drawn:
            # Transformers sets this where a checkpoint gave the parameter, which it then leaves alone.
            setattr(parameter, "_is_hf_initialized", False)  # noqa: B010
    for part in parts:
        part.apply(model._init_weights)
    return [name for name, parameter in model.named_parameters() if id(parameter) in drawn]


@torch.no_grad()
def whiten_embedding(model: SetrForSemanticSegmentation, images: Iterable[torch.Tensor]) -> None:
    """Replace the patch embedding, in place, by a random one whose output has equal variance in every direction.

    Images make E[|z|**2] = E[|b E|**2] as large as before, but spread evenly over the leading directions of their
    blocks, as trained patch embeddings nearly do. A matrix drawn at random leaves the variances of blocks as they are,
    nearly all of it in a few directions, from which `attacks.orthogonal` aligns it. Images of another scale than
    these vary in other directions, and are aligned again.

    Args:
        model: it gets a new weight and bias of its projection, drawn with torch's global random generator.
        images: of the training set, `(batch, channels, height, width)` float as the processor makes them; the more
            blocks, the better.

    Raises:
        ValueError: no block.
    """
    projection = model.base_model.embeddings.patch_embeddings.projection
    patch_size = projection.kernel_size
    rows = [F.unfold(batch, patch_size, stride=patch_size).transpose(1, 2).flatten(0, 1).double() for batch in images]
    if not rows or not sum(map(len, rows)):
        raise ValueError("expected images of one block or more to whiten the patch embedding with, got none")
    blocks = torch.cat(rows)
    mean = blocks.mean(dim=0)
    variances, axes = torch.linalg.eigh(torch.cov(blocks.T, correction=0))
    hidden_size = min(projection.out_channels, len(mean))
    variances, axes = variances[-hidden_size:], axes[:, -hidden_size:]
    before = projection.weight.flatten(1).T.double()
    power = ((blocks - mean) @ before).square().sum(dim=1).mean()
    turned = torch.linalg.qr(torch.randn(projection.out_channels, hidden_size, dtype=torch.float64))[0]
    whitened = axes * (variances + LEAST_VARIANCE * variances.sum()).rsqrt() @ turned.T
    whitened *= (power / ((blocks - mean) @ whitened).square().sum(dim=1).mean()).sqrt()
    projection.weight.copy_(whitened.T.reshape(projection.weight.shape))
    projection.bias.copy_(-mean @ whitened)
