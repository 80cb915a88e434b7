"""The command line `privseg`: make a key, encrypt a model, encrypt photos, segment what is encrypted without a key.

Keys come from files (`--key-file`) or the environment variable PRIVSEG_KEY, never from an argument. Results go to
standard output, as one JSON object with `--json`; everything else goes to standard error. Exit codes: 0 done, 1 error
(one line says what was expected, what came and what to do), 2 wrong usage, 130 interrupted. Nothing that exists is
replaced without `--force`, and a file or a model's folder is written as a whole or not at all.

What needs torch is imported inside the commands that need it. Commands on models, on what is in a file, and on
checkpoints from elsewhere are in files of their own.
"""

import os
import re
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..setr.errors import EncryptionStateError, ServiceError
from ..setr.keys import DEFAULT_FAMILY, SecretKey
from ..setr.public_facts import check_key_fits
from .audit import audit
from .convert import convert
from .info import info
from .models import apply_rekey_update, decrypt_model, encrypt_model, make_client_embedding, make_rekey_update, rekey
from .options import KEY_VARIABLE, Family, Force, Images, Json, KeyFile, Model, OptionalImages, read_key
from .output import (
    complain,
    named,
    output_paths,
    print_shares,
    progress,
    refuse_existing,
    report,
    shares_of,
    write_secret,
)
from .service import PatchSize, Server, Timeout, segment_by_service, serve

if TYPE_CHECKING:
    from ..setr.configuration_setr import SetrConfig
    from ..setr.encryption_key import EncryptionKey

_KEY_TEXT = re.compile(r"privseg\d+\.\w+\.[\w-]{8}")

app = typer.Typer(
    name="privseg",
    help="Semantic segmentation of visually protected images: a model and its images encrypted with one secret key.",
    epilog=f"Start with: privseg demo. Keys are read from --key-file or from the environment variable {KEY_VARIABLE}. "
    "Exit codes: 0 done, 1 error, 2 wrong usage, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,  # local variables hold keys
)


@app.command(epilog="Example:\n\nprivseg keygen secret.key")
def keygen(
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="Where the key goes.")] = Path("secret.key"),
    family: Family = DEFAULT_FAMILY,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a secret key and write it to a file that only you can read.

    The key is bound to a cipher family. Its fingerprint is public: encrypted models and images carry it.
    """
    key = SecretKey.generate(family)
    write_secret(key, path, force=force)
    report(
        {"path": path, **key.facts.to_dict()},
        f"Wrote {path}: family {key.family}, fingerprint {key.fingerprint}, readable by you alone.",
        "Keep a copy in a safe place: without it nothing that is encrypted with it can be used again.",
        f"Next: privseg encrypt-model default encrypted_model --key-file {path}",
        as_json=as_json,
    )


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
    as_json: Json = False,
) -> None:
    """Encrypt photos on this machine, into files that `privseg segment` takes without a key.

    They become NAME.encrypted.png (permutation families) or NAME.encrypted.safetensors. Never resize or recompress
    them. The protection is visual: a thumbnail can be recovered from any of them, and more from many.
    """
    from ..setr.ciphers import CIPHERS
    from ..setr.image_processing_setr import SetrImageProcessor
    from ..storage.images import is_ciphertext, read_image
    from ..storage.models import load_settings

    key = read_key(key_file)
    processor, encrypted_model = SetrImageProcessor(), "ENCRYPTED_MODEL"
    if model is not None:
        config, processor = load_settings(model)
        if config.encryption is not None:
            check_key_fits(key.facts, config.key_facts, model=f"the model {model}")
            encrypted_model = model
    ending = ".png" if CIPHERS[key.family].acts_on_uint8 else ".safetensors"
    paths = output_paths(images, output, f".encrypted{ending}", force=force)
    for image, path in progress(list(zip(images, paths, strict=True)), "Encrypting"):
        if is_ciphertext(image):
            raise EncryptionStateError(f"{image} is encrypted already; give the photo, or use it as it is")
        processor.encrypt(read_image(image), key).to_file(path, overwrite=force)
    pairs = [{"image": image, "encrypted": path} for image, path in zip(images, paths, strict=True)]
    report(
        {**key.facts.to_dict(), "patch_size": processor.patch_size, "images": pairs},
        f"Wrote {named(paths)}, encrypted with the key of fingerprint {key.fingerprint} ({key.family}).",
        f"Next: privseg segment {encrypted_model} {paths[0]} --output results",
        as_json=as_json,
    )


@app.command(
    epilog="Example:\n\nprivseg segment encrypted_model encrypted/* --output results"
    "\n\nprivseg segment --server URL photo.jpg --output results --key-file secret.key"
)
def segment(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder, or for one image a .png file.")],
    images: OptionalImages = None,
    key_file: KeyFile = None,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Also write the photo tinted by class; an encrypted one needs its key.")
    ] = False,
    server: Server = None,
    patch_size: PatchSize = 16,
    timeout: Timeout = 120,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Segment encrypted images with an encrypted model (no key needed), or photos with a plain one.

    Photos for an encrypted model are encrypted here first, which needs the key. With --server the model is that of a
    service. Each result is an indexed PNG whose pixels are the class numbers.
    """
    from ..inference import pictures as visualization
    from ..inference.segmentation import plain_image, prepare, segment_image
    from ..storage.images import is_ciphertext, save_picture
    from ..storage.models import load_model

    if server is not None:
        options: Any = {"patch_size": patch_size, "timeout": timeout, "overlay": overlay, "force": force}
        segment_by_service(server, [Path(model), *(images or [])], output, key_file, **options, as_json=as_json)
        return
    if not images:
        raise typer.BadParameter("expected images after MODEL, got none", param_hint="IMAGE")
    paths = output_paths(images, output, ".segmentation.png", force=force)
    overlays = [path.with_name(f"{path.stem.removesuffix('.segmentation')}.overlay.png") for path in paths]
    if overlay:
        refuse_existing(overlays, force)
    network, processor = load_model(model)
    palette, label_maps = visualization.palette_for(network.config), []
    needs_key = overlay or not all(map(is_ciphertext, images))
    key = _key_for_model(key_file, model, network.config, needs_key)
    for image, path, overlay_path in progress(list(zip(images, paths, overlays, strict=True)), "Segmenting"):
        prepared = prepare(image, model, network.config, processor, key)
        label_maps.append(segment_image(network, processor, prepared))
        if overlay:  # first, for it may be refused
            photo = plain_image(image, processor, key)
            save_picture(visualization.overlay(photo, label_maps[-1], palette), overlay_path, overwrite=force)
        save_picture(visualization.segmentation_map_to_picture(label_maps[-1], palette), path, overwrite=force)
    names = cast("dict[int, str]", network.config.id2label)
    results = [
        {"image": image, "segmentation": path, "overlay": overlay_path if overlay else None}
        | {"height": len(found), "width": len(found[0]), "shares": shares_of([found], names)}
        for image, path, overlay_path, found in zip(images, paths, overlays, label_maps, strict=True)
    ]
    print_shares(label_maps, names, palette, to_stderr=as_json)
    facts = {"model": model, "encryption": network.config.encryption, "images": results}
    report(facts, f"Wrote {named(paths + overlays * overlay)}.", as_json=as_json)


