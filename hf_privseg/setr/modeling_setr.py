"""SETR: a vision transformer encoder with a naive, PUP or MLA decoder, and a patch embedding that a key can encrypt.

Read from the top down, data flows as it does in the network: patch embeddings -> encoder -> decoder and auxiliary
heads -> `SetrForSemanticSegmentation`. The encoder's names follow Hugging Face's ViT, the decoders' follow
mmsegmentation. Paper: Zheng et al., "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective with
Transformers", CVPR 2021. The encryption: Kiya et al., J. Imaging 2022, 8(9), 233, section 3.2.
"""

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any, Self, Unpack, cast

import torch
from torch import nn
from torchvision.ops import StochasticDepth
from transformers import AutoImageProcessor, PreTrainedConfig, PreTrainedModel, ViTModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.utils.generic import ModelOutput, TransformersKwargs, can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import _CAN_RECORD_REGISTRY, capture_outputs, maybe_install_capturing_hooks

from .configuration_setr import SetrConfig
from .counts import counted
from .fast_layers import attention, conv_norm_relu, linear
from .model_card import write_model_card
from .model_encryption import EncryptableEmbedding
from .patch_grid import check_on_grid
from .stored_weights import check_stored_weights

# The image-segmentation pipeline looks the class name up here and logs an error where it is missing.
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES.setdefault("setr", "SetrForSemanticSegmentation")


def upsample(feature_map: torch.Tensor, scale_factor: int) -> torch.Tensor:
    """`(batch, channels, h, w)` float -> `(batch, channels, h * scale, w * scale)`, bilinear, corners not aligned."""
    return nn.functional.interpolate(feature_map, scale_factor=scale_factor, mode="bilinear", align_corners=False)


def segmentation_loss(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int = 255) -> torch.Tensor:
    """Mean cross-entropy over the pixels that are not ignored; zero where all are. A scalar, in float32.

    Args:
        logits: `(batch, labels, any, any)`, resized bilinearly to the size of the labels.
        labels: `(batch, height, width)` integers in [0, labels), or `ignore_index`.
        ignore_index: the label that does not count.

    Raises:
        ValueError: labels of another shape or no integers or, on the CPU alone, where it costs nothing, labels out of
            range. On a GPU torch stops at those with a device-side assert.
    """
    labels = _checked_labels(labels, logits, ignore_index)
    logits = nn.functional.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    total = nn.functional.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="sum")
    return total / (labels != ignore_index).sum().clamp(min=1)


