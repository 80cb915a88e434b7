"""Tiny SETR models for the tests, and inputs for them.

Every number in a model is random, norms and running statistics included, so that no test passes because something is
zero or one.
"""

from typing import TypedDict

import torch

from hf_privseg import SecretKey, SetrConfig, SetrForSemanticSegmentation

DECODERS = ["naive", "pup", "mla"]
SECRET = bytes(range(32))


class Tolerance(TypedDict):
    """How far apart two tensors may be, in the names of `torch.testing.assert_close`."""

    rtol: float
    atol: float


# fp32 sums of about 50 products round by some 1e-6 relative to the result, and nothing in these models amplifies that
# tenfold: logits are of order 1.
FP32: Tolerance = {"rtol": 1e-4, "atol": 1e-5}
FP64: Tolerance = {"rtol": 1e-10, "atol": 1e-12}


def tiny_config(decoder="naive", **kwargs):
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "image_size": 16,
        "patch_size": 4,
        "decoder_hidden_size": 12,
        "mla_hidden_size": 8,
        "num_labels": 5,
        "decoder_type": decoder,
    }
    return SetrConfig(**(sizes | kwargs))


@torch.no_grad()
def randomize(model, seed=0):
    """Every parameter and running statistic -> a random value of sensible size."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            fan_in = value[0].numel() if value.ndim > 1 and "position" not in name and "cls" not in name else 1
            random = torch.randn(value.shape, generator=generator)
            is_gain = value.ndim == 1 and name.endswith("weight")
            if "running_var" in name:
                value.copy_(random.abs() + 0.5)
            else:
                value.copy_(1 + 0.2 * random if is_gain else random / fan_in**0.5 * (0.3 if fan_in == 1 else 1))
    return model.eval()


def tiny_model(decoder="naive", cls=SetrForSemanticSegmentation, **kwargs):
    return randomize(cls(tiny_config(decoder, **kwargs)))


def pixels(batch=2, height=16, width=16, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, 3, height, width, generator=generator) * 2 - 1


def labels(batch=2, height=16, width=16, num_labels=5, seed=2):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(num_labels, (batch, height, width), generator=generator)
    drawn[:, : height // 4] = 255
    return drawn


def projection(model):
    return model.base_model.embeddings.patch_embeddings.projection


def make_key(family="orthogonal", first_byte=0):
    return SecretKey(bytes([first_byte]) + SECRET[1:], family)