@app.command(epilog="Example:\n\nprivseg demo --image street.jpg")
def demo(
    image: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="A photo of yours.")] = None,
    family: Family = DEFAULT_FAMILY,
    output_dir: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo_output"),
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A plain model: folder, Hub id or 'default'.")
    ] = "default",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace the results of a former demo.")] = False,
    as_json: Json = False,
) -> None:
    """Show the whole method on one photo: key, encrypted model, encrypted photo, segmentation without the key.

    Draws what an encrypted model makes of the encrypted photo, of the plain one and of one under a wrong key.
    """
    from .demo import run_demo

    measured = run_demo(
        image=image, family=family, output_dir=output_dir, model=model, replace=force, print_to_stderr=as_json
    )
    report({"path": output_dir, "family": family, **asdict(measured)}, as_json=as_json)


app.command(epilog="Example:\n\nprivseg make-client-embedding default client.embedding")(make_client_embedding)
app.command(epilog="Example:\n\nprivseg encrypt-model default encrypted_model --key-file secret.key")(encrypt_model)
app.command(epilog="Example:\n\nprivseg decrypt-model encrypted_model model --key-file secret.key")(decrypt_model)
app.command(epilog="Example:\n\nprivseg rekey encrypted_model new_model -k secret.key --new-key-file new.key")(rekey)
app.command(epilog="Example:\n\nprivseg make-rekey-update next.rekey -k secret.key --new-key-file new.key")(
    make_rekey_update
)
app.command(epilog="Example:\n\nprivseg apply-rekey-update encrypted_model next.rekey new_model")(apply_rekey_update)
app.command(epilog="Example:\n\nprivseg serve encrypted_model --port 7860")(serve)
app.command(epilog="Example:\n\nprivseg info encrypted_model")(info)
app.command(epilog="Example:\n\nprivseg audit my_model photos --public-base the_vit_it_came_from")(audit)
app.command(epilog="Example:\n\nprivseg convert setr_pup_ade20k.pth setr_pup --labels ade20k")(convert)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends in SystemExit with an exit code that the top of this file explains."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _silence_transformers()
    warnings.showwarning = lambda message, *_, **__: complain("warning", message)
    if any(_KEY_TEXT.search(argument) for argument in arguments):
        complain(
            "error",
            "a key is among the arguments, where the shell's history and other users' process lists show it; "
            f"make a new one (privseg keygen) and give it with --key-file or in {KEY_VARIABLE}",
        )
        raise SystemExit(2)
    try:
        app(arguments, prog_name="privseg")
    except (ValueError, OSError, ImportError, EncryptionStateError, ServiceError) as error:
        complain("error", error)
        raise SystemExit(1) from None


def _silence_transformers() -> None:
    """Leave out progress bars and the library's own warnings: what is wrong with a checkpoint is an error of ours.

    Environment variables do it, since an import of transformers here would make `privseg --help` wait for seconds. A
    user's own values stay.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging = sys.modules.get("transformers.utils.logging")
    if logging is not None:  # `python -m hf_privseg.cli` has imported it, so that it has read its variables
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def _key_for_model(key_file: Path | None, model: str, config: "SetrConfig", is_needed: bool) -> "EncryptionKey | None":
    """The key that fits the model; None where none is needed or none is to be had."""
    if key_file is None and (config.encryption is None or not is_needed or KEY_VARIABLE not in os.environ):
        return None
    key = read_key(key_file)
    check_key_fits(key.facts, config.key_facts, model=f"the model {model}")
    return key
