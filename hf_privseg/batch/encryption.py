"""`privseg batch encrypt`: plain images become encrypted ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from ..setr.image_encrypter import ImageEncrypter
from ..setr.public_facts import check_key_fits
from ..setr.rounding import Rounding
from ..storage.model_files import read_setr_settings
from .key_source import KeySource
from .operations import CIPHERTEXT_FIELDS, Value, Work, ciphertext_row, decode_image, one_by_one, refuse_ciphertext


@dataclass(frozen=True)
class Encrypt:
    """Encryption, as `ImageEncrypter` does it.

    Args:
        key: where workers find the key.
        model: name of the model whose settings are used; None takes the defaults.
        bits, bits_per_block: round what is sent, as `ImageEncrypter.encrypt` does.
    """

    name: ClassVar[str] = "encrypt"
    content: ClassVar[str] = "ciphertext"
    ending: ClassVar[str] = ".encrypted"
    fields: ClassVar[dict[str, pa.DataType]] = CIPHERTEXT_FIELDS
    uses_model: ClassVar[bool] = False

    key: KeySource
    model: str | None = None
    bits: int | None = None
    bits_per_block: float | None = None

    def facts(self) -> dict[str, Any]:
        """The public facts about the key, and the settings of the processor."""
        key, settings = self.key.read(), None
        Rounding.of(key, bits=self.bits, bits_per_block=self.bits_per_block)  # refuses
        if self.model is not None:
            settings = read_setr_settings(self.model)
            if settings.key_facts is not None:
                check_key_fits(key.facts, settings.key_facts, model=f"the model {self.model}")
        encrypter = _encrypter(self.model)
        public = {"key": key.facts.to_dict(), "model": self.model}
        rounding = {"bits": self.bits, "bits_per_block": self.bits_per_block}
        return {**public, **rounding, "processor": {name: _plain(value) for name, value in vars(encrypter).items()}}

    def decode(self, name: str, content: bytes) -> Value:
        """The bytes of an image -> its levels."""
        return decode_image(name, content, _encrypter(self.model))

    def check(self, value: Value) -> None:
        """Refuse ciphertexts."""
        refuse_ciphertext(value)

    def work(self) -> Work:
        """Read the key -> what encrypts."""
        key, encrypter = self.key.read(), _encrypter(self.model)

        def encrypt(levels: Value) -> Mapping[str, Any]:
            """(channels, height, width) uint8 levels -> CIPHERTEXT_FIELDS; a ciphertext is refused."""
            refuse_ciphertext(levels)
            assert isinstance(levels, np.ndarray)
            encrypted = encrypter.encrypt(
                levels,
                key,
                input_data_format="channels_first",
                bits=self.bits,
                bits_per_block=self.bits_per_block,
            )
            return ciphertext_row(encrypted)

        return one_by_one(encrypt)


@cache
def _encrypter(model: str | None) -> ImageEncrypter:
    return ImageEncrypter() if model is None else read_setr_settings(model).encrypter


def _plain(value: Any) -> Any:
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value