def _checked_labels(labels: torch.Tensor, logits: torch.Tensor, ignore_index: int) -> torch.Tensor:
    """The labels as int64, once they are found to fit the logits."""
    batch, num_labels = logits.shape[:2]
    if labels.ndim != 3 or labels.shape[0] != batch:
        squeeze = "; labels.squeeze(1) removes the channel" if labels.ndim == 4 and labels.shape[1] == 1 else ""
        raise ValueError(f"expected labels of shape ({batch}, height, width), got {tuple(labels.shape)}{squeeze}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"expected labels that are class indices, int64, got {labels.dtype}; labels.long() converts")
    labels = labels.long()
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        strange = labels[((labels < 0) | (labels >= num_labels)) & (labels != ignore_index)]
        if len(strange):
            raise ValueError(
                f"expected labels in 0 .. {num_labels - 1}, or {ignore_index} where a pixel has no class, got "
                f"{strange.unique()[:8].tolist()}"
            )
    return labels


class RecordedModule(nn.Module):
    """A module whose output transformers records, by a forward hook that is a closure and cannot be pickled.

    Its state leaves that hook out. `SetrModel` installs the hooks anew when it is unpickled or copied.
    """

    @property
    def is_recorded(self) -> bool:
        """Whether the hook is installed."""
        return any(_records(hook) for hook in self._forward_hooks.values())

    def __getstate__(self) -> dict[str, Any]:
        hooks = {number: hook for number, hook in self._forward_hooks.items() if not _records(hook)}
        return {**self.__dict__, "_forward_hooks": OrderedDict(hooks)}


def _records(hook: Any) -> bool:
    return getattr(hook, "__module__", None) == maybe_install_capturing_hooks.__module__


# ----------------------------------------------------------------------------------------------------- embeddings


class SetrPatchEmbeddings(nn.Module):
    """The linear map E of the paper (section 3.2.1): the one place in the network that an encryption touches."""

    def __init__(self, config: SetrConfig):
        super().__init__()
        self.patch_size = config.patch_size
        self.num_channels = config.num_channels
        self.projection = nn.Conv2d(
            config.num_channels,
            config.hidden_size,
            kernel_size=config.patch_size,
            stride=config.patch_size,
            dtype=torch.float32,  # whatever dtype the model is built in: see `_keep_in_fp32_modules_strict`
        )

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, height, width)` in [-1, 1] -> `(batch, patches, hidden_size)`, patches row by row.

        Raises:
            ValueError: pixels are integers or of another shape, the channels differ from the configuration's, or a
                side is not a multiple of the patch size.
        """
        if not pixel_values.is_floating_point():
            raise ValueError(
                f"pixel_values must be floats in [-1, 1], got {pixel_values.dtype}; SetrImageProcessor makes them of "
                "images, and pixels / 127.5 - 1 of levels in 0..255."
            )
        if pixel_values.ndim != 4 or not pixel_values.numel():
            raise ValueError(
                "pixel_values must have the shape (batch, channels, height, width) and at least one image, got "
                f"{tuple(pixel_values.shape)}."
            )
        channels, height, width = pixel_values.shape[1:]
        if channels != self.num_channels:
            raise ValueError(
                f"pixel_values must have {counted(self.num_channels, 'channel')} (config.num_channels), "
                f"got {channels}."
            )
        check_on_grid(
            (height, width),
            self.patch_size,
            what="height x width of pixel_values",
            advice="SetrImageProcessor resizes images to it",
        )
        # Mixed-precision training would run this one layer in bf16, whose rounding an encryption spreads over the
        # whole block: it stays in the precision of its weight.
        with torch.autocast(pixel_values.device.type, enabled=False):
            embeddings = self.projection(pixel_values.to(self.projection.weight.dtype))
        return embeddings.flatten(2).transpose(1, 2)


class SetrEmbeddings(nn.Module):
    """Patch embeddings, the class token where there is one, and position embeddings for any grid."""

    def __init__(self, config: SetrConfig):
        super().__init__()
        self.config = config
        self.patch_embeddings = SetrPatchEmbeddings(config)
        rows, columns = config.grid_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size)) if config.use_cls_token else None
        num_positions = rows * columns + int(self.cls_token is not None)
        self.position_embeddings = nn.Parameter(torch.zeros(1, num_positions, config.hidden_size))
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def resized_position_embeddings(self, rows: int, columns: int) -> torch.Tensor:
        """The stored position embeddings resized to a grid: `(1, [1 +] rows * columns, hidden_size)`."""
        native_rows, native_columns = self.config.grid_size
        # One exported program serves every grid: it resizes always, which changes nothing on the native one.
        if not torch.compiler.is_exporting():
            # mmsegmentation compares the number of patches only, so 2 x 8 patches use the 4 x 4 grid as it is.
            same_count = rows * columns == native_rows * native_columns
            if (rows, columns) == (native_rows, native_columns) or (
                same_count and self.config.position_interpolation == "bilinear"
            ):
                return self.position_embeddings
        num_prefix = self.position_embeddings.shape[1] - native_rows * native_columns
        prefix, patches = self.position_embeddings.split([num_prefix, native_rows * native_columns], dim=1)
        patches = patches.reshape(1, native_rows, native_columns, -1).permute(0, 3, 1, 2)
        patches = nn.functional.interpolate(
            patches, size=(rows, columns), mode=self.config.position_interpolation, align_corners=False
        )
        return torch.cat((prefix, patches.flatten(2).transpose(1, 2)), dim=1)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """`(batch, channels, height, width)` in [-1, 1] -> `(batch, [1 +] patches, hidden_size)`."""
        patch = self.config.patch_size
        rows, columns = pixel_values.shape[-2] // patch, pixel_values.shape[-1] // patch
        embeddings = self.patch_embeddings(pixel_values).to(self.position_embeddings.dtype)
        if self.cls_token is not None:
            embeddings = torch.cat((self.cls_token.expand(embeddings.shape[0], -1, -1), embeddings), dim=1)
        return self.dropout(embeddings + self.resized_position_embeddings(rows, columns))


# -------------------------------------------------------------------------------------------------------- encoder


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain attention, `(batch, heads, tokens, head_dim)` x 3 -> `(batch, tokens, heads, head_dim)` and weights."""
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class SetrAttention(RecordedModule):
    """Multi-head self-attention through transformers' attention interface (SDPA unless asked otherwise)."""

    def __init__(self, config: SetrConfig):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.qkv_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(batch, tokens, hidden_size)` -> the same shape, and the attention weights where the backend gives them."""
        split_heads = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = (
            linear(projection, hidden_states).view(split_heads).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.config._attn_implementation == "sdpa" and not self.training:
            attended = attention(query, key, value, self.scaling)
            if attended is not None:
                return linear(self.o_proj, attended.reshape(hidden_states.shape)), None
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.config.attention_probs_dropout_prob if self.training else 0.0
        attended, weights = attend(self, query, key, value, None, dropout=dropout, scaling=self.scaling, **kwargs)
        return linear(self.o_proj, attended.reshape(hidden_states.shape)), weights


class SetrMLP(nn.Module):
    """The two-layer perceptron of a transformer layer."""

    def __init__(self, config: SetrConfig):
        super().__init__()
        self.activation_fn = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(batch, tokens, hidden_size)` -> the same shape."""
        return linear(self.fc2, self.activation_fn(linear(self.fc1, hidden_states)))


