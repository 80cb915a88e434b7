"""The command line `privseg`: make a key, encrypt a model, encrypt photos, segment what is encrypted without a key.

Keys come from files (`--key-file`) or the environment variable PRIVSEG_KEY, never from an argument: arguments stay in
the shell's history, and other users of the machine see them. Exit codes: 0 done, 1 error (one line on stderr says what
was expected, what came and what to do), 2 wrong usage.

What needs torch is imported inside the commands that need it.
"""

import os
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar, cast

import typer

from .cli_convert import convert
from .errors import EncryptionStateError, InvalidKeyError
from .keys import DEFAULT_FAMILY, FAMILIES, SecretKey
from .public_facts import check_fits

if TYPE_CHECKING:
    import numpy as np

    from .client_embedding import EncryptionKey
    from .configuration_setr import SetrConfig

KEY_VARIABLE = "PRIVSEG_KEY"

_KEY_TEXT = re.compile(r"privseg\d+\.\w+\.[\w-]{8}")
_ENDINGS = (".png", ".safetensors")
_Item = TypeVar("_Item")

app = typer.Typer(
    name="privseg",
    help="Semantic segmentation of visually protected images: a model and its images encrypted with one secret key.",
    epilog=f"Start with: privseg demo. Keys are read from --key-file or from the environment variable {KEY_VARIABLE}.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # local variables hold keys
)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Folder of a SETR model, Hub id (owner/name), or 'default' for the embedded one."
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file", "-k", help=f"File with the secret key or client embedding; without it, {KEY_VARIABLE} is read."
    ),
]
Images = Annotated[
    list[Path], typer.Argument(metavar="IMAGE", exists=True, dir_okay=False, help="Files; several at once are fine.")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace what exists.")]
Family = Annotated[str, typer.Option("--family", help=f"Cipher family: {', '.join(FAMILIES)}.")]


@app.command(epilog="Example:\n\nprivseg keygen secret.key")
def keygen(
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="Where the key goes.")] = Path("secret.key"),
    family: Family = DEFAULT_FAMILY,
    force: Force = False,
) -> None:
    """Make a secret key and write it to a file that only you can read.

    The key is bound to a cipher family. Its fingerprint is public: encrypted models and images carry it.
    """
    key = SecretKey.generate(family)
    _write_secret(key, path, force)
    typer.echo(f"Wrote {path}: family {key.family}, fingerprint {key.fingerprint}, readable by you alone.")
    typer.echo("Keep a copy in a safe place: without it nothing that is encrypted with it can be used again.")
    typer.echo(f"Next: privseg encrypt-model default encrypted_model --key-file {path}")


@app.command(epilog="Example:\n\nprivseg make-client-embedding default client.embedding")
def make_client_embedding(
    model: Model,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File for the client embedding.")],
    force: Force = False,
) -> None:
    """Make the client's part of a plain model's patch embedding: a secret file that serves this model as a key file.

    The server then sees less than with any key, and encrypted images are smaller where the patch embedding is narrow
    (half the size for the embedded model). In return the file, of megabytes, holds the patch embedding up to a
    rotation: whoever has it and the encrypted model can invert all images, under this or any other key.
    """
    from . import workflow
    from .client_embedding import ClientEmbedding

    network, _ = workflow.load_model(model)
    embedding = ClientEmbedding.generate(network)
    _write_secret(embedding, output, force)
    length, rank = embedding.shape
    typer.echo(
        f"Wrote {output}: {rank} numbers for the {length} of a block, fingerprint {embedding.fingerprint}, readable "
        "by you alone."
    )
    typer.echo(f"Next: privseg encrypt-model {model} encrypted_model --key-file {output}")


@app.command(epilog="Example:\n\nprivseg encrypt-model default encrypted_model --key-file secret.key")
def encrypt_model(
    model: Model,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder for the encrypted model.")],
    key_file: KeyFile = None,
    force: Force = False,
) -> None:
    """Encrypt a plain model, with its processor's settings, into a new folder.

    The folder holds no key and can be given to whoever runs the model. Keep the plain model private: whoever has it
    can invert the encrypted images.
    """
    from . import workflow

    key = _read_key(key_file)
    workflow.check_model_folder(output, replace=force)
    network, processor = workflow.load_model(model)
    workflow.save_model(network.encrypt_model(key), processor, output, licence_from=model)
    typer.echo(f"Wrote {output}: encrypted with the key of fingerprint {key.fingerprint} ({key.family}).")
    typer.echo(f"Next: privseg encrypt PHOTOS --model {output} --output encrypted --key-file KEY_FILE")


