"""Sizes and tensors that the tiny models share."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

import torch
from transformers import PreTrainedModel


class Case(NamedTuple):
    """A tiny model and inputs for it."""

    model: PreTrainedModel
    inputs: dict[str, Any]


Builder = Callable[[], Case]


class Attention(TypedDict):
    """Sizes of a transformer whose intermediate size follows from them."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int


class Encoder(Attention):
    """Sizes of a transformer."""

    intermediate_size: int


class Patches(Encoder):
    """Sizes of a vision transformer."""

    image_size: int
    patch_size: int


class Text(Encoder):
    """Sizes of a text transformer."""

    vocab_size: int
    max_position_embeddings: int


ATTENTION: Attention = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ENCODER: Encoder = {**ATTENTION, "intermediate_size": 37}
DEEPER: Encoder = {**ENCODER, "num_hidden_layers": 4}
PATCHES: Patches = {**ENCODER, "image_size": 32, "patch_size": 8}
TEXT: Text = {**ENCODER, "vocab_size": 50, "max_position_embeddings": 16}
STAGES = ["stage1", "stage2", "stage3", "stage4"]

# Values that are no weights: to make them random would change what a model computes, not what it has learned.
_KEPT = ("logit_scale", "inv_freq", "cpb", "log_bin", "k_idx")


def pixels(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tokens(count: int = 7, batch: int = 2, vocabulary: int = 50) -> torch.Tensor:
    return torch.randint(3, vocabulary - 3, (batch, count), generator=torch.Generator().manual_seed(5))


def padded_pixels(batch: int = 2, side: int = 64) -> dict[str, torch.Tensor]:
    """A batch whose last image is narrower: zeros at the right, and the mask that says so."""
    mask = torch.ones(batch, side, side, dtype=torch.long)
    mask[-1, :, side * 3 // 4 :] = 0
    return {"pixel_values": pixels(batch, 3, side, side) * mask[:, None], "pixel_mask": mask}


@torch.no_grad()
def randomize(model: PreTrainedModel, seed: int = 5) -> PreTrainedModel:
    """Every weight and running statistic -> a random value of sensible size, so that nothing works because it is 0."""
    generator = torch.Generator().manual_seed(seed)
    seen: set[int] = set()
    for name, value in model.state_dict().items():
        if not value.is_floating_point() or value.data_ptr() in seen:
            continue
        seen.add(value.data_ptr())
        random = torch.randn(value.shape, generator=generator)
        is_table = value.ndim < 2 or any(word in name for word in ("position", "cls", "token"))
        if "running_var" in name:
            value.copy_(random.abs() + 0.5)
        elif any(word in name for word in _KEPT):
            continue
        elif value.ndim == 1 and name.endswith("weight"):
            value.copy_(1 + 0.2 * random)
        else:
            value.copy_(0.3 * random if is_table else random / value[0].numel() ** 0.5)
    return model.eval()
