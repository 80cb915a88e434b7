"""Hierarchical backbones whose first layer reads separate patches."""

from typing import TypedDict

import transformers as hf

from .parts import Builder, Case, pixels


class Swin(TypedDict):
    """Sizes of a Swin transformer, of either version."""

    embed_dim: int
    depths: list[int]
    num_heads: list[int]
    window_size: int
    image_size: int
    patch_size: int


class ConvNext(TypedDict):
    """Sizes of a ConvNeXt, of either version."""

    hidden_sizes: list[int]
    depths: list[int]
    patch_size: int


SWIN: Swin = {
    "embed_dim": 16,
    "depths": [1, 1, 1, 1],
    "num_heads": [1, 2, 2, 2],
    "window_size": 2,
    "image_size": 64,
    "patch_size": 4,
}
CONVNEXT: ConvNext = {"hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "patch_size": 4}


def _on_64_pixels(model: type, config: object) -> Case:
    return Case(model(config), {"pixel_values": pixels(2, 3, 64, 64)})


def _dinov3_convnext() -> Case:
    config = hf.DINOv3ConvNextConfig(hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 1])
    return _on_64_pixels(hf.DINOv3ConvNextModel, config)


def _pvt() -> Case:
    config = hf.PvtConfig(
        image_size=64, hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 2]
    )
    return _on_64_pixels(hf.PvtForImageClassification, config)


def _focalnet() -> Case:
    config = hf.FocalNetConfig(image_size=64, embed_dim=16, hidden_sizes=[16, 16, 32, 32], depths=[1, 1, 1, 1])
    return _on_64_pixels(hf.FocalNetForImageClassification, config)


BACKBONES: dict[str, Builder] = {
    "swin": lambda: _on_64_pixels(hf.SwinForImageClassification, hf.SwinConfig(**SWIN)),
    "swinv2": lambda: _on_64_pixels(hf.Swinv2ForImageClassification, hf.Swinv2Config(**SWIN)),
    "convnext": lambda: _on_64_pixels(hf.ConvNextForImageClassification, hf.ConvNextConfig(**CONVNEXT)),
    "convnextv2": lambda: _on_64_pixels(hf.ConvNextV2ForImageClassification, hf.ConvNextV2Config(**CONVNEXT)),
    "dinov3_convnext": _dinov3_convnext,
    "pvt": _pvt,
    "focalnet": _focalnet,
}
