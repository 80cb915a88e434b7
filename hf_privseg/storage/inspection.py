"""What a model, an encrypted image, a key file or a rekey update tells about itself: public facts, never a secret."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..setr.client_embedding import ClientEmbedding
from ..setr.encrypted_image import EncryptedImage
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.keys import SecretKey
from ..setr.rekey_update import RekeyUpdate
from .models import load_settings, local_folder

_KEY_MARK = b"privseg"  # a key's text form begins with it
_UPDATE_MARK = b"privseg_rekey_update"  # an entry in the file's header
_EMBEDDING_MARK = b"privseg_client_embedding"  # likewise
_HEAD_BYTES = 4096
_MAX_HEADER_BYTES = 10**8  # of a model's file, as safetensors itself has it


def inspect(name: str) -> dict[str, Any]:
    """Path of a file or folder, Hub id or "default" -> facts, all of which JSON knows; "kind" says of what.

    A file is told by its content, not by its ending, and is read as its users read it: a damaged one is refused.

    Raises:
        OSError: there is no such file or model.
        ValueError: it is nothing of ours, or damaged.
    """
    path = Path(name)
    if not path.is_file():
        return _of_model(name)
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    facts = next((describe for is_kind, describe in _FILE_KINDS if is_kind(head)), _of_encrypted_image)(path)
    return {**facts, "path": name, "num_bytes": path.stat().st_size}


def _of_model(name: str) -> dict[str, Any]:
    try:
        config, processor = load_settings(name)
    except FileNotFoundError as error:
        if Path(name).exists():
            raise
        raise FileNotFoundError(f"{error}, which is no file either") from None
    settings = ("decoder_type", "patch_size", "num_channels", "hidden_size", "num_hidden_layers", "image_size")
    facts: dict[str, Any] = {"kind": "model", "path": name, "encryption": config.encryption}
    facts |= {setting: getattr(config, setting) for setting in settings}
    facts["photos_are_resized_to"] = _resizing(processor)
    facts["labels"] = {str(index): label for index, label in sorted((config.id2label or {}).items())}
    folder = local_folder(name)
    if folder is None:  # on the Hub; its weights are not fetched for this
        return facts
    weights = [entry for file in sorted(folder.glob("*.safetensors")) for entry in _tensors(file)]
    facts["num_parameters"] = sum(math.prod(entry["shape"]) for entry in weights)
    facts["dtypes"] = sorted({entry["dtype"] for entry in weights})
    facts["num_bytes"] = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return facts


def _resizing(processor: SetrImageProcessor) -> dict[str, Any]:
    """What the processor makes of a photo's size, before it goes to whole patches."""
    size = {name: value for name, value in dict[str, Any](processor.size or {}).items() if value is not None}
    return size or {"its own size times": processor.resize_factor}


def _of_key(path: Path) -> dict[str, Any]:
    return {"kind": "secret key", **SecretKey.from_file(path).facts.to_dict()}


def _of_client_embedding(path: Path) -> dict[str, Any]:
    embedding = ClientEmbedding.from_file(path)
    facts = {"block_length": embedding.shape[0], "numbers_sent": embedding.shape[1]}
    return {"kind": "client embedding", **embedding.facts.to_dict(), **facts}


def _of_rekey_update(path: Path) -> dict[str, Any]:
    update = RekeyUpdate.from_file(path)
    facts = {"old": vars(update.old), "new": vars(update.new)}
    return {"kind": "rekey update", **facts, "patch_size": update.patch_size, "num_channels": update.num_channels}


def _of_encrypted_image(path: Path) -> dict[str, Any]:
    try:
        image = EncryptedImage.from_file(path)
    except ValueError as error:
        raise ValueError(
            f"{path} is no key file and no rekey update, and refused as an encrypted image ({error}); to see a model, "
            "give its folder"
        ) from error
    sizes = {"size": image.pixels.shape[1:], "original_size": image.original_size, "valid_region": image.valid_region}
    facts = {"kind": "encrypted image", **image.facts.to_dict(), "patch_size": image.patch_size}
    return facts | {name: {"height": size[0], "width": size[1]} for name, size in sizes.items()}


_FILE_KINDS: tuple[tuple[Callable[[bytes], bool], Callable[[Path], dict[str, Any]]], ...] = (
    (lambda head: head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_KEY_MARK), _of_key),
    (lambda head: head[8:9] == b"{" and _UPDATE_MARK in head, _of_rekey_update),
    (lambda head: head[8:9] == b"{" and _EMBEDDING_MARK in head, _of_client_embedding),
)


def _tensors(path: Path) -> list[dict[str, Any]]:
    """[{"dtype", "shape", ...}] of a safetensors file, from its header alone."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        text = file.read(min(length, _MAX_HEADER_BYTES))
    try:
        header = json.loads(text)
        entries = [entry for name, entry in header.items() if name != "__metadata__"]
        is_whole = path.stat().st_size == 8 + length + max((entry["data_offsets"][1] for entry in entries), default=0)
    except (ValueError, AttributeError, TypeError, KeyError, IndexError):
        is_whole = False
    if not is_whole:
        raise ValueError(f"{path} is truncated or damaged, and no safetensors file; transfer it again")
    return entries
