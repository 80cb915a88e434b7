"""The command `privseg encrypt`: plain images become files that a server may have."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..setr.errors import EncryptionStateError, InvalidImageError
from ..setr.public_facts import check_key_fits
from .jobs import Job, attempt
from .options import Bits, BitsPerBlock, Force, Images, Json, KeyFile, SkipExisting, read_key
from .output import output_paths, prepare_output, report, wrote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..any_vit.encrypted_inputs import EncryptedInputs
    from ..setr.encrypted_image import EncryptedImage
    from ..setr.encryption_key import EncryptionKey

    Encrypted = EncryptedImage | EncryptedInputs


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
    bits: Bits = None,
    bits_per_block: BitsPerBlock = None,
    skip_existing: SkipExisting = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Encrypt images on this machine, into files that `privseg segment` takes without a key.

    NAME.jpg becomes NAME.encrypted.png (permutation families) or NAME.encrypted.safetensors. Never resize or
    recompress these files. They are visually protected: a thumbnail can be recovered from any of them, and more from
    many. Each is written when it is ready, and an image that fails does not stop the others: after a stop,
    --skip-existing encrypts the images that remain.
    """
    key = read_key(key_file)
    from ..storage.images import is_ciphertext
    from .resume import kept_encrypted_images

    encrypter = _encrypter(model, key, bits, bits_per_block)
    paths = output_paths(images, output, f".encrypted{encrypter.suffix}")
    prepare_output(paths, force=force, skip_existing=skip_existing)
    kept = kept_encrypted_images(paths, encrypter.form, key.facts, encrypter.patch_size) if skip_existing else set()
    remaining = [(image, path) for image, path in zip(images, paths, strict=True) if path not in kept]

    def encrypted(_: int, image: Path) -> "Encrypted":
        if is_ciphertext(image):
            raise EncryptionStateError(f"{image} is encrypted already; give the plain image, or use the file as it is")
        return encrypter.encrypt(image)

    job, done = Job([image for image, _ in remaining], doing="Encrypting", lacking="encrypted image"), {*kept}
    results: Iterator[tuple[int, Encrypted]] = job.results(attempt(encrypted, enumerate(job.images)))
    for index, result in results:
        path = remaining[index][1]
        result.to_file(path, overwrite=force or skip_existing)
        done.add(path)
    pairs = [pair for pair in zip(images, paths, strict=True) if pair[1] in done]
    if pairs:
        facts = {**key.facts.to_dict(), "patch_size": encrypter.patch_size}
        report(
            {**facts, "images": [{"image": i, "encrypted": path, "skipped": path in kept} for i, path in pairs]},
            f"{wrote([path for _, path in pairs if path not in kept], len(kept))} "
            f"The key has the fingerprint {key.fingerprint} ({key.family}).",
            encrypter.next_step(pairs[0][1]),
            as_json=as_json,
        )
    job.raise_failures()


@dataclass(frozen=True)
class _Encrypter:
    """What encrypts the images of a job.

    Args:
        encrypt: path of a plain image -> the image encrypted for the model.
        form: class of what `encrypt` returns.
        suffix: ending of its file.
        patch_size: side of its blocks, in pixels.
        next_step: path of that file -> what is done with it next.
    """

    encrypt: "Callable[[Path], Encrypted]"
    form: "type[Encrypted]"
    suffix: str
    patch_size: int
    next_step: "Callable[[Path], str]"


def _encrypter(model: str | None, key: "EncryptionKey", bits: int | None, bits_per_block: float | None) -> _Encrypter:
    """What encrypts images for the model.

    Raises:
        EncryptionStateError: a plain model of another class than SETR, whose configuration says no blocks.
        KeyMismatchError: the model is encrypted with another key.
        ValueError: the model takes videos alone, or bits are asked for that model or key cannot serve.
    """
    from ..setr.encrypted_image import EncryptedImage, file_suffix
    from ..setr.image_encrypter import ImageEncrypter
    from ..setr.rounding import Rounding
    from ..storage.model_files import is_setr, read_setr_settings

    Rounding.of(key, bits=bits, bits_per_block=bits_per_block)  # refuses, before any image is read
    if model is not None and not is_setr(model):
        if (bits, bits_per_block) != (None, None):
            raise ValueError(
                f"expected a SETR model with --bits or --bits-per-block, got {model}, of another class; leave them out"
            )
        return _encrypter_of_inputs(model, key)
    encrypter, encrypted_model = ImageEncrypter(), "ENCRYPTED_MODEL"
    if model is not None:
        settings = read_setr_settings(model)
        encrypter = settings.encrypter
        if settings.key_facts is not None:
            check_key_fits(key.facts, settings.key_facts, model=f"the model {model}")
            encrypted_model = model
    suffix = file_suffix(key.family, encrypter.num_channels)

    def encrypt_image(path: Path) -> "EncryptedImage":
        try:
            return encrypter.encrypt(path, key, bits=bits, bits_per_block=bits_per_block)
        except InvalidImageError as error:
            raise InvalidImageError(f"{path}: {error}") from error

    return _Encrypter(encrypt_image, EncryptedImage, suffix, encrypter.patch_size, _segment_with(encrypted_model))


def _encrypter_of_inputs(model: str, key: "EncryptionKey") -> _Encrypter:
    """What encrypts images for a model of another class than SETR, whose processor is transformers' own."""
    from ..any_vit.encrypted_inputs import EncryptedInputs
    from ..any_vit.model_facts import ModelFacts
    from ..inference.tasks import check_takes_images, offered_tasks
    from ..inference.vision_segmentation import encrypt_for
    from ..storage.vision_models import load_any_settings

    config, processor = load_any_settings(model)
    facts = ModelFacts.of(config)
    check_key_fits(key.facts, None if facts is None else facts.key, model=f"the model {model}")
    check_takes_images(processor, model=f"the model {model}")
    patch_size = 1 if facts is None else facts.patch_size
    encrypt_inputs = partial(encrypt_for, config, processor, secret_key=key)
    next_step = _segment_with(model) if offered_tasks(processor) else _run_in_python
    return _Encrypter(encrypt_inputs, EncryptedInputs, EncryptedInputs.suffix, patch_size, next_step)


def _segment_with(model: str) -> "Callable[[Path], str]":
    """The command that segments an encrypted image."""
    return lambda path: f"Next: privseg segment {path} --model {model} --output results"


def _run_in_python(path: Path) -> str:
    """The call that runs a model of no command here on its encrypted inputs."""
    return f"Next, in Python: model(**EncryptedInputs.from_file({str(path)!r}).inputs_for(model))"
