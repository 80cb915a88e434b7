"""The steps that the command line and the demo share: models and photos from disk, matching pairs, segmentation."""

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from transformers.utils import logging

from .checkpoints import default_checkpoint
from .client_embedding import EncryptionKey
from .configuration_setr import SetrConfig
from .encrypted_image import EncryptedImage
from .errors import EncryptionStateError, InvalidImageError
from .image_inputs import photo_to_levels
from .image_processing_setr import SetrImageProcessor
from .modeling_setr import SetrForSemanticSegmentation
from .public_facts import check_fits


def load_settings(name: str | Path) -> tuple[SetrConfig, SetrImageProcessor]:
    """Folder, Hub id or "default" -> the model's configuration and its processor, without its weights.

    Raises:
        OSError: there is no such model, or it has no processor's settings.
        ValueError: a model of another type.
    """
    source = _source(name)
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise FileNotFoundError(f"expected a model's folder, got {name}, which holds no model (no config.json)")
    found = SetrConfig.get_config_dict(source)[0].get("model_type")
    if found != SetrConfig.model_type:
        raise ValueError(f"expected a model of type '{SetrConfig.model_type}', got {name}, which is of type '{found}'")
    return SetrConfig.from_pretrained(source), SetrImageProcessor.from_pretrained(source)


def load_model(name: str | Path) -> tuple[SetrForSemanticSegmentation, SetrImageProcessor]:
    """Folder, Hub id or "default" -> the model, ready to predict on the machine's accelerator, and its processor.

    Raises:
        OSError: there is no such model, or it has no processor's settings.
        ValueError: a model of another type, without a segmentation head, or with damaged weights.
    """
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what is wrong with a checkpoint is said below
    config, processor = load_settings(name)
    try:
        loaded = SetrForSemanticSegmentation.from_pretrained(_source(name), config=config, output_loading_info=True)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"the weights of {name} are damaged, or do not fit its config.json: {error}") from error
    model, report = cast(Any, loaded)  # the library's annotation knows the model alone
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("auxiliary_head."))
    if missing:
        raise ValueError(
            f"expected a SETR model with its segmentation head, got {name}, which lacks {len(missing)} weights "
            f"({missing[0]}, ...); a bare encoder has to be trained first"
        )
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return model.to(device or "cpu").eval(), processor


def local_folder(name: str | Path) -> Path | None:
    """Folder, Hub id or "default" -> the model's folder on this machine; None for a Hub id."""
    folder = Path(_source(name))
    return folder if folder.is_dir() else None


def check_model_folder(folder: Path, *, replace: bool) -> None:
    """Refuse to write a model where something is; with `replace`, where something other than a model is.

    An empty folder is nothing.

    Raises:
        FileExistsError: names the folder.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not replace:
        raise FileExistsError(f"{folder} exists; choose another folder, or replace it with --force")
    if not (folder / "config.json").is_file():
        raise FileExistsError(f"{folder} exists and holds no model (no config.json), so that it is not replaced")


def save_model(
    model: SetrForSemanticSegmentation,
    processor: SetrImageProcessor,
    folder: Path,
    *,
    licence_from: str | Path,
    private: bool = False,
) -> None:
    """Model, processor's settings and the source's licence -> `folder`, as a whole or not at all; replaces a model.

    Args:
        model: plain or encrypted.
        processor: the model's.
        folder: checked by `check_model_folder` beforehand.
        licence_from: what the model was loaded from; the terms of a folder go with what is made from it.
        private: whether the folder is for its owner alone.
    """
    with new_folder(folder, private=private) as temporary:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        copy_licences(Path(_source(licence_from)), temporary)


def copy_licences(source: Path, folder: Path) -> None:
    """The licence files of a model's folder -> another folder; nothing where `source` is no folder."""
    for licence in source.glob("LICENSE*"):
        shutil.copy(licence, folder)