@app.command(epilog="Example:\n\nprivseg encrypt *.jpg --model encrypted_model -o encrypted -k secret.key")
def encrypt(
    images: Images,
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder, or for one image a file.")],
    key_file: KeyFile = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The model that the images are for: its processor's settings are used, and the key is checked. "
            "Without it, photos are resized to the nearest multiple of 16 pixels.",
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Encrypt photos on this machine, into files that `privseg segment` takes without a key.

    They become NAME.encrypted.png (permutation families) or NAME.encrypted.safetensors. Never resize or recompress
    them. The protection is visual: a thumbnail can be recovered from any of them, and more from many.
    """
    from . import workflow
    from .ciphers import CIPHERS
    from .image_processing_setr import SetrImageProcessor

    key = _read_key(key_file)
    processor = SetrImageProcessor()
    if model is not None:
        config, processor = workflow.load_settings(model)
        if config.encryption is not None:
            check_fits(key, config, model=f"the model {model}")
    ending = ".png" if CIPHERS[key.family].acts_on_uint8 else ".safetensors"
    paths = output_paths(images, output, f".encrypted{ending}", force=force)
    for image, path in _progress(list(zip(images, paths, strict=True)), "Encrypting"):
        if workflow.is_ciphertext(image):
            raise EncryptionStateError(f"{image} is encrypted already; give the photo, or use it as it is")
        processor.encrypt(workflow.read_photo(image), key).to_file(path, overwrite=force)
    typer.echo(f"Wrote {_named(paths)}, encrypted with the key of fingerprint {key.fingerprint} ({key.family}).")
    typer.echo(f"Next: privseg segment {model or 'ENCRYPTED_MODEL'} {paths[0]} --output results")


@app.command(epilog="Example:\n\nprivseg segment encrypted_model encrypted/* --output results")
def segment(
    model: Model,
    images: Images,
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder, or for one image a .png file.")],
    key_file: KeyFile = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write the photo tinted by class; an encrypted one needs its key.")
    ] = False,
    force: Force = False,
) -> None:
    """Segment encrypted images with an encrypted model (no key needed), or photos with a plain one.

    Photos for an encrypted model are encrypted here first, which needs the key. Each result is an indexed PNG whose
    pixels are the class numbers.
    """
    from . import visualization, workflow

    paths = output_paths(images, output, ".segmentation.png", force=force)
    overlays = [path.with_name(f"{path.stem.removesuffix('.segmentation')}.overlay.png") for path in paths]
    if overlay:
        _refuse_existing(overlays, force)
    network, processor = workflow.load_model(model)
    palette, label_maps = visualization.palette_for(network.config), []
    needs_key = overlay or not all(map(workflow.is_ciphertext, images))
    key = _key_for_model(key_file, model, network.config, needs_key)
    for image, path, overlay_path in _progress(list(zip(images, paths, overlays, strict=True)), "Segmenting"):
        prepared = workflow.prepare(image, model, network.config, processor, key)
        label_maps.append(workflow.segment_image(network, processor, prepared))
        if overlay:  # first, for it may be refused
            photo = workflow.plain_photo(image, processor, key)
            visualization.overlay(photo, label_maps[-1], palette).save(overlay_path, "PNG")
        visualization.label_map_to_picture(label_maps[-1], palette).save(path, "PNG")
    _print_shares(label_maps, cast("dict[int, str]", network.config.id2label), palette)
    typer.echo(f"Wrote {_named(paths + overlays * overlay)}.")


@app.command(epilog="Example:\n\nprivseg demo --image street.jpg")
def demo(
    image: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="A photo of yours.")] = None,
    family: Family = DEFAULT_FAMILY,
    output_dir: Annotated[Path, typer.Option(help="Folder for the results; a former demo's is replaced.")] = Path(
        "demo_output"
    ),
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A plain model: folder, Hub id or 'default'.")
    ] = "default",
) -> None:
    """Show the whole method on one photo: key, encrypted model, encrypted photo, segmentation without the key.

    Draws what an encrypted model makes of the encrypted photo, of the plain one and of one under a wrong key.
    """
    from .demo import run_demo

    run_demo(image=image, family=family, output_dir=output_dir, model=model)


app.command(epilog="Example:\n\nprivseg convert setr_pup_ade20k.pth setr_pup --labels ade20k")(convert)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends in SystemExit with 0, 1 (one line on stderr says what is wrong) or 2 (usage)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    warnings.showwarning = lambda message, *_, **__: _complain("warning", message)
    if any(_KEY_TEXT.search(argument) for argument in arguments):
        _complain(
            "error",
            "a key is among the arguments, where the shell's history and other users' process lists show it; "
            f"make a new one (privseg keygen) and give it with --key-file or in {KEY_VARIABLE}",
        )
        raise SystemExit(2)
    try:
        app(arguments, prog_name="privseg")
    except (ValueError, OSError, ImportError, EncryptionStateError) as error:
        _complain("error", error)
        raise SystemExit(1) from None


def output_paths(images: Sequence[Path], output: Path, ending: str, *, force: bool) -> list[Path]:
    """Where the result of each image goes: `output` itself if it is named like a file, else `output`/NAME`ending`.

    Raises:
        ValueError: several images and one file, or two images of the same name.
        FileExistsError: a result exists and `force` is False.
    """
    if output.suffix.lower() in _ENDINGS and not output.is_dir():
        if len(images) > 1:
            raise ValueError(f"expected a folder as --output for {len(images)} images, got the file {output}")
        paths = [output]
    else:
        paths = [output / f"{image.stem.removesuffix('.encrypted')}{ending}" for image in images]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"several images would become {twice}; give images of different names, or one at a time")
    _refuse_existing(paths, force)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    return paths


def _refuse_existing(paths: Iterable[Path], force: bool) -> None:
    existing = [] if force else [path for path in paths if path.exists()]
    if existing:
        raise FileExistsError(f"{existing[0]} exists; choose another --output, or replace it with --force")


def _write_secret(secret: "EncryptionKey", path: Path, force: bool) -> None:
    try:
        secret.to_file(path, overwrite=force)
    except FileExistsError:
        raise FileExistsError(
            f"{path} exists, and whatever was encrypted with a key that it holds would be lost with it; choose "
            "another path, or replace it with --force"
        ) from None


def _read_key(key_file: Path | None) -> "EncryptionKey":
    """The key, or the client embedding, of the file, or else the key of the environment variable."""
    if key_file is not None:
        from .client_embedding import key_from_file

        return key_from_file(key_file)
    if KEY_VARIABLE not in os.environ:
        raise InvalidKeyError(
            f"expected a key, got none; give --key-file or set {KEY_VARIABLE} (privseg keygen makes a key)"
        )
    return SecretKey.from_env(KEY_VARIABLE)


def _key_for_model(key_file: Path | None, model: str, config: "SetrConfig", is_needed: bool) -> "EncryptionKey | None":
    """The key that fits the model; None where none is needed or none is to be had."""
    if key_file is None and (config.encryption is None or not is_needed or KEY_VARIABLE not in os.environ):
        return None
    key = _read_key(key_file)
    check_fits(key, config, model=f"the model {model}")
    return key


def _print_shares(label_maps: Sequence["np.ndarray"], names: Mapping[int, str], palette: "np.ndarray") -> None:
    """A table of the classes found, the largest first."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from .visualization import class_shares

    shares = class_shares(label_maps, len(palette))
    table = Table("", "class", title=f"{len(label_maps)} image{'s' * (len(label_maps) > 1)}", title_justify="left")
    table.add_column("share of pixels", justify="right")
    for index in shares.argsort()[::-1]:
        if shares[index] > 0:
            colour = "#" + palette[index].tobytes().hex()
            table.add_row(Text("██", style=colour), Text(names[int(index)]), f"{shares[index]:.1%}")
    Console().print(table)


def _progress(items: list[_Item], description: str) -> Iterable[_Item]:
    """The items, behind a progress bar on stderr if there are several."""
    from rich.console import Console
    from rich.progress import track

    return track(items, description, console=Console(stderr=True), disable=len(items) < 2)


def _named(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{len(paths)} files in {paths[0].parent}"


def _complain(kind: str, message: object) -> None:
    """One line on stderr, whatever line breaks the message has."""
    typer.echo(f"{kind}: {' '.join(str(message).split())}", err=True)


if __name__ == "__main__":
    main()
