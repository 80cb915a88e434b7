"""The command `privseg encrypt`: plain images become files that a server may have."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..setr.errors import EncryptionStateError
from ..setr.public_facts import check_key_fits
from .jobs import Job, attempt
from .options import Force, Images, Json, KeyFile, read_key
from .output import named, output_paths, prepare_output, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..any_vit.encrypted_inputs import EncryptedInputs
    from ..setr.encrypted_image import EncryptedImage
    from ..setr.encryption_key import EncryptionKey


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
    from ..storage.images import is_ciphertext

    make, suffix, patch_size, encrypted_model = _encrypter(model, key)
    paths = output_paths(images, output, f".encrypted{suffix}")
    prepare_output(paths, force=force)

    def encrypted(_: int, image: Path) -> "EncryptedImage | EncryptedInputs":
        if is_ciphertext(image):
            raise EncryptionStateError(f"{image} is encrypted already; give the plain image, or use the file as it is")
        return make(image)

    job, written = Job(images, doing="Encrypting", lacking="encrypted image"), []
    results: Iterator[tuple[int, EncryptedImage | EncryptedInputs]]
    results = job.results(attempt(encrypted, enumerate(images)))
    for index, result in results:
        result.to_file(paths[index], overwrite=force)
        written.append(index)
    if written:
        pairs = [{"image": images[index], "encrypted": paths[index]} for index in written]
        report(
            {**key.facts.to_dict(), "patch_size": patch_size, "images": pairs},
            f"Wrote {named([paths[index] for index in written])}, encrypted with the key of fingerprint "
            f"{key.fingerprint} ({key.family}).",
            f"Next: privseg segment {paths[written[0]]} --model {encrypted_model} --output results",
            as_json=as_json,
        )
    job.raise_failures()


def _encrypter(
    model: str | None, key: "EncryptionKey"
) -> "tuple[Callable[[Path], EncryptedImage | EncryptedInputs], str, int, str]":
    """What encrypts an image for the model, the ending and the patch size of the result, and the model to use it with.

    Raises:
        EncryptionStateError: a plain model of another class than SETR, whose configuration says no blocks.
        KeyMismatchError: the model is encrypted with another key.
    """
    from ..any_vit.encrypted_inputs import EncryptedInputs
    from ..any_vit.model_facts import ModelFacts
    from ..inference.vision_segmentation import encrypt_for
    from ..setr.encrypted_image import file_suffix
    from ..setr.image_processing_setr import SetrImageProcessor
    from ..storage.vision_models import is_setr, load_any_settings

    config, processor = (None, SetrImageProcessor()) if model is None else load_any_settings(model)
    facts = None if config is None else ModelFacts.of(config)
    if facts is not None or (model is not None and not is_setr(model)):
        check_key_fits(key.facts, None if facts is None else facts.key, model=f"the model {model}")
    encrypted_model = "ENCRYPTED_MODEL" if facts is None or model is None else model
    if facts is not None and not isinstance(processor, SetrImageProcessor):
        encrypt_inputs = partial(encrypt_for, config, processor, secret_key=key)
        return encrypt_inputs, EncryptedInputs.suffix, facts.patch_size, encrypted_model
    suffix = file_suffix(key.family, processor.num_channels)
    return partial(processor.encrypt, secret_key=key), suffix, processor.patch_size, encrypted_model
