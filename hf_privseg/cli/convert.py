"""The command `privseg convert`: a checkpoint from elsewhere becomes a SETR model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..setr.counts import counted
from .options import Force, Json, ModelFolder, one_of
from .output import report

if TYPE_CHECKING:
    from ..convert import Converted

# A test compares these with what the conversion knows; an import here would make `privseg --help` wait for torch.
FORMATS = ("auto", "mmseg", "vit", "dinov2", "timm")
DECODERS = ("naive", "pup", "mla")
LABELS = ("ade20k", "cityscapes")

_STATISTICS = "for pixels in 0..1, for example 0.5,0.5,0.5. Default: what SOURCE says, or else ImageNet's."


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A checkpoint: a .safetensors or PyTorch file, or a folder that transformers wrote.",
        ),
    ],
    output: ModelFolder,
    format: Annotated[
        str,
        one_of(
            "--format",
            choices=FORMATS,
            help="mmseg: a SETR of mmsegmentation. vit: a ViT or DeiT of Hugging Face. dinov2: of Hugging Face. timm: "
            "of timm, or Meta's own files. auto: the names of the weights decide.",
        ),
    ] = "auto",
    decoder: Annotated[
        str | None,
        one_of("--decoder", choices=DECODERS, help="Decoder for a SOURCE that is an encoder alone.  [default: naive]"),
    ] = None,
    num_attention_heads: Annotated[
        int | None,
        typer.Option(min=1, help="Default: what SOURCE says, or else those of the published ViT of its size."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="|".join((*LABELS, "FILE")),
            help="Data set that names the classes, or a file with their names: JSON {id: name} or [name, ...], or "
            "text with one name a line. Default: the names in SOURCE, or else those of the data set that has as many "
            "classes.",
        ),
    ] = None,
    image_mean: Annotated[
        str | None,
        typer.Option(metavar="M,M,M", help=f"Mean of the pixels that SOURCE was trained with, {_STATISTICS}"),
    ] = None,
    image_std: Annotated[
        str | None, typer.Option(metavar="S,S,S", help=f"Standard deviation of these pixels, {_STATISTICS}")
    ] = None,
    out_indices: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Layers of the encoder that feed the decoder, 0 the first.  [default: what SOURCE or --config says, "
            "or else as published]",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="CONFIG.py",
            exists=True,
            dir_okay=False,
            help="Configuration of mmsegmentation that SOURCE was trained with. It is read without being run.",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Convert a checkpoint from elsewhere into a SETR model that can be encrypted.

    SOURCE is a SETR of mmsegmentation, or an encoder (ViT, DeiT, DINOv2, timm), which gets a decoder that has to be
    trained. Code in a pickled file is never run. The result takes pixels in [-1, 1].
    """
    from ..setr.files import new_folder
    from ..storage.model_files import check_model_folder, copy_licences

    check_model_folder(output, overwrite=force)
    from ..convert import convert_checkpoint

    converted = convert_checkpoint(
        source,
        format=format,
        decoder=decoder,
        num_attention_heads=num_attention_heads,
        labels=labels,
        image_mean=_numbers(image_mean, "--image-mean"),
        image_std=_numbers(image_std, "--image-std"),
        config_file=config,
        **({} if out_indices is None else {"out_indices": _layers(out_indices)}),
    )
    with new_folder(output, overwrite=force) as folder:
        converted.save_pretrained(folder)
        copy_licences(source, folder)
    report(_facts(output, converted), *_lines(output, converted), as_json=as_json)


def _facts(output: Path, converted: "Converted") -> dict[str, object]:
    config, provenance = converted.model.config, converted.provenance
    facts: dict[str, object] = {"path": output, "format": provenance.format, "decoder_type": config.decoder_type}
    facts |= {"num_labels": config.num_labels, "decoder_is_trained": provenance.is_trained}
    facts["windows"] = converted.windows
    return {**facts, "folded": provenance.folded(), "not_used": provenance.dropped()}


def _lines(output: Path, converted: "Converted") -> list[str]:
    """What became of the source, and what to do next, for people."""
    config, provenance = converted.model.config, converted.provenance
    lines = [
        f"Wrote {output}: {provenance.format}, decoder {config.decoder_type}, {counted(config.num_labels, 'class')}."
    ]
    lines += [f"Folded or added: {line}." for line in provenance.folded()]
    lines += [f"Not used: {line}." for line in provenance.dropped()]
    if not provenance.is_trained:
        return [
            *lines,
            "The source is an encoder alone: the decoder is UNTRAINED, and segments nothing before training.",
            f"Next: privseg train --checkpoint {output} --decoder {config.decoder_type} ...",
        ]
    if converted.windows is not None:
        window, stride = converted.windows
        lines.append(f"Its configuration evaluates it by windows: --window {window} --stride {stride}.")
    return [
        *lines,
        "Whoever has the source can invert images that are encrypted for this model: train it further in private.",
        f"Next: privseg encrypt-model {output} encrypted_model --key-file KEY_FILE",
    ]


def _layers(text: str) -> list[int]:
    """ "9,14,19,23" -> [9, 14, 19, 23]."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"expected --out-indices to be layer numbers separated by commas, such as 9,14,19,23, got {text!r}"
        ) from None


def _numbers(text: str | None, option: str) -> list[float] | None:
    """ "0.5,0.5,0.5" -> [0.5, 0.5, 0.5]."""
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"expected {option} to be numbers separated by commas, such as 0.5,0.5,0.5, got {text!r}"
        ) from None
