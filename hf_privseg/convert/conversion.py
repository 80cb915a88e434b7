"""Checkpoints from elsewhere become SETR models: mmsegmentation's SETR, and ViT, DeiT, DINOv2 and timm encoders.

Each format is a table of names in a file of its own. A weight that is missing, of another shape or of no known use
stops the conversion. Every SETR takes pixels in [-1, 1]: the statistics that the source was trained with are folded
into its patch embedding.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from ..setr.class_names import void_label
from ..setr.configuration_setr import SetrConfig
from ..setr.errors import ConversionError
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.modeling_setr import SetrForSemanticSegmentation, SetrModel, fold_statistics
from . import encoders, mmseg
from .card import Provenance
from .formats import Format, collect
from .labels import Classes, classes_for
from .loading import Checkpoint, read_checkpoint
from .mmseg_config import read_config_file
from .normalization import Statistics, find_statistics

FORMATS = {format.name: format for format in (mmseg.FORMAT, *encoders.FORMATS)}


@dataclass
class Converted:
    """A converted checkpoint.

    Args:
        model: in float32, plain, in evaluation mode.
        processor: its image processor.
        provenance: where the weights came from and what was done to them.
        windows: (side, stride) of the windows that the source was evaluated with, as its configuration says.
    """

    model: SetrForSemanticSegmentation
    processor: SetrImageProcessor
    provenance: Provenance
    windows: tuple[int, int] | None = None

    def save_pretrained(self, folder: str | Path) -> None:
        """Model, processor, and the model card with a section on where the weights came from -> `folder`."""
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)
        self.provenance.append_to(Path(folder))


def convert_checkpoint(
    source: str | Path | Checkpoint,
    *,
    format: str = "auto",
    decoder: str | None = None,
    num_attention_heads: int | None = None,
    labels: str | None = None,
    image_mean: Sequence[float] | None = None,
    image_std: Sequence[float] | None = None,
    config_file: str | Path | None = None,
    **config_kwargs: Any,
) -> Converted:
    """A checkpoint from elsewhere -> a SETR model in float32, with its processor.

    Args:
        source: a file (.safetensors, or a pickle of PyTorch's, which is read without running it), a folder as
            transformers writes it, or what `read_checkpoint` gave, whose tensors the model may take over.
        format: `"mmseg"`, `"vit"` (DeiT too), `"dinov2"`, `"timm"` (and the files of DeiT, MAE and DINOv2), or
            `"auto"`, which goes by the names of the weights.
        decoder: of a source that is an encoder alone: `"naive"` (the default), `"pup"` or `"mla"`, to be trained.
        num_attention_heads: None reads the source's configuration, or takes those of the published ViT of its size.
        labels: `"ade20k"`, `"cityscapes"`, or the path of a file with the names of the classes, in a form that
            `catalog.class_files` lists. None takes the names that the source brings, or those of the data set that
            has as many classes.
        image_mean: the mean that the source was trained with, one a channel, for pixels in [0, 1]. None reads the
            source's configuration, or takes ImageNet's (0.485, 0.456, 0.406).
        image_std: the standard deviation, likewise (0.229, 0.224, 0.225).
        config_file: of a source of mmsegmentation's, the configuration that it was trained with, in place of the text
            in the source, as `mmseg_config.read_config_file` reads it.
        config_kwargs: fields of `SetrConfig` that replace what was found, for example `out_indices`.

    Raises:
        FileNotFoundError: there is no such source, or no weights in it.
        ConversionError: a pickle that is not safe; an unknown format; a weight that is missing, of another shape or of
            no known use; a variant that SETR cannot represent; settings that do not fit the source.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(Path(source))
    found = _find_format(checkpoint, format)
    if config_file is not None:
        if found.name != mmseg.FORMAT.name:
            raise ConversionError(
                f"expected a configuration (--config) for a checkpoint of mmsegmentation alone, got {config_file} for "
                f"{found.title}; leave it out"
            )
        checkpoint = replace(checkpoint, meta=checkpoint.meta | {"settings": read_config_file(Path(config_file))})
    convert = _segmenter if found.name == mmseg.FORMAT.name else _encoder
    settings = _Settings(decoder, num_attention_heads, labels, image_mean, image_std, config_kwargs)
    return convert(checkpoint, found, settings)


@dataclass(frozen=True)
class _Settings:
    """The arguments of `convert_checkpoint` that say how."""

    decoder: str | None
    num_attention_heads: int | None
    labels: str | None
    image_mean: Sequence[float] | None
    image_std: Sequence[float] | None
    config_kwargs: dict[str, Any]

    def statistics(self, checkpoint: Checkpoint, config: SetrConfig) -> Statistics:
        return find_statistics(checkpoint, self.image_mean, self.image_std, config.num_channels)


def _find_format(checkpoint: Checkpoint, name: str) -> Format:
    """The format that was asked for, or the one that the names of the weights tell."""
    if name != "auto" and name not in FORMATS:
        raise ConversionError(f"expected the format (--format) auto, {', '.join(FORMATS)}, got {name!r}")
    asked = FORMATS.values() if name == "auto" else [FORMATS[name]]
    found = next((format for format in asked if format.matches(checkpoint.weights)), None)
    if found is None:
        raise ConversionError(
            f"expected the names of {' or '.join(format.title for format in asked)}, got a checkpoint with "
            f"{', '.join(sorted(checkpoint.weights)[:3])}, ...; these formats are supported: {', '.join(FORMATS)}"
        )
    return found.located(checkpoint.weights)


@torch.no_grad()
def _segmenter(checkpoint: Checkpoint, format: Format, settings: _Settings) -> Converted:
    """A whole SETR of mmsegmentation."""
    fields = mmseg.read_fields(checkpoint, settings.num_attention_heads)
    if settings.decoder not in (None, fields["decoder_type"]):
        raise ConversionError(
            f"expected no decoder (--decoder) or {fields['decoder_type']}, which the checkpoint has, got "
            f"{settings.decoder}"
        )
    classes = classes_for(fields.pop("num_labels"), settings.labels, *mmseg.classes_of(checkpoint.meta))
    config = _config(fields | classes.fields | settings.config_kwargs)
    mmseg.check_levels(checkpoint.weights, list(config.out_indices or ()))
    weights, format, notes = mmseg.without_unused_tokens(checkpoint.weights, format, bool(config.use_cls_token))
    with torch.device("meta"):  # every weight comes from the checkpoint
        model = SetrForSemanticSegmentation(config)
    taken, unused = collect(weights, _shapes(model), format)
    taken = {name: _as_float32(value) for name, value in taken.items()}
    statistics = settings.statistics(checkpoint, config)
    weight, bias = (f"setr.embeddings.patch_embeddings.projection.{kind}" for kind in ("weight", "bias"))
    mean, std = torch.tensor(statistics.mean), torch.tensor(statistics.std)
    taken[weight], taken[bias] = fold_statistics(taken[weight], taken[bias], mean, std)
    model.load_state_dict(taken, assign=True)
    processor = SetrImageProcessor(
        patch_size=config.patch_size,
        num_channels=config.num_channels,
        do_pad=True,
        pad_value=statistics.padding,
        ignore_index=void_label(config.num_labels),
        **classes.processor,
    )
    found = _converted(model, processor, checkpoint, format, statistics, classes, unused, notes)
    return replace(found, windows=mmseg.windows_of(mmseg.read_config(checkpoint.meta)))


def _encoder(checkpoint: Checkpoint, format: Format, settings: _Settings) -> Converted:
    """An encoder and a decoder to be trained, as `SetrForSemanticSegmentation.from_vit` makes it."""
    heads = settings.num_attention_heads
    weights, fields, unused, notes = encoders.read_encoder(checkpoint.weights, checkpoint.config, format, heads)
    classes = classes_for(None, settings.labels, None, None)
    config = _config(fields | {"decoder_type": settings.decoder or "naive"} | classes.fields | settings.config_kwargs)
    taken, more = collect(weights, _encoder_shapes(config), format)
    taken = {name: _as_float32(value) for name, value in taken.items()}
    statistics = settings.statistics(checkpoint, config)
    model = SetrForSemanticSegmentation(config)
    model.load_vit(taken, torch.tensor(statistics.mean), torch.tensor(statistics.std))
    processor = SetrImageProcessor(
        patch_size=config.patch_size,
        num_channels=config.num_channels,
        ignore_index=void_label(config.num_labels),
        **classes.processor,
    )
    return _converted(model, processor, checkpoint, format, statistics, classes, unused | more, notes)


def _converted(
    model: SetrForSemanticSegmentation,
    processor: SetrImageProcessor,
    checkpoint: Checkpoint,
    format: Format,
    statistics: Statistics,
    classes: Classes,
    unused: dict[str, str],
    notes: list[str],
) -> Converted:
    provenance = Provenance(
        source=checkpoint.name,
        files=checkpoint.files,
        format=format.title,
        mean=statistics.mean,
        std=statistics.std,
        statistics_from=statistics.said_by,
        notes=notes,
        unused=unused,
        classes=classes.named_by,
        is_trained=format.name == mmseg.FORMAT.name,
    )
    return Converted(model.eval(), processor, provenance)


def _config(fields: dict[str, Any]) -> SetrConfig:
    """Fields that are partly the source's -> the configuration."""
    try:
        return SetrConfig(**fields)
    except (ValueError, StrictDataclassError) as error:
        raise ConversionError(f"the source cannot become a SETR: {error}") from error


def _shapes(model: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.state_dict().items()}


def _encoder_shapes(config: SetrConfig) -> dict[str, torch.Size]:
    """What a ViT of these sizes has: a class token whatever the decoder, and a final norm."""
    config = deepcopy(config)
    config.use_cls_token = True
    with torch.device("meta"):
        shapes = _shapes(SetrModel(config))
    return shapes | {f"layernorm.{kind}": torch.Size([config.hidden_size]) for kind in ("weight", "bias")}


def _as_float32(value: torch.Tensor) -> torch.Tensor:
    return value.float() if value.is_floating_point() else value
