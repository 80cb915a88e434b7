"""`privseg batch translate`: ciphertexts of an old key become those of a new one, by a rekey update, without a key."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from ..setr.encrypted_image import EncryptedImage
from ..setr.errors import EncryptionStateError
from ..setr.image_encrypter import ImageEncrypter
from ..setr.public_facts import check_key_fits
from ..setr.rekey_update import RekeyUpdate
from .operations import CIPHERTEXT_FIELDS, Value, Work, ciphertext_row, decode_image, one_by_one


@dataclass(frozen=True)
class Translate:
    """Translation by a rekey update.

    Args:
        update: path of the update's file, on every node. It is confidential, like a key.
    """

    name: ClassVar[str] = "translate"
    content: ClassVar[str] = "ciphertext"
    ending: ClassVar[str] = ".encrypted"
    fields: ClassVar[dict[str, pa.DataType]] = CIPHERTEXT_FIELDS
    uses_model: ClassVar[bool] = False

    update: str

    def facts(self) -> dict[str, Any]:
        """The public facts about both keys."""
        update = RekeyUpdate.from_file(self.update)
        return {"old": update.old.to_dict(), "new": update.new.to_dict()}

    def decode(self, name: str, content: bytes) -> Value:
        """The bytes of an encrypted image -> the image."""
        return decode_image(name, content, ImageEncrypter())

    def check(self, value: Value) -> None:
        """Refuse plain images, and ciphertexts of another key than the update's old one."""
        _translatable(value, RekeyUpdate.from_file(self.update))

    def work(self) -> Work:
        """Read the update -> what translates."""
        update = RekeyUpdate.from_file(self.update)

        def translate(value: Value) -> Mapping[str, Any]:
            """A ciphertext of the old key -> CIPHERTEXT_FIELDS of the new one; anything else is refused."""
            return ciphertext_row(update.apply_to_image(_translatable(value, update)))

        return one_by_one(translate)


def _translatable(value: Value, update: RekeyUpdate) -> EncryptedImage:
    if not isinstance(value, EncryptedImage):
        raise EncryptionStateError("expected encrypted images, got a plain one; encrypt it with the new key")
    check_key_fits(value.facts, update.old, subject="the encrypted image", model="the rekey update's old key")
    return value
