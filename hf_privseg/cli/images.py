"""The command `privseg encrypt`: plain images become files that a server may have."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..setr.errors import EncryptionStateError
from ..setr.public_facts import check_key_fits
from .jobs import Job, attempt
from .options import Force, Images, Json, KeyFile, read_key
from .output import named, output_paths, prepare_output, report

if TYPE_CHECKING:
    from ..setr.encrypted_image import EncryptedImage


def encrypt(
    images: Images,
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder, or for one image a file.")],
    key_file: KeyFile = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The model that the images are for: the settings of its processor are used, and the key is checked. "
            "Without it, images become RGB and are resized to the nearest multiple of 16 pixels.",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Encrypt images on this machine, into files that `privseg segment` takes without a key.

    NAME.jpg becomes NAME.encrypted.png (permutation families) or NAME.encrypted.safetensors. Never resize or
    recompress these files. They are visually protected: a thumbnail can be recovered from any of them, and more from
    many. Each is written when it is ready, and an image that fails does not stop the others.
    """
    key = read_key(key_file)
    from ..setr.encrypted_image import file_suffix
    from ..setr.image_processing_setr import SetrImageProcessor
    from ..storage.images import is_ciphertext
    from ..storage.models import load_settings

    processor, encrypted_model = SetrImageProcessor(), "ENCRYPTED_MODEL"
    if model is not None:
        config, processor = load_settings(model)
        if config.encryption is not None:
            check_key_fits(key.facts, config.key_facts, model=f"the model {model}")
            encrypted_model = model
    paths = output_paths(images, output, f".encrypted{file_suffix(key.family, processor.num_channels)}")
    prepare_output(paths, force=force)

    def encrypted(_: int, image: Path) -> "EncryptedImage":
        if is_ciphertext(image):
            raise EncryptionStateError(f"{image} is encrypted already; give the plain image, or use the file as it is")
        return processor.encrypt(image, key)

    job, written = Job(images, doing="Encrypting", lacking="encrypted image"), []
    for index, result in job.results(attempt(encrypted, enumerate(images))):
        result.to_file(paths[index], overwrite=force)
        written.append(index)
    if written:
        pairs = [{"image": images[index], "encrypted": paths[index]} for index in written]
        report(
            {**key.facts.to_dict(), "patch_size": processor.patch_size, "images": pairs},
            f"Wrote {named([paths[index] for index in written])}, encrypted with the key of fingerprint "
            f"{key.fingerprint} ({key.family}).",
            f"Next: privseg segment {paths[written[0]]} --model {encrypted_model} --output results",
            as_json=as_json,
        )
    job.raise_failures()
