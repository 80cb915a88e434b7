"""Secret keys: 32 random bytes bound to a key family. This file makes, reads and writes them.

How bytes become an order, signs or a rotation is in `derivation.py`.
"""

import base64
import hashlib
import hmac
import os
import re
import secrets
import unicodedata
import warnings
from collections.abc import Callable, Hashable
from typing import ClassVar, TypeVar, final

import numpy as np

from .derivation import (
    NAMESPACE,
    normals,
    orthogonal_from_normals,
    pseudorandom_key,
    random_signs,
    shuffled,
    stream_bytes,
    stream_words,
)
from .errors import InvalidKeyError
from .memo import shared_memo
from .private_file import PrivateFile
from .public_facts import FAMILIES, FORMAT_VERSION, KeyFacts, key_families

DEFAULT_FAMILY = "orthogonal"

_T = TypeVar("_T")
_KEY_BYTES = 32
_SALT_BYTES = 16
_PREFIX = f"privseg{FORMAT_VERSION}"
_BASE64_LENGTH = 43  # 32 bytes in base64url without padding


@final
class SecretKey(PrivateFile):
    """32 secret bytes bound to one key family and one format version.

    `generate` makes one; `from_file`, `from_env` and `from_text` read one. The bytes come out again only through
    `to_text` and `to_file`: the representation shows the public fingerprint, and pickling and copying raise an error,
    so that no log, cache or worker process receives a key by accident.

    Two keys are equal where bytes and family are (compared in constant time); the hash is that of the fingerprint. A
    key remembers what it has derived, and equal keys share it; it is released together with the last of them.
    """

    __slots__ = ("__secret", "_family", "_memo")

    _privseg_kind: ClassVar[str] = "key"
    _loss: ClassVar[str] = "whatever was encrypted with a key that it holds would be lost with it"
    _max_file_bytes: ClassVar[int] = 4096

    def __init__(self, secret_bytes: bytes, family: str = DEFAULT_FAMILY) -> None:
        """Exactly 32 bytes from a source of cryptographic randomness -> the key.

        Raises:
            InvalidKeyError: not 32 bytes, or an unknown family.
        """
        if not isinstance(secret_bytes, bytes) or len(secret_bytes) != _KEY_BYTES:
            came = f"{len(secret_bytes)} bytes" if isinstance(secret_bytes, bytes) else type(secret_bytes).__name__
            raise InvalidKeyError(
                f"a secret key is exactly {_KEY_BYTES} bytes, got {came}; make one with SecretKey.generate()"
            )
        self.__secret = secret_bytes
        self._family = _checked_family(family)
        self._memo = shared_memo(stream_bytes(self._prk(), f"{NAMESPACE}/{family}/memo", _KEY_BYTES))

    @classmethod
    def generate(cls, family: str = DEFAULT_FAMILY) -> "SecretKey":
        """A new key of `family` from the operating system's randomness."""
        return cls(secrets.token_bytes(_KEY_BYTES), family)

    @classmethod
    def from_text(cls, text: str) -> "SecretKey":
        """`privseg1.<family>.<base64url without padding>`, white space around it ignored -> key.

        Raises:
            InvalidKeyError: the text is no key; the message says which part is wrong and never repeats the text.
        """
        if not isinstance(text, str):
            raise InvalidKeyError(f"SecretKey.from_text expects a str, got {type(text).__name__}")
        prefix, *rest = text.strip().split(".")
        problem: str | None
        if prefix != _PREFIX:
            problem = f"does not begin with '{_PREFIX}.'"
        elif len(rest) != 2:
            problem = f"has {len(rest) + 1} parts, not 3"
        elif rest[0] not in key_families():
            problem = f"names no known family (choose one of {', '.join(key_families())})"
        else:
            problem = _problem_in_base64url(rest[1])
        if problem:
            raise InvalidKeyError(f"a key's text form is '{_PREFIX}.<family>.<base64url>'; this text {problem}")
        return cls(base64.urlsafe_b64decode(rest[1] + "="), rest[0])

    def to_text(self) -> str:
        """The text form `privseg1.<family>.<base64url without padding>`. It *is* the secret: never log it."""
        return f"{_PREFIX}.{self._family}.{base64.urlsafe_b64encode(self.__secret).rstrip(b'=').decode()}"

    def _file_content(self) -> bytes:
        return f"{self.to_text()}\n".encode()

    @classmethod
    def _from_file_content(cls, content: bytes) -> "SecretKey":
        if content[8:9] == b"{":
            raise InvalidKeyError(
                "the file is no text; if it is a client embedding, ClientEmbedding.from_file reads it"
            )
        return cls.from_text(content.decode("utf-8-sig", errors="replace"))

    @classmethod
    def from_env(cls, variable: str = "PRIVSEG_KEY") -> "SecretKey":
        """Name of an environment variable that holds the text form -> key.

        Raises:
            InvalidKeyError: the variable is not set or holds something else; the message never repeats its value.
        """
        text = os.environ.get(variable)
        if text is None:
            raise InvalidKeyError(f"the environment variable {variable} is not set; it should hold a key's text form")
        try:
            return cls.from_text(text)
        except InvalidKeyError as error:
            raise InvalidKeyError(f"environment variable {variable}: {error}") from None

    @classmethod
    def from_passphrase(cls, passphrase: str, *, family: str = DEFAULT_FAMILY, salt: bytes) -> "SecretKey":
        """Passphrase (any Unicode text, taken in its NFC form as UTF-8) and a public 16-byte salt -> key.

        The 32 bytes are scrypt(passphrase, salt, n = 2**17, r = 8, p = 1), which costs some tenths of a second and
        128 MiB for each guess. The public fingerprint lets anyone test guesses, so that the key is only as strong as
        the passphrase.

        Args:
            passphrase: not empty.
            family: the key family of the key.
            salt: from `SecretKey.new_salt()`. Keep it: the same passphrase with another salt makes another key.
        """
        if not isinstance(passphrase, str) or not passphrase:
            came = "an empty one" if isinstance(passphrase, str) else type(passphrase).__name__
            raise InvalidKeyError(f"expected a passphrase that is a str and not empty, got {came}")
        if not isinstance(salt, bytes) or len(salt) != _SALT_BYTES:
            came = f"{len(salt)} bytes" if isinstance(salt, bytes) else type(salt).__name__
            raise InvalidKeyError(
                f"the salt is exactly {_SALT_BYTES} bytes, got {came}; make one with SecretKey.new_salt() and store it"
            )
        _checked_family(family)  # before the costly part
        password = unicodedata.normalize("NFC", passphrase).encode(errors="surrogatepass")
        secret = hashlib.scrypt(password, salt=salt, n=2**17, r=8, p=1, maxmem=2**28, dklen=_KEY_BYTES)
        return cls(secret, family)

    @staticmethod
    def new_salt() -> bytes:
        """16 random bytes for `from_passphrase`. They are public; making the same key again needs them."""
        return secrets.token_bytes(_SALT_BYTES)

    @classmethod
    def from_seed(cls, seed: int, *, family: str = DEFAULT_FAMILY) -> "SecretKey":
        """Integer >= 0 -> key, for experiments that others repeat. Warns, since such a key protects nothing.

        The 32 bytes are SHA-256("hf-privseg/v1/seed/<seed in decimal>").
        """
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            came = "a negative int" if isinstance(seed, int) and not isinstance(seed, bool) else type(seed).__name__
            raise InvalidKeyError(f"a seed is an int >= 0, got {came}")
        warnings.warn(
            "SecretKey.from_seed is for reproducing experiments: whoever tries the seeds has the key; "
            "use SecretKey.generate() for anything private",
            UserWarning,
            stacklevel=2,
        )
        return cls(hashlib.sha256(f"{NAMESPACE}/seed/{seed}".encode()).digest(), family)

    @property
    def family(self) -> str:
        """The key family, one of `key_families()`."""
        return self._family

    @property
    def version(self) -> int:
        """The format version of the key and of everything derived from it."""
        return FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal characters, public: the same for equal keys, and another for any other key or family.

        The first 8 bytes of the stream with label "hf-privseg/v1/<family>/fingerprint".
        """
        return stream_bytes(self._prk(), f"{NAMESPACE}/{self._family}/fingerprint", 8).hex()

    @property
    def facts(self) -> KeyFacts:
        """The three public facts: family, version and fingerprint."""
        return KeyFacts(self.family, self.version, self.fingerprint)

    def derive_bytes(self, purpose: str, block_length: int, num_bytes: int) -> bytes:
        """The first `num_bytes` bytes of the stream with label "hf-privseg/v1/<family>/<block_length>/<purpose>"."""
        return stream_bytes(self._prk(), self._label(purpose, block_length), num_bytes)

    def permutation(self, block_length: int, purpose: str = "order") -> np.ndarray:
        """(block_length,) int64, a uniformly random order of 0..block_length-1 (the paper's l_enc, section 3.2.2)."""

        def make() -> np.ndarray:
            return shuffled(block_length, stream_words(self._prk(), self._label(purpose, block_length)))

        return self._remember_array("permutation", block_length, purpose, make)

    def signs(self, block_length: int, purpose: str = "signs") -> np.ndarray:
        """(block_length,) int8 of +1 and -1, independent and equally likely."""

        def make() -> np.ndarray:
            return random_signs(block_length, self.derive_bytes(purpose, block_length, -(-block_length // 8)))

        return self._remember_array("signs", block_length, purpose, make)

    def haar(self, block_length: int, purpose: str = "haar") -> np.ndarray:
        """(block_length, block_length) float64, an orthogonal matrix with Haar (uniform) distribution.

        The same on any machine to about 1e-14, not bit for bit.
        """

        def make() -> np.ndarray:
            num_pairs = -(-block_length * (block_length + 1) // 4)
            numbers = normals(self.derive_bytes(purpose, block_length, 16 * num_pairs))
            return orthogonal_from_normals(block_length, numbers)

        return self._remember_array("haar", block_length, purpose, make)

    def remember(self, name: Hashable, make: Callable[[], _T]) -> _T:
        """make(), called once for this key and `name`; the result lives as long as the key or one that equals it."""
        return self._memo.remember(name, make)

    def _remember_array(self, kind: str, length: int, purpose: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        array = self.remember((kind, length, purpose), make)
        array.flags.writeable = False
        return array

    def _label(self, purpose: str, block_length: int) -> str:
        return f"{NAMESPACE}/{self._family}/{block_length}/{purpose}"

    def _prk(self) -> bytes:
        return pseudorandom_key(self.__secret)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretKey):
            return NotImplemented
        return self._family == other._family and hmac.compare_digest(self.__secret, other.__secret)

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"SecretKey(family={self._family!r}, fingerprint={self.fingerprint!r})"


def as_key(value: object) -> SecretKey:
    """A SecretKey (of this or another copy of this module), or exactly 32 bytes (default family) -> SecretKey.

    With remote code this file may be loaded a second time, and then its SecretKey is another class. A key of that
    class is rebuilt from its text form and shares what the original has derived.

    Raises:
        InvalidKeyError: anything else; names the constructor to call.
    """
    if isinstance(value, SecretKey):
        return value
    if isinstance(value, bytes):
        return SecretKey(value)
    if SecretKey._recognises(value):
        rebuilt = SecretKey.from_text(value.to_text())
        rebuilt._memo = getattr(value, "_memo", rebuilt._memo)
        return rebuilt
    advice = {
        "int": "SecretKey.from_seed(seed) makes one for experiments",
        "str": "SecretKey.from_text reads a key's text, SecretKey.from_file a key file, "
        "SecretKey.from_passphrase takes a passphrase",
        "ClientEmbedding": "a client embedding serves models and image processors, in the place of a key, alone; "
        "make a key with SecretKey.generate()",
    }
    raise InvalidKeyError(
        f"expected a SecretKey or {_KEY_BYTES} bytes, got {type(value).__name__}; "
        + advice.get(type(value).__name__, "read one with SecretKey.from_file or make one with SecretKey.generate()")
    )


def _checked_family(family: str) -> str:
    if family not in key_families():
        raise InvalidKeyError(f"unknown key family {family!r}; choose one of {', '.join(key_families())}")
    return family


def _problem_in_base64url(text: str) -> str | None:
    """Why the text is not the one canonical base64url form of 32 bytes; None where it is."""
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        return "has characters outside A-Z a-z 0-9 - _ in its last part (base64url without padding)"
    if len(text) != _BASE64_LENGTH:
        return f"has {len(text)} characters in its last part, not {_BASE64_LENGTH}"
    if text[-1] not in "AEIMQUYcgkosw048":  # 43 characters hold 258 bits, and the last two are zero
        return "ends in a character that no key ends in (mistyped or cut)"
    return None


__all__ = ["DEFAULT_FAMILY", "FAMILIES", "FORMAT_VERSION", "SecretKey", "as_key"]
