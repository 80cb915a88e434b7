"""The command `privseg convert`: a checkpoint from elsewhere becomes a SETR model's folder."""

from pathlib import Path
from typing import Annotated

import typer

_STATISTICS = "for pixels in 0..1, for example 0.5,0.5,0.5. Without it, what SOURCE says, or else ImageNet's."


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SOURCE",
            help="A checkpoint: a .safetensors or PyTorch file, or a folder as transformers writes it.",
        ),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder for the converted model.")],
    format: Annotated[
        str,
        typer.Option(
            help="mmseg (SETR of mmsegmentation), vit (Hugging Face ViT or DeiT), dinov2 (Hugging Face), timm (and "
            "Meta's own files), or auto: by the names of the weights."
        ),
    ] = "auto",
    decoder: Annotated[
        str | None,
        typer.Option(help="naive, pup or mla, for a source that is an encoder alone.  [default: naive]"),
    ] = None,
    num_attention_heads: Annotated[
        int | None,
        typer.Option(min=1, help="Without it, what SOURCE says, or else those of the published ViT of its size."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="ade20k or cityscapes: names the classes. Without it, the names in SOURCE, or else those of the data "
            "set that has as many classes."
        ),
    ] = None,
    image_mean: Annotated[
        str | None, typer.Option(metavar="M,M,M", help=f"Mean that SOURCE was trained with, {_STATISTICS}")
    ] = None,
    image_std: Annotated[
        str | None, typer.Option(metavar="S,S,S", help=f"Standard deviation likewise, {_STATISTICS}")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace what exists.")] = False,
) -> None:
    """Convert a checkpoint from elsewhere into a SETR model that can be encrypted.

    Takes SETR models of mmsegmentation, and ViT, DeiT, DINOv2 and timm encoders, which get a decoder to be trained.
    Pickled files are read without running what is in them. The result takes pixels in [-1, 1].
    """
    from transformers.utils import logging

    from . import workflow
    from .convert import convert_checkpoint

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    workflow.check_model_folder(output, replace=force)
    converted = convert_checkpoint(
        source,
        format=format,
        decoder=decoder,
        num_attention_heads=num_attention_heads,
        labels=labels,
        image_mean=_numbers(image_mean, "--image-mean"),
        image_std=_numbers(image_std, "--image-std"),
    )
    with workflow.new_folder(output) as folder:
        converted.save_pretrained(folder)
        workflow.copy_licences(source, folder)
    config, provenance = converted.model.config, converted.provenance
    typer.echo(f"Wrote {output}: {provenance.format}, decoder {config.decoder_type}, {config.num_labels} classes.")
    for line in provenance.folded():
        typer.echo(f"Folded or added: {line}.")
    for line in provenance.dropped():
        typer.echo(f"Not used: {line}.")
    if not provenance.is_trained:
        typer.echo("The source is an encoder alone: the decoder is UNTRAINED, and segments nothing before training.")
        typer.echo(f"Next: python examples/train_setr.py --checkpoint {output} --decoder {config.decoder_type} ...")
        return
    typer.echo("Whoever has the source can invert what this patch embedding encrypts: train it further in private.")
    typer.echo(f"Next: privseg encrypt-model {output} encrypted_model --key-file KEY_FILE")


def _numbers(text: str | None, option: str) -> list[float] | None:
    """ "0.5,0.5,0.5" -> [0.5, 0.5, 0.5]."""
    if text is None:
        return None
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"expected {option} to be numbers with commas between, got {text!r}") from None
