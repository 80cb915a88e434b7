"""The safetensors file in which a service and its clients exchange a patch embedding, plain or encrypted.

It holds one float32 tensor, "weight" (hidden_size, channels, patch_size, patch_size). The metadata of an encrypted one
hold family, version and fingerprint of the key as text, and may hold the SHA-256 of the weight's little-endian bytes,
which finds accidents. The bias never changes and stays with the service.
"""

import hashlib

import torch

from ..setr.errors import HeaderError
from ..setr.public_facts import FORMAT_VERSION, KeyFacts
from ..setr.tensor_files import header_from_bytes, tensors_from_bytes, tensors_to_bytes

_CHECKSUM = "sha256"


def embedding_to_bytes(weight: torch.Tensor, facts: KeyFacts | None = None) -> bytes:
    """(hidden_size, channels, patch_size, patch_size) float -> the file's content.

    Args:
        weight: stored as float32.
        facts: about the key that encrypted it; None where it is plain.
    """
    weight = weight.detach().float().cpu().contiguous()
    metadata = None if facts is None else {name: str(value) for name, value in facts.to_dict().items()}
    return tensors_to_bytes({"weight": weight}, metadata and metadata | {_CHECKSUM: _digest(weight)})


def embedding_from_bytes(data: bytes) -> tuple[torch.Tensor, KeyFacts]:
    """The content of a file with an encrypted weight -> that weight, float32, and the facts about its key.

    The name of the tensor does not matter. The facts are what the file says: nothing here can verify them.

    Raises:
        ValueError: no safetensors file, not exactly one float32 tensor of finite numbers, facts out of range, or a
            weight other than the one of the file's checksum.
    """
    try:
        header = header_from_bytes(data)
        kinds = [f"{entry.dtype} {entry.shape}" for entry in header.tensors.values()]
        if [entry.dtype for entry in header.tensors.values()] != ["F32"]:
            raise ValueError(f"expected one float32 tensor, the encrypted projection weight, got {kinds!r:.200}")
        (weight,) = tensors_from_bytes(data).values()
    except HeaderError as error:
        raise ValueError(
            f"expected a safetensors file with an encrypted patch embedding, got something else or a part ({error})"
        ) from error
    if not torch.isfinite(weight).all():
        raise ValueError("expected a projection weight of finite numbers, got NaN or infinity")
    if header.metadata.get(_CHECKSUM, _digest(weight)) != _digest(weight):
        raise ValueError("expected the projection weight of the file's checksum, got another one; send the file again")
    return weight, _facts_of(header.metadata)


def _facts_of(metadata: dict[str, str]) -> KeyFacts:
    """A file's metadata, all of it text -> the facts about the key."""
    facts: dict[str, object] = {name: metadata.get(name) for name in ("family", "version", "fingerprint")}
    if facts["version"] == str(FORMAT_VERSION):
        facts["version"] = FORMAT_VERSION
    try:
        return KeyFacts.from_dict(facts)
    except ValueError as error:
        raise ValueError(f"expected the facts about a key in the file's metadata, but {error}") from None


def _digest(weight: torch.Tensor) -> str:
    return hashlib.sha256(weight.numpy().astype("<f4", copy=False).tobytes()).hexdigest()