class SetrLayer(RecordedModule, GradientCheckpointingLayer):
    """A pre-norm transformer layer with stochastic depth."""

    def __init__(self, config: SetrConfig, drop_path_rate: float):
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SetrAttention(config)
        self.layernorm_after = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SetrMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.drop_path = StochasticDepth(drop_path_rate, mode="row")

    def forward(self, hidden_states: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> torch.Tensor:
        """`(batch, tokens, hidden_size)` -> the same shape."""
        attended, _ = self.attention(self.layernorm_before(hidden_states), **kwargs)
        hidden_states = hidden_states + self.drop_path(self.dropout(attended))
        transformed = self.mlp(self.layernorm_after(hidden_states))
        return hidden_states + self.drop_path(self.dropout(transformed))


# ------------------------------------------------------------------------------------------------- neck and heads


class ConvNormReLU(nn.Module):
    """Convolution without bias, batch norm, ReLU, at constant size."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        """`(batch, in_channels, h, w)` -> `(batch, out_channels, h, w)`, non-negative."""
        return conv_norm_relu(self.conv, self.bn, feature_map)


def make_classifier(config: SetrConfig, in_channels: int) -> nn.Conv2d:
    """`(batch, in_channels, h, w)` -> `(batch, labels, h, w)`."""
    return nn.Conv2d(in_channels, config.num_labels, kernel_size=1)


def normalize_channels(norm: nn.Module, feature_map: torch.Tensor) -> torch.Tensor:
    """LayerNorm over the channels of `(batch, channels, h, w)`; the result is laid out channels last."""
    return norm(feature_map.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SetrUpHead(nn.Module):
    """LayerNorm, then stages of convolution and up-sampling, then a 1x1 classifier: Naive, PUP and their auxiliaries.

    The classifier runs before the last up-sampling. The two commute, since bilinear weights sum to one, and the
    classifier has fewer channels to up-sample afterwards.
    """

    def __init__(self, config: SetrConfig, num_stages: int, kernel_size: int, scale_factor: int):
        super().__init__()
        self.scale_factor = scale_factor
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        widths = [config.hidden_size] + [config.decoder_hidden_size] * num_stages
        self.up_convs = nn.ModuleList(
            nn.Sequential(ConvNormReLU(width_in, width_out, kernel_size)) for width_in, width_out in pairwise(widths)
        )
        self.conv_seg = make_classifier(config, config.decoder_hidden_size)

    def forward(self, feature_maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Uses the last of several `(batch, hidden_size, h, w)` -> logits `(batch, labels, H, W)`."""
        feature_map = normalize_channels(self.norm, feature_maps[-1])
        for index, stage in enumerate(self.up_convs):
            if index:
                feature_map = upsample(feature_map, self.scale_factor)
            feature_map = stage(feature_map)
        return upsample(self.conv_seg(feature_map), self.scale_factor)


class SetrMLA(nn.Module):
    """Top-down aggregation of the levels; what it returns is ordered from the deepest level to the shallowest."""

    def __init__(self, config: SetrConfig):
        super().__init__()
        width, levels = config.decoder_hidden_size, config.num_levels
        self.channel_proj = nn.ModuleList(ConvNormReLU(config.hidden_size, width, 1) for _ in range(levels))
        self.feat_extract = nn.ModuleList(ConvNormReLU(width, width, 3) for _ in range(levels))

    def forward(self, feature_maps: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """`(batch, hidden_size, h, w)` per level, shallowest first -> `(batch, width, h, w)`, deepest first."""
        projected = [project(level) for project, level in zip(self.channel_proj, feature_maps, strict=True)]
        running, aggregated = None, []
        for level in reversed(projected):
            running = level if running is None else running + level
            aggregated.append(running)
        return tuple(extract(level) for extract, level in zip(self.feat_extract, aggregated, strict=True))


class SetrMLANeck(nn.Module):
    """LayerNorm of each level, then the aggregation."""

    def __init__(self, config: SetrConfig):
        super().__init__()
        self.norm = nn.ModuleList(
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) for _ in range(config.num_levels)
        )
        self.mla = SetrMLA(config)

    def forward(self, feature_maps: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """`(batch, hidden_size, h, w)` per level, shallowest first -> `(batch, width, h, w)`, deepest first."""
        levels = zip(self.norm, feature_maps, strict=True)
        return self.mla(tuple(normalize_channels(norm, feature_map) for norm, feature_map in levels))


class SetrMLAHead(nn.Module):
    """Two convolutions per level, all levels concatenated, a 1x1 classifier, and one up-sampling by 4."""

    def __init__(self, config: SetrConfig):
        super().__init__()
        self.up_convs = nn.ModuleList(
            nn.Sequential(
                ConvNormReLU(config.decoder_hidden_size, config.mla_hidden_size, 3),
                ConvNormReLU(config.mla_hidden_size, config.mla_hidden_size, 3),
            )
            for _ in range(config.num_levels)
        )
        self.conv_seg = make_classifier(config, config.mla_hidden_size * config.num_levels)

    def forward(self, feature_maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """`(batch, width, h, w)` per level, deepest first -> logits `(batch, labels, 4 h, 4 w)`."""
        streams = [stream(level) for stream, level in zip(self.up_convs, feature_maps, strict=True)]
        return upsample(self.conv_seg(torch.cat(streams, dim=1)), 4)


class SetrMLAAuxiliaryHead(nn.Module):
    """A classifier on one level of the neck."""

    def __init__(self, config: SetrConfig):
        super().__init__()
        self.conv_seg = make_classifier(config, config.decoder_hidden_size)

    def forward(self, feature_maps: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Uses the last of several `(batch, width, h, w)` -> logits `(batch, labels, h, w)`."""
        return self.conv_seg(feature_maps[-1])


def build_heads(config: SetrConfig) -> tuple[nn.Module | None, nn.Module, list[nn.Module]]:
    """The neck (or None), the decode head and the auxiliary heads of a decoder."""
    if config.decoder_type == "mla":
        return (
            SetrMLANeck(config),
            SetrMLAHead(config),
            [SetrMLAAuxiliaryHead(config) for _ in range(config.num_levels)],
        )
    num_stages, kernel_size, scale_factor = {"naive": (1, 1, 4), "pup": (4, 3, 2)}[config.decoder_type]
    auxiliary_stages: Any = config.auxiliary_num_stages  # an int by now
    return (
        None,
        SetrUpHead(config, num_stages, kernel_size, scale_factor),
        [SetrUpHead(config, auxiliary_stages, kernel_size, scale_factor=4) for _ in range(config.num_levels - 1)],
    )


# --------------------------------------------------------------------------------------------------------- models


@dataclass
class SetrModelOutput(ModelOutput):
    """What the encoder returns.

    Args:
        last_hidden_state: `(batch, [1 +] patches, hidden_size)`, after the last layer, without a final LayerNorm.
        feature_maps: one `(batch, hidden_size, rows, columns)` per layer in `config.out_indices`, class token dropped.
        hidden_states: the embeddings and each layer's output, where asked for.
        attentions: each layer's attention weights `(batch, heads, tokens, tokens)`, where asked for.
    """

    last_hidden_state: torch.FloatTensor | None = None
    feature_maps: tuple[torch.FloatTensor, ...] | None = None
    hidden_states: tuple[torch.FloatTensor, ...] | None = None
    attentions: tuple[torch.FloatTensor, ...] | None = None


@dataclass
class SetrSemanticSegmenterOutput(SemanticSegmenterOutput):
    """`SemanticSegmenterOutput` plus `auxiliary_logits`: one `(batch, labels, h, w)` per auxiliary head, or None."""

    auxiliary_logits: tuple[torch.FloatTensor, ...] | None = None


class SetrPreTrainedModel(EncryptableEmbedding, PreTrainedModel):
    """Loading and initialisation, for every SETR class."""

    config: SetrConfig
    base_model_prefix = "setr"
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012 - transformers declares these as lists
    supports_gradient_checkpointing = True
    _no_split_modules = ["SetrEmbeddings", "SetrLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": SetrLayer, "attentions": SetrAttention}  # noqa: RUF012
    _input_embed_layer = "patch_embeddings"
    # fp32 here makes an encryption cost nothing beside the error of a half-precision network.
    _keep_in_fp32_modules_strict = ["patch_embeddings"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SetrEmbeddings):
            init.trunc_normal_(module.position_embeddings, std=self.config.initializer_range)
            if module.cls_token is not None:
                init.trunc_normal_(module.cls_token, std=self.config.initializer_range)
        elif isinstance(module, ConvNormReLU):
            init.kaiming_normal_(module.conv.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, (SetrUpHead, SetrMLAHead, SetrMLAAuxiliaryHead)):
            init.normal_(module.conv_seg.weight, std=0.01)
            init.zeros_(module.conv_seg.bias)  # type: ignore[arg-type] # it has one

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, from safetensors alone: a pickled checkpoint is refused unless asked for.

        Raises:
            ValueError: the weights have other shapes than the configuration says. Nothing is allocated before.
        """
        options = {"use_safetensors": True} | kwargs
        check_stored_weights(cls, pretrained_model_name_or_path, options)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **options)

    def save_pretrained(
        self, save_directory: str | PathLike, is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """As in transformers, and writes or updates the generated part of the model card, README.md."""
        if self.is_remote_code():  # transformers notes the class that is saved alone, and not the encoder's
            self.config.auto_map = (getattr(self.config, "auto_map", None) or {}) | {
                "AutoModel": f"{__name__.rpartition('.')[2]}.{SetrModel.__name__}"
            }
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if is_main_process:
            write_model_card(self, save_directory)

    def _upload_modified_files(self, working_dir: str | PathLike, *args: Any, **kwargs: Any) -> Any:
        # transformers has put the card of the repository, or an empty one, over the card that save_pretrained wrote.
        write_model_card(self, working_dir)
        return super()._upload_modified_files(working_dir, *args, **kwargs)


class SetrModel(SetrPreTrainedModel):
    """The SETR encoder: a ViT without a final LayerNorm, since each head normalises its own input."""

    def __init__(self, config: SetrConfig):
        super().__init__(config)
        self.embeddings = SetrEmbeddings(config)
        depth = config.num_hidden_layers
        rates = [config.drop_path_rate * index / max(depth - 1, 1) for index in range(depth)]
        self.layers = nn.ModuleList(SetrLayer(config, rate) for rate in rates)
        self.post_init()
        # Hooks are otherwise installed at the first call, which torch.compile(fullgraph=True) cannot trace.
        maybe_install_capturing_hooks(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the state of a pickled or copied model, and install the hooks that it leaves out."""
        super().__setstate__(state)
        # In a new process no constructor has told transformers yet what this class records.
        dict.__setitem__(_CAN_RECORD_REGISTRY, str(type(self)), self._can_record_outputs)
        self._output_capturing_hooks_installed = any(layer.is_recorded for layer in self.layers)
        maybe_install_capturing_hooks(self)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> SetrModelOutput:
        """`(batch, channels, height, width)` in [-1, 1], plain or encrypted -> `SetrModelOutput`.

        Raises:
            ValueError: the channels differ from the configuration's, or a side is not a multiple of the patch size.
        """
        patch = self.config.patch_size
        grid = (pixel_values.shape[-2] // patch, pixel_values.shape[-1] // patch)
        hidden_states = self.embeddings(pixel_values)
        num_prefix = int(bool(self.config.use_cls_token))
        feature_maps = []
        for index, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states, **kwargs)
            if index in (self.config.out_indices or ()):
                feature_maps.append(hidden_states[:, num_prefix:].transpose(1, 2).unflatten(2, grid))
        return SetrModelOutput(last_hidden_state=hidden_states, feature_maps=tuple(feature_maps))


class SetrForSemanticSegmentation(SetrPreTrainedModel):
    """SETR with its decoder: pixels in, one score a class out (at 1/4 of the input's size; `pup` at its full size)."""

    def __init__(self, config: SetrConfig):
        # Encrypting a model writes to its configuration: another model made from the same one must not notice.
        config = deepcopy(config)
        super().__init__(config)
        self.setr = SetrModel(config)
        self.neck, self.decode_head, auxiliaries = build_heads(config)
        self.auxiliary_head = nn.ModuleList(auxiliaries) if config.use_auxiliary_head else None
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        output_auxiliary_logits: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SetrSemanticSegmenterOutput:
        """`(batch, channels, height, width)` in [-1, 1] -> logits `(batch, labels, H, W)`, and the loss given labels.

        Args:
            pixel_values: plain or encrypted pixels, sides multiples of the patch size.
            labels: `(batch, height, width)` int64 in [0, num_labels), or `config.semantic_loss_ignore_index`. With
                them the loss is the cross-entropy at the labels' size plus the weighted auxiliary losses.
            output_auxiliary_logits: whether the auxiliary heads' logits are computed and returned without labels too.

        Raises:
            ValueError: the channels differ from the configuration's, or a side is not a multiple of the patch size.
        """
        outputs = self.setr(pixel_values, **kwargs)
        features = outputs.feature_maps if self.neck is None else self.neck(outputs.feature_maps)
        logits = self.decode_head(features)
        auxiliary_logits = None
        if self.auxiliary_head is not None and (labels is not None or output_auxiliary_logits):
            auxiliary_logits = tuple(
                head((feature,)) for head, feature in zip(self.auxiliary_head, features, strict=False)
            )
        loss = None
        if labels is not None:
            loss = self.segmentation_loss(logits, labels)
            for auxiliary in auxiliary_logits or ():
                loss = loss + self.config.auxiliary_loss_weight * self.segmentation_loss(auxiliary, labels)
        return SetrSemanticSegmenterOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            auxiliary_logits=auxiliary_logits,
        )

    def segmentation_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """`segmentation_loss` with the configuration's ignore index."""
        return segmentation_loss(logits, labels, cast(int, self.config.semantic_loss_ignore_index))

    @classmethod
    def from_vit(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        **config_kwargs: Any,
    ) -> Self:
        """A SETR with the encoder of a pretrained Hugging Face ViT, in float32, and a decoder to be trained.

        Every SETR takes pixels in [-1, 1]. The statistics that the ViT was trained with are folded into its patch
        embedding, exactly up to rounding, so its features stay what they were. The ViT's final LayerNorm becomes the
        start of the norm that reads the last layer. For other channels than the ViT's, `with_channels` makes the start
        of the patch embedding.

        Args:
            pretrained_model_name_or_path: a `ViTModel` checkpoint: a folder, or an id on the Hub.
            image_mean: the mean that the ViT was trained with, one a channel, for pixels in [0, 1]. None reads it, and
                `image_std`, from the checkpoint's preprocessor_config.json.
            image_std: the standard deviation, likewise.
            config_kwargs: fields of `SetrConfig`, for example `decoder="pup"`, `id2label=...`.

        Raises:
            OSError: there is no such checkpoint, or no preprocessor configuration while a statistic is not given.
        """
        vit = ViTModel.from_pretrained(pretrained_model_name_or_path, add_pooling_layer=False, dtype=torch.float32)
        if image_mean is None or image_std is None:
            statistics = AutoImageProcessor.from_pretrained(pretrained_model_name_or_path)
            image_mean, image_std = image_mean or statistics.image_mean, image_std or statistics.image_std
        fields = vit_fields(vit.config) | {"position_interpolation": "bicubic"}
        model = cls(SetrConfig(**fields | config_kwargs))
        model.load_vit(vit.state_dict(), torch.tensor(image_mean), torch.tensor(image_std))
        return model

    @torch.no_grad()
    def load_vit(self, weights: dict[str, torch.Tensor], mean: torch.Tensor, std: torch.Tensor) -> None:
        """Takes the encoder's weights, in place.

        Args:
            weights: state dict of a `ViTModel` of the same sizes, its channels aside, without pooler.
            mean: `(channels,)`, which the ViT was trained with, for pixels in [0, 1].
            std: `(channels,)`, likewise.
        """
        weights = dict(weights)
        final_norm = {name: weights.pop(f"layernorm.{name}") for name in ("weight", "bias")}
        if not self.config.use_cls_token:
            del weights["embeddings.cls_token"]
            weights["embeddings.position_embeddings"] = weights["embeddings.position_embeddings"][:, 1:]
        weight_name, bias_name = (f"embeddings.patch_embeddings.projection.{name}" for name in ("weight", "bias"))
        weights[weight_name], weights[bias_name] = fold_statistics(weights[weight_name], weights[bias_name], mean, std)
        weights[weight_name] = with_channels(weights[weight_name], self.config.num_channels)
        self.setr.load_state_dict(weights)
        heads: Any = self
        last_norm = heads.decode_head.norm if heads.neck is None else heads.neck.norm[-1]
        last_norm.load_state_dict(final_norm)


def fold_statistics(
    weight: torch.Tensor, bias: torch.Tensor, mean: torch.Tensor, std: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A patch embedding for pixels normalised by mean and std -> the same map for pixels in [-1, 1].

    With v in [0, 1] and u = 2 v - 1, (v - mean) / std = u / (2 std) + (1/2 - mean) / std, channel by channel.

    Args:
        weight: `(hidden_size, channels, patch_size, patch_size)` float.
        bias: `(hidden_size,)` float.
        mean: `(channels,)`, for pixels in [0, 1].
        std: `(channels,)`, likewise.

    Returns:
        Weight and bias in the dtype that came, computed in float64.
    """
    mean, std = (statistic.to(weight.device, torch.float64) for statistic in (mean, std))
    folded = weight.double() / (2 * std).view(1, -1, 1, 1)
    offset = (weight.double().sum(dim=(2, 3)) * ((0.5 - mean) / std)).sum(dim=1)
    return folded.to(weight.dtype), (bias.double() + offset).to(bias.dtype)


def with_channels(weight: torch.Tensor, num_channels: int) -> torch.Tensor:
    """A patch embedding for pixels in [-1, 1] -> a start for training on images of other channels.

    For one channel the weights of all channels are summed: a grey image then gives what it gives with its grey in all
    channels. For other numbers the channels are repeated in turn, and scaled so that the sum over them stays.

    Args:
        weight: `(hidden_size, channels, patch_size, patch_size)` float.
        num_channels: of the result.
    """
    count = weight.shape[1]
    if num_channels == count:
        return weight
    if num_channels == 1:
        return weight.sum(dim=1, keepdim=True)
    return weight[:, [index % count for index in range(num_channels)]] * (count / num_channels)


def vit_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """Configuration of a ViT, or of a model like it -> those of its fields that `SetrConfig` has too."""
    names = (
        "hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act hidden_dropout_prob qkv_bias "
        "attention_probs_dropout_prob initializer_range layer_norm_eps image_size patch_size num_channels"
    )
    return {name: getattr(config, name) for name in names.split() if hasattr(config, name)}


__all__ = [
    "SetrForSemanticSegmentation",
    "SetrModel",
    "SetrModelOutput",
    "SetrPreTrainedModel",
    "SetrSemanticSegmenterOutput",
    "fold_statistics",
    "segmentation_loss",
    "vit_fields",
    "with_channels",
]