@contextmanager
def new_folder(folder: Path, *, private: bool = False) -> Iterator[Path]:
    """A folder beside `folder` to write into; it becomes `folder`, as a whole or (after an error) not at all.

    Args:
        folder: checked beforehand, as by `check_model_folder`; what is there is replaced.
        private: whether the folder is for its owner alone (mode 0700).
    """
    folder = folder.resolve()
    temporary, retired = (folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.{end}") for end in ("tmp", "old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir(mode=0o700 if private else 0o777)
        yield temporary
        if folder.exists():
            folder.rename(retired)
        temporary.rename(folder)
    finally:
        if retired.exists() and not folder.exists():  # interrupted between the two
            retired.rename(folder)
        for left in (temporary, retired):
            shutil.rmtree(left, ignore_errors=True)


def save_picture(picture: Image.Image, path: Path) -> None:
    """A picture -> the PNG file `path`, as a whole or not at all; replaces what is there."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        picture.save(temporary, "PNG")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_photo(path: Path) -> Image.Image:
    """Path of any picture -> upright RGB picture of 8 bits; transparent parts over white.

    Raises:
        InvalidImageError: the file is no picture, or a damaged or too large one.
    """
    try:
        with Image.open(path) as picture:
            levels = photo_to_levels(picture)
    except (Image.UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InvalidImageError(f"{path} cannot be read as a picture: {error}") from error
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def is_ciphertext(path: Path) -> bool:
    """Whether the file presents itself as an encrypted image: safetensors, or a PNG with our header."""
    if path.suffix.lower() == ".safetensors":
        return True
    try:
        with Image.open(path) as picture:
            return "privseg" in picture.info
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False  # no picture at all, which whoever reads it says better


def prepare(
    path: Path, model: str | Path, config: SetrConfig, processor: SetrImageProcessor, secret_key: EncryptionKey | None
) -> EncryptedImage | Image.Image:
    """Path of an encrypted image or a photo -> what this model takes: encrypted for an encrypted one, else a photo.

    Args:
        path: the image.
        model: name of the model, for messages.
        config: of the model.
        processor: of the model.
        secret_key: that of the model; only photos for an encrypted model need it.

    Raises:
        EncryptionStateError: a photo for an encrypted model without a key, or an encrypted image for a plain model.
        KeyMismatchError: the image was encrypted with another key than the model.
        CiphertextError: the image is damaged, or encrypted in blocks of another size.
    """
    facts = config.encryption
    if is_ciphertext(path):
        image = EncryptedImage.from_file(path)
        check_fits(image, config, subject=str(path), model=f"the model {model}")
        return image
    if facts is None:
        return read_photo(path)
    if secret_key is None:
        raise EncryptionStateError(
            f"{path} is a plain photo, but the model {model} is encrypted (key of fingerprint {facts['fingerprint']}, "
            f"{facts['family']}); encrypt the photo first (privseg encrypt), or give the key"
        )
    return processor.encrypt(read_photo(path), secret_key)


def plain_photo(path: Path, processor: SetrImageProcessor, secret_key: EncryptionKey | None) -> Image.Image:
    """Path of a photo or an encrypted image -> the photo at its own size, decrypted if need be.

    Raises:
        EncryptionStateError: an encrypted image without a key.
    """
    if not is_ciphertext(path):
        return read_photo(path)
    if secret_key is None:
        raise EncryptionStateError(f"{path} is encrypted; to show the photo itself, give the key that it needs")
    image = EncryptedImage.from_file(path)
    return processor.decrypt(image, secret_key).resize(image.original_size[::-1])


@torch.inference_mode()
def segment_image(
    model: SetrForSemanticSegmentation, processor: SetrImageProcessor, image: EncryptedImage | Image.Image
) -> np.ndarray:
    """An encrypted image or an upright RGB photo -> (height, width) int64 class indices, at the photo's own size."""
    regions: list[tuple[int, int]] | None
    if isinstance(image, EncryptedImage):
        size, regions = image.original_size, [image.valid_region]
    else:
        size, regions = (image.height, image.width), None
    inputs = processor(images=cast(Any, image), return_tensors="pt").to(model.device)
    maps = processor.post_process_semantic_segmentation(model(**inputs), [size], valid_regions=regions)
    return cast(torch.Tensor, maps[0]).cpu().numpy()


def _source(name: str | Path) -> str:
    """ "default", a folder or a Hub id (owner/name) -> what `from_pretrained` takes."""
    if str(name) == "default":
        return str(default_checkpoint())
    looks_like_id = not Path(name).is_absolute() and not str(name).startswith(".") and str(name).count("/") == 1
    if not Path(name).is_dir() and not looks_like_id:
        raise FileNotFoundError(f"expected a model's folder, a Hub id (owner/name) or 'default', got {name}")
    return str(name)
