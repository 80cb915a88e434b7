"""Encoders without a decoder (ViT, DeiT, DINOv2, timm) -> weights and sizes that a SETR starts its training from."""

from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig

from ..setr.config_checks import check_model_settings
from ..setr.errors import ConversionError
from ..setr.modeling_setr import vit_fields
from . import dinov2, timm, vit
from .formats import Format, Weights, encoder_fields, fold_layer_scales, refuse_variants

FORMATS = (vit.FORMAT, dinov2.FORMAT, timm.FORMAT)
_DISTILLATION_TOKENS = {vit.FORMAT.name: vit.DISTILLATION_TOKEN, timm.FORMAT.name: timm.DISTILLATION_TOKEN}
_MODEL_TYPES = ("vit", "deit", "dinov2")

FOLDED_SCALES = "each layer's two LayerScales, into the linear maps before them"
ADDED_POSITION = "a zero became the class token's position embedding, which the source does not have"
TAKEN_TOKEN = (
    "SETR has one token besides the patches, so that this one and its position embedding are left out; the features "
    "are those of the source with this token hidden from attention"
)


def read_encoder(
    weights: Weights, config: dict[str, Any], format: Format, num_attention_heads: int | None
) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, str], list[str]]:
    """Weights of this format -> (with what SETR lacks folded, fields of `SetrConfig`, {unused key: reason}, notes).

    Args:
        weights: of the checkpoint.
        config: its config.json, or empty.
        format: with the prefix found.
        num_attention_heads: None reads the configuration, or takes those of the published ViT of this size.

    Raises:
        ConversionError: a variant that SETR cannot represent, or a weight that tells a size is missing.
    """
    refuse_variants(weights, format)
    read, notes = dict(weights), []
    layers = range(format.depth(weights))
    scales = {format.prefix + name.format(layer) for name, _ in format.layer_scales for layer in layers}
    if scales & set(weights):
        read = fold_layer_scales(weights, len(layers), format)
        notes.append(FOLDED_SCALES)
    unused = _take_distillation_token(read, format)
    if _add_class_position(read, format):
        notes.append(ADDED_POSITION)
    described = _described(config)
    if num_attention_heads is not None:
        described["num_attention_heads"] = num_attention_heads
    sizes = encoder_fields(read, format, described.get("num_attention_heads"))
    return read, sizes | {"position_interpolation": "bicubic"} | described, unused, notes


def _described(config: dict[str, Any]) -> dict[str, Any]:
    """config.json of transformers -> fields of `SetrConfig`; timm's has none.

    Raises:
        ConversionError: transformers cannot make a configuration of it.
    """
    if config.get("model_type") not in _MODEL_TYPES:
        return {}
    settings = {name: value for name, value in config.items() if name != "model_type"}
    try:
        check_model_settings(settings, PreTrainedConfig)
        return vit_fields(AutoConfig.for_model(config["model_type"], **settings))
    except Exception as error:  # anyone may have written the file, and transformers raises what the values lead to
        raise ConversionError(f"config.json describes no {config['model_type']}: {error!s:.300}") from error


def _take_distillation_token(weights: dict[str, torch.Tensor], format: Format) -> dict[str, str]:
    """Remove DeiT's second token and its position, the second one; {its key: reason}."""
    key = format.prefix + _DISTILLATION_TOKENS.get(format.name, "")
    if weights.pop(key, None) is None:
        return {}
    positions = format.source_key("embeddings.position_embeddings")[0]
    if positions in weights:
        weights[positions] = torch.cat((weights[positions][:, :1], weights[positions][:, 2:]), dim=1)
    return {key: TAKEN_TOKEN}


def _add_class_position(weights: dict[str, torch.Tensor], format: Format) -> bool:
    """Where there is a class token but positions for the patches alone (DeiT III), add a zero for it; whether so."""
    token, positions = (format.source_key(f"embeddings.{name}")[0] for name in ("cls_token", "position_embeddings"))
    if token not in weights or positions not in weights:
        return False
    count = weights[positions].shape[1]
    if round(count**0.5) ** 2 != count:  # no square: one more than a square, for the class token
        return False
    weights[positions] = torch.cat((torch.zeros_like(weights[positions][:, :1]), weights[positions]), dim=1)
    return True
