"""What a batch job does to an image: the form of an operation, and what two of them share."""

import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa

from ..setr.array_files import array_from_file, is_array_file
from ..setr.encrypted_image import EncryptedImage
from ..setr.errors import EncryptionStateError
from ..setr.image_encrypter import ImageEncrypter
from ..setr.image_files import open_image

Value = np.ndarray | EncryptedImage  # (channels, height, width) uint8 levels of a plain image, or a ciphertext
Outcome = Mapping[str, Any] | Exception  # the fields of a row, or what went wrong with it
Work = Callable[[Sequence[Any]], list[Outcome]]

CIPHERTEXT_FIELDS: dict[str, pa.DataType] = {
    "ciphertext": pa.large_binary(),
    "width": pa.int32(),
    "height": pa.int32(),
    "family": pa.string(),
    "fingerprint": pa.string(),
    "patch_size": pa.int32(),
}


class Operation(Protocol):
    """One of encrypt, segment and translate. It is sent to workers, so that it holds names and paths alone.

    `name` is the operation's, `content` that of the field with the bytes of a result, `ending` that of files of such;
    `fields` are the fields of a row beside id, error and seconds.
    """

    name: ClassVar[str]
    content: ClassVar[str]
    ending: ClassVar[str]
    fields: ClassVar[dict[str, pa.DataType]]
    uses_model: ClassVar[bool]

    def facts(self) -> dict[str, Any]:
        """What defines it, public and as JSON has it; called where workers run.

        Raises:
            OSError, ValueError, RuntimeError: key, update and model are not there, or do not belong together.
        """

    def decode(self, name: str, content: bytes) -> Any:
        """The bytes of a record -> what the work takes; needs neither key nor torch.

        Raises:
            Exception: any, for bytes that are no image, or a damaged one.
        """

    def check(self, value: Any) -> None:
        """Refuse a job by its first image: plain in place of encrypted, of another key.

        Raises:
            ValueError, RuntimeError: what is wrong, for the whole job.
        """

    def work(self) -> Work:
        """Read the key or load the model -> what turns decoded images into rows."""


def decode_image(name: str, content: bytes, encrypter: ImageEncrypter) -> Value:
    """The bytes of a plain or encrypted image -> levels as `encrypter` takes them, or the ciphertext.

    Raises:
        InvalidImageError, CiphertextError: the image is damaged, or is none.
    """
    if is_ciphertext(content):
        return EncryptedImage.from_bytes(content)
    if is_array_file(name):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "image.npy"
            path.write_bytes(content)
            return encrypter.to_levels(array_from_file(path))
    with open_image(io.BytesIO(content)) as image:
        return encrypter.to_levels(image)


def is_ciphertext(content: bytes) -> bool:
    """Whether bytes present themselves as an encrypted image: as safetensors, or as PNG with our header."""
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content):
        return True
    if content[:4] != b"\x89PNG":
        return False
    with open_image(io.BytesIO(content)) as image:
        return "privseg" in image.info


def ciphertext_row(image: EncryptedImage) -> dict[str, Any]:
    """An encrypted image -> CIPHERTEXT_FIELDS."""
    height, width = image.original_size
    facts = {"family": image.family, "fingerprint": image.fingerprint, "patch_size": image.patch_size}
    return {"ciphertext": image.to_bytes(), "width": width, "height": height, **facts}


def one_by_one(act: Callable[[Any], Mapping[str, Any]]) -> Work:
    """What makes a row of one value -> what does it with several, and returns the errors among the rows."""

    def work(values: Sequence[Any]) -> list[Outcome]:
        rows: list[Outcome] = []
        for value in values:
            try:
                rows.append(act(value))
            except Exception as error:  # of one image, which must not end the job
                rows.append(error)
        return rows

    return work


def refuse_ciphertext(value: object) -> None:
    """Refuse an encrypted image in place of a plain one."""
    if isinstance(value, EncryptedImage):
        raise EncryptionStateError(
            f"expected plain images, got one that is encrypted already ({value.facts}); encrypting twice would ruin it"
        )
