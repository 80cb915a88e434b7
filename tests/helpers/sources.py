"""Checkpoints in the names of other libraries, made from tiny models."""

from copy import deepcopy

import torch
from transformers import DeiTConfig, Dinov2Config, Dinov2WithRegistersConfig, ViTConfig, ViTModel

from helpers.tiny_setr import randomize, tiny_model
from hf_privseg.convert import FORMATS
from tiny_vision.parts import Attention

HALF = (0.5, 0.5, 0.5)


class Sizes(Attention):
    """Sizes of any of the encoders."""

    image_size: int
    patch_size: int


SIZES: Sizes = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 16, "patch_size": 4,
}  # fmt: skip
CONFIGS = {
    "vit": ViTConfig(**SIZES, intermediate_size=48, layer_norm_eps=1e-5, qkv_bias=False),
    "deit": DeiTConfig(**SIZES, intermediate_size=48),
    "dinov2": Dinov2Config(**SIZES, mlp_ratio=2),
    "dinov2_swiglu": Dinov2Config(**SIZES, mlp_ratio=2, use_swiglu_ffn=True),
    "dinov2_with_registers": Dinov2WithRegistersConfig(**SIZES, mlp_ratio=2, num_register_tokens=2),
}


def source_model(cls, config="vit", **kwargs):
    """A tiny random model of transformers."""
    return randomize(cls(deepcopy(CONFIGS[config]), **kwargs))


def named_as(format, weights):
    """Our state dict -> the same in the names of a format; query, key and value packed where it packs them."""
    named: dict[str, torch.Tensor] = {}
    packed: dict[str, dict[int, torch.Tensor]] = {}
    for name, value in weights.items():
        key, part = FORMATS[format].source_key(name)
        if part is None:
            named[key] = value.clone()
        else:
            packed.setdefault(key, {})[part] = value
    return named | {key: torch.cat([parts[index] for index in range(3)]) for key, parts in packed.items()}


def mmseg_source(decoder="naive", **kwargs):
    """(our tiny model, its state dict as mmsegmentation would have it)"""
    model = tiny_model(decoder, **kwargs)
    weights = named_as("mmseg", model.state_dict())
    if decoder == "mla":  # mmsegmentation keeps a class token and a position for it, which it never uses
        weights["backbone.cls_token"] = torch.full((1, 1, 32), 7.0)
        unused = torch.full((1, 1, 32), 9.0)
        weights["backbone.pos_embed"] = torch.cat((unused, weights["backbone.pos_embed"]), dim=1)
    return model, weights


def timm_source():
    """(a tiny random ViT of transformers, its state dict in timm's names)"""
    vit = source_model(ViTModel, add_pooling_layer=False)
    return vit, named_as("timm", vit.state_dict())
