"""What counts as a key: a `SecretKey`, a `ClientEmbedding`, or 32 bytes, which are a key of the default family.

Public entry points take `EncryptionKey | bytes` and call `as_encryption_key` once; whatever is behind them takes an
`EncryptionKey`.
"""

import os

from .client_embedding import ClientEmbedding, is_client_embedding
from .keys import SecretKey, as_key
from .private_file import refuse_key_text

EncryptionKey = SecretKey | ClientEmbedding


def as_encryption_key(value: object) -> EncryptionKey:
    """A `ClientEmbedding` (of this or another copy of its module), or whatever `as_key` takes -> the key.

    Raises:
        InvalidKeyError: anything else; names the constructor to call.
    """
    if isinstance(value, ClientEmbedding):
        return value
    if is_client_embedding(value):  # of another copy; rebuilt once
        return value.remember(ClientEmbedding, lambda: ClientEmbedding.from_bytes(value.to_bytes()))
    return as_key(value)


def key_from_bytes(content: bytes) -> EncryptionKey:
    """What a key's or a client embedding's file holds -> what is in it; for keys that come from elsewhere than a file.

    Raises:
        InvalidKeyError: it is neither; the message repeats nothing of it.
    """
    kind = ClientEmbedding if content[8:9] == b"{" else SecretKey
    return kind._from_file_content(content)


def key_from_file(path: str | os.PathLike[str]) -> EncryptionKey:
    """Path of a key's or a client embedding's file -> what is in it; the content decides, not the name.

    Raises:
        InvalidKeyError: the file holds neither; names the file. Or `path` is the text of a key.
        OSError: the file cannot be read.
    """
    refuse_key_text(path, "key_from_file")
    with open(path, "rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    return ClientEmbedding.from_file(path) if is_safetensors else SecretKey.from_file(path)
