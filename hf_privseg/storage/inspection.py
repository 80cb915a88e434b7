"""The public facts about a model, an encrypted image or inputs, a key, a client embedding or a rekey update."""

import math
from pathlib import Path
from typing import Any

from ..setr.arrays import is_tensor
from ..setr.client_embedding import ClientEmbedding
from ..setr.encrypted_image import EncryptedImage
from ..setr.errors import HeaderError
from ..setr.image_encrypter import ImageEncrypter
from ..setr.keys import SecretKey
from ..setr.rekey_update import RekeyUpdate
from ..setr.tensor_files import TensorEntry, header_from_file
from .model_files import is_setr, local_folder, read_setr_settings

_KEY_MARK = b"privseg"  # the first bytes of a key's text form
_SPACE_BEFORE_KEY = b"\xef\xbb\xbf \t\r\n"


def inspect(name: str) -> dict[str, object]:
    """Path of a file or folder, Hub id or "default" -> the facts about it, as values that JSON has.

    The entry "kind" says what it is. The content of a file decides, not its ending. A damaged file is refused, as it
    is where it is used.

    Raises:
        OSError: there is no such file or model.
        ValueError: the file or folder is damaged, or is none of this package.
    """
    path = Path(name)
    if not path.is_file():
        return _of_model(name)
    return {**_of_file(path), "path": name, "num_bytes": path.stat().st_size}


def _of_file(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        if file.read(64).lstrip(_SPACE_BEFORE_KEY).startswith(_KEY_MARK):
            return _of_key(path)
    try:
        entries = header_from_file(path).metadata
    except HeaderError:  # a PNG or a damaged file; the reader of encrypted images says which
        entries = {}
    if "privseg_rekey_update" in entries:
        return _of_rekey_update(path)
    if "privseg_inputs" in entries:
        return _of_encrypted_inputs(path)
    if "privseg_client_embedding" in entries:
        return _of_client_embedding(path)
    return _of_encrypted_image(path)


def _of_model(name: str) -> dict[str, object]:
    try:
        if not is_setr(name):
            return _of_vision_model(name)
        settings = read_setr_settings(name)
    except FileNotFoundError as error:
        if Path(name).exists():
            raise
        raise FileNotFoundError(f"{error}, which is no file either") from None
    key = settings.key_facts
    facts: dict[str, Any] = {"kind": "model", "path": name, "encryption": None if key is None else key.to_dict()}
    shown = ("decoder_type", "patch_size", "num_channels", "hidden_size", "num_hidden_layers", "image_size")
    facts |= {setting: settings.config[setting] for setting in shown}
    facts["images_are_resized_to"] = _resizing(settings.encrypter)
    return facts | {"labels": settings.labels} | _of_weights(name)


def _of_vision_model(name: str) -> dict[str, object]:
    """A model of another class than SETR; what its configuration does not say of an encryption is None."""
    from ..any_vit.model_facts import ModelFacts
    from .vision_models import load_any_settings

    config, processor = load_any_settings(name)
    found = ModelFacts.of(config)
    facts: dict[str, object] = {"kind": "model", "path": name, "class": (config.architectures or [""])[0]}
    facts |= {"encryption": None if found is None else found.key.to_dict(), "processor": type(processor).__name__}
    if found is not None:
        facts |= {"patch_size": found.patch_size, "num_channels": found.num_channels}
    names: Any = config.id2label or {}
    return facts | {"labels": {str(index): label for index, label in sorted(names.items())}} | _of_weights(name)


def _of_weights(name: str) -> dict[str, Any]:
    folder = local_folder(name)
    if folder is None:  # a model on the Hub, whose weights are not fetched for this
        return {}
    facts: dict[str, Any] = {}
    weights = [entry for file in sorted(folder.glob("*.safetensors")) for entry in _tensors(file)]
    facts["num_parameters"] = sum(math.prod(entry.shape) for entry in weights)
    facts["dtypes"] = sorted({entry.dtype for entry in weights})
    facts["num_bytes"] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return facts


def _resizing(processor: ImageEncrypter) -> dict[str, Any]:
    """How the processor resizes an image, before it rounds to whole patches."""
    size = {name: value for name, value in dict[str, Any](processor.size or {}).items() if value is not None}
    return size or {"its own size times": processor.resize_factor}


def _of_key(path: Path) -> dict[str, object]:
    return {"kind": "secret key", **SecretKey.from_file(path).facts.to_dict()}


def _of_client_embedding(path: Path) -> dict[str, object]:
    embedding = ClientEmbedding.from_file(path)
    facts: dict[str, object] = {"block_length": embedding.shape[0], "numbers_sent": embedding.shape[1]}
    if embedding.code is not None:
        facts["bits_per_block"] = {"least": embedding.code.bits[-1], "most": embedding.code.bits[0]}
    return {"kind": "client embedding", **embedding.facts.to_dict(), **facts}


def _of_rekey_update(path: Path) -> dict[str, object]:
    update = RekeyUpdate.from_file(path)
    facts = {"old": vars(update.old), "new": vars(update.new)}
    return {"kind": "rekey update", **facts, "patch_size": update.patch_size, "num_channels": update.num_channels}


def _of_encrypted_inputs(path: Path) -> dict[str, Any]:
    from ..any_vit.encrypted_inputs import EncryptedInputs

    encrypted = EncryptedInputs.from_file(path)
    shapes = {
        name: list(value.shape) if is_tensor(value) else value
        for name, value in encrypted.inputs.items()
        if not isinstance(value, list | tuple)
    }
    facts = {"kind": "encrypted inputs", **encrypted.facts.to_dict(), "patch_size": encrypted.patch_size}
    sizes = [list(size) for size in encrypted.target_sizes]
    return facts | {"num_channels": encrypted.num_channels, "inputs": shapes, "original_sizes": sizes}


def _of_encrypted_image(path: Path) -> dict[str, object]:
    try:
        image = EncryptedImage.from_file(path)
    except ValueError as error:
        raise ValueError(
            f"{path} is no key file and no rekey update, and refused as an encrypted image ({error}); to see a model, "
            "give its folder"
        ) from error
    sizes = {"size": image.pixels.shape[1:], "original_size": image.original_size, "valid_region": image.valid_region}
    facts: dict[str, object] = {
        "kind": "encrypted image",
        **image.facts.to_dict(),
        "patch_size": image.patch_size,
    }
    facts |= {"bits": image.bits} if image.step is None else {"step": image.step}  # the latter of the compact form
    return facts | {name: {"height": size[0], "width": size[1]} for name, size in sizes.items()}


def _tensors(path: Path) -> list[TensorEntry]:
    """The tensors of a safetensors file, from its header alone."""
    try:
        return list(header_from_file(path).tensors.values())
    except HeaderError as error:
        raise ValueError(f"{path} is truncated or damaged, or no safetensors file; transfer it again") from error
