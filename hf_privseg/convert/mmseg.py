"""SETR as mmsegmentation trains it: naive, PUP and MLA (Zheng et al., CVPR 2021).

The decoders' names are ours already. Sizes come from shapes; what no shape tells comes from the configuration that
such files hold as the text of a Python file. It is parsed for its literals and never run.
"""

import ast
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from ..setr.config_checks import MAX_LABELS
from ..setr.errors import ConversionError
from ..setr.setting_checks import MAX_CHANNELS
from .formats import Format, Weights, encoder_fields
from .loading import Checkpoint

_UP_CONV = "decode_head.up_convs.0.0.conv.weight"
_PROJECTION = "neck.mla.channel_proj.0.conv.weight"

_MAX_CONFIG_CHARACTERS = 2**20

_TOKEN, _POSITIONS = "setr.embeddings.cls_token", "setr.embeddings.position_embeddings"

FORMAT = Format(
    name="mmseg",
    title="mmsegmentation's SETR",
    marker=r"^backbone\.layers\.\d+\.attn\.attn\.in_proj_weight$",
    layer=r"backbone\.layers\.(\d+)\.",
    our_prefix="setr.",
    packs_qkv=True,
    renamed=(
        (r"^setr\.embeddings\.patch_embeddings\.", "backbone.patch_embed."),
        (r"^setr\.embeddings\.position_embeddings$", "backbone.pos_embed"),
        (r"^setr\.embeddings\.cls_token$", "backbone.cls_token"),
        (r"^setr\.", "backbone."),
        (r"\.layernorm_before\.", ".ln1."),
        (r"\.layernorm_after\.", ".ln2."),
        (r"\.attention\.[qkv]_proj\.", ".attn.attn.in_proj_"),
        (r"\.attention\.o_proj\.", ".attn.attn.out_proj."),
        (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
        (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    ),
)


def read_config(meta: dict[str, Any]) -> dict[str, object]:
    """What the checkpoint says of its making -> its configuration; empty where it says nothing.

    Args:
        meta: `config` (until mmsegmentation 0.30) or `cfg` (since 1.0) is the text of a Python file; `settings` are
            those of a configuration file, which count more.

    Raises:
        ConversionError: the text is no Python, or too long or too deeply nested.
    """
    if "settings" in meta:
        return section(meta, "settings")
    text = meta.get("cfg", meta.get("config"))
    if not isinstance(text, str):
        return {}
    try:
        if len(text) > _MAX_CONFIG_CHARACTERS:
            raise ValueError(f"{len(text)} characters, more than {_MAX_CONFIG_CHARACTERS}")
        found = {}
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                found[node.targets[0].id] = _literal(node.value)
        return found
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ConversionError(
            f"expected the text of a configuration in the checkpoint's meta, got {error or type(error).__name__}"
        ) from error


def _literal(node: ast.expr) -> Any:
    """`dict(a=1)`, lists, tuples, dictionaries and constants -> the value; None for anything else."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {keyword.arg: _literal(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        return {key.value: _literal(value) for key, value in pairs if isinstance(key, ast.Constant)}
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def decoder_of(weights: Weights) -> str:
    """The decoder by its weights: "naive", "pup" or "mla".

    Raises:
        ConversionError: it is none of them.
    """
    if _PROJECTION in weights:
        return "mla"
    kernel = weights[_UP_CONV].shape[-1] if _UP_CONV in weights and weights[_UP_CONV].ndim == 4 else None
    if kernel not in (1, 3):
        heads = sorted({key.split(".")[0] for key in weights} - {"backbone"})
        raise ConversionError(
            f"expected a decoder of SETR ({_PROJECTION}, or {_UP_CONV} of 1 x 1 or 3 x 3), got {heads} without it; "
            "other decoders are not supported"
        )
    return {1: "naive", 3: "pup"}[kernel]


def read_fields(checkpoint: Checkpoint, num_attention_heads: int | None) -> dict[str, Any]:
    """A checkpoint -> fields of `SetrConfig`.

    Raises:
        ConversionError: it is no SETR of a kind that ours can represent.
    """
    weights, config = checkpoint.weights, read_config(checkpoint.meta)
    model = section(config, "model")
    backbone = section(model, "backbone")
    if section(model, "decode_head").get("align_corners"):
        raise ConversionError(
            "expected a SETR that up-samples with align_corners=False, as mmsegmentation's models do, got one with "
            "align_corners=True, which ours cannot represent"
        )
    decoder = decoder_of(weights)
    stages = _count(weights, "auxiliary_head.0.up_convs.")
    fields = {
        **encoder_fields(weights, FORMAT, num_attention_heads or _setting(backbone, "num_heads")),
        "decoder_type": decoder,
        "num_labels": _leading_size(weights, "decode_head.conv_seg.weight"),
        "decoder_hidden_size": _leading_size(weights, _PROJECTION if decoder == "mla" else _UP_CONV),
        "use_auxiliary_head": any(key.startswith("auxiliary_head.") for key in weights),
        "position_interpolation": _setting(backbone, "interpolate_mode") or "bilinear",
        "layer_norm_eps": _setting(section(backbone, "norm_cfg"), "eps") or 1e-6,
        "out_indices": _setting(backbone, "out_indices"),
        "use_cls_token": _setting(backbone, "with_cls_token"),
    }
    if decoder == "mla":
        fields["mla_hidden_size"] = _leading_size(weights, _UP_CONV)
    if stages:
        fields["auxiliary_num_stages"] = stages
    return fields


def check_levels(weights: Weights, out_indices: list[int]) -> None:
    """Refuse another number of tapped layers than the decoder and the auxiliary heads of the checkpoint read.

    Raises:
        ConversionError: says how many there must be.
    """
    auxiliaries = _count(weights, "auxiliary_head.")
    levels = _count(weights, "neck.norm.") or (auxiliaries + 1 if auxiliaries else len(out_indices))
    if levels != len(out_indices):
        raise ConversionError(
            f"expected out_indices of the {levels} layers that the checkpoint's heads read, got {out_indices}; the "
            "configuration that it was trained with names them: give it (--config CONFIG.py), or the layers "
            "(--out-indices)"
        )


def without_unused_tokens(
    weights: Weights, format: Format, use_cls_token: bool
) -> tuple[dict[str, torch.Tensor], Format, list[str]]:
    """Weights -> (those for an encoder with or without a class token, the format that knows it as unused, notes).

    mmsegmentation keeps the class token and its position embedding also where (MLA) it drops them before the first
    layer.
    """
    if use_cls_token or format.source_key(_POSITIONS)[0] not in weights:
        return dict(weights), format, []
    token, positions = format.source_key(_TOKEN)[0], format.source_key(_POSITIONS)[0]
    reason = "this encoder drops the class token before its first layer"
    format = replace(format, unused=(*format.unused, (f"^{re.escape(token)}$", reason)))
    return {**weights, positions: weights[positions][:, 1:]}, format, ["the class token's position embedding left out"]


def statistics_of(config: dict[str, Any]) -> tuple[list[float], list[float]] | None:
    """The configuration -> (mean, standard deviation) for pixels in 0..255; None where it has none.

    Raises:
        ConversionError: one of them is something else than a list of numbers.
    """
    model = section(config, "model")
    for settings, name in ((model, "data_preprocessor"), (config, "data_preprocessor"), (config, "img_norm_cfg")):
        found = section(settings, name)
        if False in (found.get("bgr_to_rgb"), found.get("to_rgb")):
            raise ConversionError(
                "expected a model of RGB images, got one whose configuration leaves them as BGR (bgr_to_rgb or to_rgb "
                "is False), which SETR's processor does not make"
            )
        mean, std = numbers(found, "mean"), numbers(found, "std")
        if mean and std:
            return mean, std
    return None


def classes_of(meta: dict[str, Any]) -> tuple[list[str] | None, list[list[int]] | None]:
    """(class names, palette) of the checkpoint's meta; None for what it lacks.

    Raises:
        ConversionError: the names are no texts, or the palette no colours of three levels in 0..255.
    """
    described = section(meta, "dataset_meta") or _described_in(read_config(meta))
    names = described.get("classes") or meta.get("CLASSES")
    palette = described.get("palette") or meta.get("PALETTE")
    if names and not (_is_list(names, MAX_LABELS) and all(isinstance(name, str) for name in names)):
        raise ConversionError(f"expected the checkpoint's class names to be a list of texts, got {names!r:.80}")
    if palette and not (_is_list(palette, MAX_LABELS) and all(map(_is_colour, palette))):
        raise ConversionError(
            f"expected the checkpoint's palette to be a list of colours, three integers in 0..255, got {palette!r:.80}"
        )
    return (
        [name.strip() for name in names] if names else None,
        [list(colour) for colour in palette] if palette else None,
    )


def windows_of(config: Mapping[str, object]) -> tuple[int, int] | None:
    """The configuration -> (side, stride) of the square windows that the model was evaluated with; None for none."""
    test = section(section(config, "model"), "test_cfg") or section(config, "test_cfg")
    side, stride = (_equal_sides(test.get(name)) for name in ("crop_size", "stride"))
    return (side, stride) if test.get("mode") == "slide" and side and stride else None


def _equal_sides(value: object) -> int | None:
    """512 or [512, 512] -> 512; None for anything else."""
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        value = value[0]
    return value if type(value) is int and value > 0 else None


def _described_in(config: Mapping[str, object]) -> dict[str, Any]:
    """The configuration -> the lists of class names and colours of its training set; empty where it has none."""
    for names in (("train_dataloader", "dataset", "metainfo"), ("data", "train")):  # since 1.0, and before
        found: Any = config
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        if isinstance(found, dict) and isinstance(found.get("classes"), list):
            return {name: found.get(name) for name in ("classes", "palette")}
    return {}


def section(settings: Mapping[str, object], name: str) -> dict[str, Any]:
    """The dictionary `name` among settings that anyone may have written; empty where there is none.

    Raises:
        ConversionError: something else has this name.
    """
    found = settings.get(name)
    if found is not None and not isinstance(found, dict):
        raise ConversionError(f"expected {name} in the source's configuration to be a dictionary, got {found!r:.80}")
    return found or {}


def numbers(settings: Mapping[str, Any], name: str) -> list[float] | None:
    """The list `name` of numbers, one a channel, among such settings; None where there is none.

    Raises:
        ConversionError: something else has this name.
    """
    found = settings.get(name)
    if found is None:
        return None
    if not _is_list(found, MAX_CHANNELS) or not all(_is_level(value) for value in found):
        raise ConversionError(
            f"expected {name} in the source's configuration to be a list of numbers, one a channel, got {found!r:.80}"
        )
    return [float(value) for value in found]


_SETTINGS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "num_heads": ("an int of 1 or more", lambda value: type(value) is int and value > 0),
    "interpolate_mode": ('"bilinear" or "bicubic"', lambda value: value in ("bilinear", "bicubic")),
    "eps": ("a positive number", lambda value: type(value) in (int, float) and 0 < value <= 1),
    "out_indices": (
        "a layer number, or a list of them",
        lambda value: all(type(index) is int for index in (value if _is_list(value, 2**10) else [value])),
    ),
    "with_cls_token": ("True or False", lambda value: isinstance(value, bool)),
}


def _setting(settings: Mapping[str, object], name: str) -> Any:
    """The value `name`, of the type in `_SETTINGS`; None where there is none."""
    value = settings.get(name)
    expected, holds = _SETTINGS[name]
    if value is not None and not holds(value):
        raise ConversionError(f"expected {name} in the source's configuration to be {expected}, got {value!r:.80}")
    return [value] if name == "out_indices" and type(value) is int else value


def _is_list(value: object, max_length: int) -> bool:
    return isinstance(value, list | tuple) and len(value) <= max_length


def _is_level(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e6  # type: ignore[arg-type]


def _is_colour(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) == 3 and all(type(v) is int and 0 <= v <= 255 for v in value)


def _count(keys: Iterable[str], prefix: str) -> int:
    """How many modules a list of them has: the numbers after the prefix."""
    return len({key.removeprefix(prefix).split(".")[0] for key in keys if key.startswith(prefix)})


def _leading_size(weights: Weights, key: str) -> int:
    if key not in weights or not weights[key].ndim:
        raise ConversionError(f"expected {key}, which tells a size of the decoder, got a checkpoint without it")
    return weights[key].shape[0]
