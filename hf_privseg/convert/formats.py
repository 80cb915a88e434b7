"""What a format of checkpoints is: a table of names. How weights are taken by it, so that none is lost in silence.

The tables run from our names to the source's. Every weight that a model needs is asked for by its source's name, and
what nobody asked for is either known to be of no use, or an error.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import torch

from ..setr.errors import ConversionError

# The heads of the published ViTs: tiny, small, base, large, huge, giant (DINOv2). No shape tells their number.
KNOWN_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16, 1536: 24}
NO_GATES = "SETR has no gated MLP (SwiGLU)"
_SHOWN = 6  # names in one line of a message

Weights = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Format:
    """The names of one format of checkpoints.

    Args:
        name: what the command line calls it.
        title: what people call it.
        marker: pattern of a key that tells the format, searched for.
        layer: pattern of the keys of a transformer layer, whose group is the layer's number.
        renamed: (pattern, replacement), one after the other: our name -> the source's. Ours are those of a `ViTModel`
            of transformers 5 (`embeddings.`, `layers.N.`, `layernorm.`), for mmsegmentation those of a whole SETR.
        our_prefix: what our encoder's names begin with.
        prefixes: what all of the source's encoder may be wrapped in, for example `vit.` in a classifier.
        packs_qkv: whether query, key and value are one weight.
        layer_scales: (scale, linear map that it follows) of each layer, `{}` for the layer's number.
        unused: (pattern, reason) of keys that SETR has no place for.
        refused: (pattern, reason) of keys of variants that SETR cannot represent.
        prefix: which one of the prefixes a checkpoint has; `located` finds it.
    """

    name: str
    title: str
    marker: str
    layer: str
    renamed: tuple[tuple[str, str], ...]
    our_prefix: str = ""
    prefixes: tuple[str, ...] = ("",)
    packs_qkv: bool = False
    layer_scales: tuple[tuple[str, str], ...] = ()
    unused: tuple[tuple[str, str], ...] = ()
    refused: tuple[tuple[str, str], ...] = ()
    prefix: str = ""

    def matches(self, keys: Iterable[str]) -> bool:
        """Whether a checkpoint with these keys is of this format."""
        return any(re.search(self.marker, key) for key in keys)

    def located(self, keys: Iterable[str]) -> Self:
        """The format with the prefix that these keys have."""
        keys = set(keys)
        inner = self.source_key(f"{self.our_prefix}embeddings.patch_embeddings.projection.weight")[0]
        return replace(self, prefix=next((prefix for prefix in self.prefixes if prefix + inner in keys), ""))

    def source_key(self, name: str) -> tuple[str, int | None]:
        """Our name -> (the source's, which third of it: 0 query, 1 key, 2 value; None for all of it)."""
        match = re.search(r"\.([qkv])_proj\.", name) if self.packs_qkv else None
        for pattern, replacement in self.renamed:
            name = re.sub(pattern, replacement, name)
        return self.prefix + name, "qkv".index(match[1]) if match else None

    def depth(self, keys: Iterable[str]) -> int:
        """The number of transformer layers, by the highest number among the keys; one of 5 digits is no layer's."""
        found = [re.match(re.escape(self.prefix) + self.layer, key) for key in keys]
        return max((int(match[1]) + 1 for match in found if match and len(match[1]) < 5), default=0)


def collect(
    source: Weights, expected: Mapping[str, torch.Size], format: Format
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The source's weights -> (ours by our names and of our shapes, {unused key: reason}).

    Args:
        source: every weight of the checkpoint.
        expected: name -> shape of everything that we need.
        format: the source's names.

    Raises:
        ConversionError: a weight is missing, of another shape, or of no known use; all of them are counted and the
            first ones named, as the source names them.
    """
    taken, problems = {}, _Problems()
    used = set()
    for name, shape in expected.items():
        key, part = format.source_key(name)
        used.add(key)
        if key not in source:
            problems.missing.add(key)
            continue
        wanted = shape if part is None else torch.Size((3 * shape[0], *shape[1:]))
        if source[key].shape != wanted:
            problems.misshapen.add(f"{key} {list(source[key].shape)} instead of {list(wanted)}")
            continue
        taken[name] = source[key] if part is None else source[key].chunk(3)[part].clone()
    unused = {}
    for key in sorted(set(source) - used):
        reason = next((reason for pattern, reason in format.unused if re.search(pattern, key)), None)
        if reason is None:
            problems.unexpected.add(key)
        else:
            unused[key] = reason
    problems.refuse(format)
    return taken, unused


@dataclass
class _Problems:
    missing: set[str] = field(default_factory=set)
    misshapen: set[str] = field(default_factory=set)
    unexpected: set[str] = field(default_factory=set)

    def refuse(self, format: Format) -> None:
        """Raise if there is any problem; nothing is converted in part."""
        found = []
        for kind, keys in vars(self).items():
            if keys:
                rest = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
                found.append(f"{len(keys)} {kind} ({', '.join(sorted(keys)[:_SHOWN])}{rest})")
        if found:
            raise ConversionError(
                f"expected the weights of {format.title}, got {'; '.join(found)}; nothing was converted. The file is "
                "damaged or incomplete, or the model a variant that SETR cannot represent"
            )


def refuse_variants(weights: Weights, format: Format) -> None:
    """Refuse a model of the format that SETR cannot represent, with the reason.

    Raises:
        ConversionError: names a key.
    """
    into, out_of = (format.source_key(f"layers.0.mlp.{name}.weight")[0] for name in ("fc1", "fc2"))
    packed = into in weights and out_of in weights and weights[into].shape[0] == 2 * weights[out_of].shape[-1]
    for pattern, reason in (*format.refused, *(((re.escape(into), NO_GATES),) if packed else ())):
        key = next((key for key in sorted(weights) if re.search(pattern, key)), None)
        if key is not None:
            raise ConversionError(
                f"expected {format.title} that SETR can represent, got {key}: {reason}; take a variant without it"
            )


def fold_layer_scales(source: Weights, depth: int, format: Format) -> dict[str, torch.Tensor]:
    """Weights with LayerScale -> the same network without: each scale goes into the linear map before it.

    diag(s) (W x + b) = (diag(s) W) x + diag(s) b, computed in float64.

    Raises:
        ConversionError: a scale is missing, or of another size than the linear map's output.
    """
    folded, problems = dict(source), _Problems()
    for index in range(depth):
        for scale_name, linear_name in format.layer_scales:
            key = format.prefix + scale_name.format(index)
            scale = folded.pop(key, None)
            if scale is None:
                problems.missing.add(key)
                continue
            for name in (f"{format.prefix}{linear_name.format(index)}.{kind}" for kind in ("weight", "bias")):
                if name not in folded:
                    continue  # `collect` names it
                if scale.shape != folded[name].shape[:1]:
                    problems.misshapen.add(f"{key} {list(scale.shape)} instead of {list(folded[name].shape[:1])}")
                    continue
                values = folded[name].double()
                scaled = values * scale.double().view(-1, *[1] * (values.ndim - 1))
                folded[name] = scaled.to(folded[name].dtype)
    problems.refuse(format)
    return folded


def encoder_fields(source: Weights, format: Format, num_attention_heads: int | None) -> dict[str, object]:
    """The encoder's sizes by the shapes of its weights -> fields of `SetrConfig`.

    Args:
        source: the checkpoint's weights.
        format: its names, with the prefix found.
        num_attention_heads: None takes those of the published ViT of this hidden size.

    Raises:
        ConversionError: a weight that tells a size is missing or of no such shape; the position embeddings are no
            square grid; or the number of heads is neither given nor known.
    """

    def shape(name: str, ndim: int) -> torch.Size:
        key = format.source_key(format.our_prefix + name)[0]
        if key not in source or source[key].ndim != ndim:
            found = f"one of shape {list(source[key].shape)}" if key in source else f"{len(source)} keys without it"
            raise ConversionError(f"expected {key}, which tells a size of the model, got {found}")
        return source[key].shape

    hidden_size, num_channels, patch_size, _ = shape("embeddings.patch_embeddings.projection.weight", 4)
    positions = shape("embeddings.position_embeddings", 3)[1] - 1
    grid = round(positions**0.5)
    if grid * grid != positions:
        raise ConversionError(
            f"expected position embeddings for a class token and a square grid, got {positions + 1} of them; other "
            "grids are not supported"
        )
    heads = num_attention_heads or KNOWN_HEADS.get(hidden_size)
    if heads is None:
        raise ConversionError(
            f"the number of attention heads cannot be told from shapes, and a ViT of hidden size {hidden_size} is not "
            f"among the published ones ({', '.join(map(str, KNOWN_HEADS))}); give num_attention_heads "
            "(--num-attention-heads)"
        )
    query_bias = format.source_key(f"{format.our_prefix}layers.0.attention.q_proj.bias")[0]
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": format.depth(source),
        "num_attention_heads": heads,
        "intermediate_size": shape("layers.0.mlp.fc1.weight", 2)[0],
        "image_size": grid * patch_size,
        "patch_size": patch_size,
        "num_channels": num_channels,
        "qkv_bias": query_bias in source,
    }
