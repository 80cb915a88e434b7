"""Client embeddings: the client computes most of the patch embedding itself, with a secret matrix from a file.

The patch embedding E (L x hidden_size) of rank r has the thin singular value decomposition E = U S V^T:

    client   b_hat = b A,       A = U S Q^T     (L x r), Q orthogonal of size r, Haar distributed: a `ClientEmbedding`
    server   E_hat = Q V^T      (r x hidden_size), so that b_hat E_hat = b E

The file form is safetensors with "matrix", A, float64 (L, r), and "fingerprint_key", uint8 (32,). Its metadata entry
"privseg_client_embedding" is a JSON object with exactly the entries format, family, version, fingerprint, patch_size
and num_channels. With a transform code (`transform_code`) it also has "code_transform" (r, r), "code_steps" (n,) and
"code_bits" (n,), float64; the client then sends b A T, and the server's part is T^-1 Q V^T.

The public fingerprint is the first 8 bytes of the stream of `derivation` from the 32 random bytes with label
"hf-privseg/v1/embedding/fingerprint/<d>", where d is the hexadecimal SHA-256 over "<patch_size>,<num_channels>,<r>,"
and the little-endian numbers of A, row by row, then those of the transform code, array by array. Without the random
bytes nobody can use the fingerprint to test a guess of A or E.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeGuard, TypeVar, final

import numpy as np

from .arrays import to_array
from .derivation import NAMESPACE, pseudorandom_key, stream_bytes
from .errors import HeaderError, InvalidKeyError
from .keys import SecretKey
from .memo import Memo
from .private_file import PrivateFile
from .public_facts import EMBEDDING_FAMILY, FORMAT_VERSION, KeyFacts, check_plain_model
from .tensor_files import arrays_from_bytes, arrays_to_bytes, header_from_bytes
from .transform_code import TransformCode

if TYPE_CHECKING:
    import torch

_T = TypeVar("_T")
_FORMAT = 1
_ENTRY = "privseg_client_embedding"
_HEADER = ("format", "family", "version", "fingerprint", "patch_size", "num_channels")
_CODE = ("transform", "steps", "bits")  # of a transform code
_FINGERPRINT_KEY_BYTES = 32
_RANK_TOLERANCE = 2.0**-23  # the rounding of a float32 weight: below it a singular value is noise


@final
class ClientEmbedding(PrivateFile):
    """The client's part A (L, r) float64 of one model's patch embedding: a secret in the place of a `SecretKey`.

    `generate` makes one from the plain model. `encrypt_model`, `rekey_model`, the processor and the pipeline take it
    as their secret key. It belongs to the model that it was made from, and to no other.

    The server gets r numbers for each block, and E_hat with orthonormal rows. They show what the embeddings z = b E
    show and nothing else, which is the least that an exact scheme can show; the null space of E never leaves the
    client.

    What bounds it: z in the model's own coordinates. Without E an attacker reached a high-pass correlation of .22 from
    64 images (.60 for the orthogonal family; block means alone score .04; CamVid frames of 480 x 352, ciphertext only,
    images of similar scenes: `attacks/canonical.py`). A public E, or a public checkpoint near it, is still fatal,
    and so is a plain image whose ciphertext is known.

    What it costs: the secret is a file of megabytes instead of 32 bytes, and it holds E up to a rotation. Together
    with the model it *is* E, so that a leaked file opens all images, past and future, to the provider. No new key
    helps then: a new patch embedding must be trained in private.

    Two client embeddings are equal where all numbers are; the hash is that of the fingerprint.
    """

    __slots__ = ("__code", "__fingerprint_key", "__matrix", "_fingerprint", "_memo", "num_channels", "patch_size")

    _privseg_kind: ClassVar[str] = "client embedding"
    _loss: ClassVar[str] = "whatever was encrypted with a client embedding or key that it holds would be lost with it"
    _max_file_bytes: ClassVar[int] = 2**28  # A of 5792 x 5792 numbers

    def __init__(
        self,
        matrix: "np.ndarray | torch.Tensor",
        fingerprint_key: bytes,
        *,
        patch_size: int,
        num_channels: int,
        code: TransformCode | None = None,
    ) -> None:
        """The parts of a file -> the client embedding; users call `generate` or `from_file`.

        Args:
            matrix: A, (num_channels * patch_size**2, r) float64, an array or a tensor.
            fingerprint_key: 32 random bytes.
            patch_size, num_channels: geometry of the patch embedding.
            code: for r numbers, with which images may be sent in few bits.

        Raises:
            InvalidKeyError: a part of the wrong form; the message shows no number of the matrix.
        """
        for name, value in (("patch_size", patch_size), ("num_channels", num_channels)):
            if type(value) is not int or value < 1:
                raise InvalidKeyError(f"{name} of a client embedding is an int >= 1, got {value!r:.80}")
        numbers = to_array(matrix)
        _check_matrix(numbers, num_channels * patch_size**2)
        if not isinstance(fingerprint_key, bytes) or len(fingerprint_key) != _FINGERPRINT_KEY_BYTES:
            came = f"{len(fingerprint_key)}" if isinstance(fingerprint_key, bytes) else type(fingerprint_key).__name__
            raise InvalidKeyError(f"fingerprint_key is {_FINGERPRINT_KEY_BYTES} bytes, got {came}")
        if code is not None and len(code.transform) != numbers.shape[1]:
            raise InvalidKeyError(
                f"the transform code of a client embedding is for its {numbers.shape[1]} numbers, got one for "
                f"{len(code.transform)}"
            )
        self.__matrix, self.__fingerprint_key, self.__code = numbers, fingerprint_key, code
        self.patch_size, self.num_channels = patch_size, num_channels
        self._fingerprint = self._derived_fingerprint()
        self._memo = Memo()

    @classmethod
    def generate(cls, model: Any) -> "ClientEmbedding":
        """A plain SETR model (of any class) -> a new client embedding for it, with fresh randomness.

        Singular values of E below 2**-23 of the largest one, the rounding of float32, count as zero.

        Raises:
            EncryptionStateError: the model is encrypted.
            ValueError: its patch embedding is zero, or has infinite numbers or NaN.
        """
        check_plain_model(model.config.key_facts)
        return cls.from_projection(model.patch_projection)

    @classmethod
    def from_projection(cls, projection: Any) -> "ClientEmbedding":
        """The `PatchProjection` of a plain model of any class -> a new client embedding. Raises as `generate`."""
        weight = projection.weight
        rows = to_array(weight).astype(np.float64).reshape(len(weight), -1)
        if not np.isfinite(rows).all() or not rows.any():
            raise ValueError(
                "expected a patch embedding of finite numbers that are not all zero, got "
                f"{'zeros' if np.isfinite(rows).all() else 'infinite numbers or NaN'}; load a trained model"
            )
        u, s, _ = np.linalg.svd(rows.T, full_matrices=False)
        rank = int((s > _RANK_TOLERANCE * s[0]).sum())
        # The key only supplies randomness and is forgotten at once.
        rotation = SecretKey.generate().haar(rank)
        matrix = (u[:, :rank] * s[:rank]) @ rotation.T
        fingerprint_key = secrets.token_bytes(_FINGERPRINT_KEY_BYTES)
        geometry = {"patch_size": projection.patch_size, "num_channels": projection.num_channels}
        return cls(matrix, fingerprint_key, **geometry)

    def with_code(self, code: TransformCode) -> "ClientEmbedding":
        """The same client's part with a transform code: another client embedding, with a fingerprint of its own."""
        geometry = {"patch_size": self.patch_size, "num_channels": self.num_channels}
        return ClientEmbedding(self.__matrix, secrets.token_bytes(_FINGERPRINT_KEY_BYTES), **geometry, code=code)

    @property
    def family(self) -> str:
        """The key family, "embedding"; no `SecretKey` has it."""
        return EMBEDDING_FAMILY

    @property
    def version(self) -> int:
        """The format version of keys."""
        return FORMAT_VERSION

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal characters, public: another one for every client embedding, and of no use to test a guess."""
        return self._fingerprint

    @property
    def facts(self) -> KeyFacts:
        """The three public facts: family, version and fingerprint."""
        return KeyFacts(self.family, self.version, self.fingerprint)

    @property
    def shape(self) -> tuple[int, int]:
        """(L, r): the pixels of a block, and the numbers that the client sends for it."""
        length, rank = self.__matrix.shape
        return length, rank

    @property
    def matrix(self) -> np.ndarray:
        """A, (L, r) float64, not a copy of it. It *is* the secret: never log it, never change it."""
        return self.__matrix

    @property
    def code(self) -> TransformCode | None:
        """The transform code, a part of the secret; None where there is none."""
        return self.__code

    def remember(self, name: Hashable, make: Callable[[], _T]) -> _T:
        """make(), called once for this object and `name`; the result lives as long as the object."""
        return self._memo.remember(name, make)

    def to_bytes(self) -> bytes:
        """The content of the file. It *is* the secret: never log it."""
        values = (_FORMAT, self.family, self.version, self.fingerprint, self.patch_size, self.num_channels)
        arrays = {"matrix": self.__matrix, "fingerprint_key": np.frombuffer(self.__fingerprint_key, np.uint8)}
        if self.__code is not None:
            arrays |= {f"code_{name}": getattr(self.__code, name) for name in _CODE}
        return arrays_to_bytes(arrays, {_ENTRY: json.dumps(dict(zip(_HEADER, values, strict=True)))})

    @classmethod
    def from_bytes(cls, data: bytes) -> "ClientEmbedding":
        """What `to_bytes` returned -> the client embedding.

        Raises:
            InvalidKeyError: anything else: a key, another format, wrong entries or types, changed numbers.
        """
        header, arrays = _parsed(data)
        codes = {f"code_{name}": arrays[f"code_{name}"] for name in _CODE if f"code_{name}" in arrays}
        problem = None
        if not isinstance(header, dict) or set(header) != set(_HEADER):
            problem = f"entries {sorted(header) if isinstance(header, dict) else type(header).__name__!r:.160}"
        elif [header[name] for name in _HEADER[:3]] != [_FORMAT, EMBEDDING_FAMILY, FORMAT_VERSION]:
            problem = f"{ ({name: header[name] for name in _HEADER[:3]})!r:.160}"
        elif set(arrays) - set(codes) != {"matrix", "fingerprint_key"} or arrays["fingerprint_key"].dtype != np.uint8:
            problem = f"the tensors {sorted(arrays)!r:.160}"
        if problem:
            raise InvalidKeyError(
                f"expected a client embedding of format {_FORMAT}, family {EMBEDDING_FAMILY!r} and version "
                f"{FORMAT_VERSION} with the entries {sorted(_HEADER)}, got {problem}; a later version may be needed"
            )
        fingerprint_key = arrays["fingerprint_key"].tobytes()
        geometry = {name: header[name] for name in ("patch_size", "num_channels")}
        embedding = cls(arrays["matrix"], fingerprint_key, **geometry, code=_code_of(codes))
        if embedding.fingerprint != header["fingerprint"]:
            raise InvalidKeyError(
                "the numbers of the client embedding are not those that were written (its fingerprint differs); copy "
                "the file again from where it was made"
            )
        return embedding

    def _file_content(self) -> bytes:
        return self.to_bytes()

    @classmethod
    def _from_file_content(cls, content: bytes) -> "ClientEmbedding":
        return cls.from_bytes(content)

    def to_text(self) -> NoReturn:
        """Always raise: a `SecretKey` has a text form, a client embedding has only a file.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            f"a ClientEmbedding is a matrix of {self.shape[0]} x {self.shape[1]} numbers and has no text form, which "
            "is for a SecretKey; write it with to_file and give the path of the file"
        )

    def _derived_fingerprint(self) -> str:
        numbers = np.ascontiguousarray(self.__matrix)
        digest = hashlib.sha256(f"{self.patch_size},{self.num_channels},{numbers.shape[1]},".encode())
        digest.update(numbers.astype("<f8").tobytes())
        if self.__code is not None:
            for name in _CODE:
                digest.update(np.ascontiguousarray(getattr(self.__code, name), "<f8").tobytes())
        label = f"{NAMESPACE}/{EMBEDDING_FAMILY}/fingerprint/{digest.hexdigest()}"
        return stream_bytes(pseudorandom_key(self.__fingerprint_key), label, 8).hex()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClientEmbedding):
            return NotImplemented
        return hmac.compare_digest(self.to_bytes(), other.to_bytes())

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"ClientEmbedding(family={EMBEDDING_FAMILY!r}, shape={self.shape}, fingerprint={self.fingerprint!r})"


def is_client_embedding(value: object) -> TypeGuard[ClientEmbedding]:
    """Whether `value` is a `ClientEmbedding`, of this or (with remote code) another copy of this module."""
    return ClientEmbedding._recognises(value)


def _check_matrix(matrix: np.ndarray, length: int) -> None:
    if matrix.dtype != np.float64 or matrix.ndim != 2 or len(matrix) != length or not 1 <= matrix.shape[1] <= length:
        raise InvalidKeyError(
            f"the matrix of a client embedding is float64 of shape ({length}, r), r from 1 to {length}, got "
            f"{matrix.dtype} of shape {matrix.shape}"
        )
    if not np.isfinite(matrix).all():
        raise InvalidKeyError("the matrix of a client embedding is finite, but this one has infinite numbers or NaN")


def _code_of(arrays: dict[str, np.ndarray]) -> TransformCode | None:
    """The arrays of a transform code by their names in a file -> the code; None where there are none."""
    if not arrays:
        return None
    try:
        return TransformCode(*(arrays[f"code_{name}"] for name in _CODE))
    except KeyError as error:
        raise InvalidKeyError(
            f"the transform code of the client embedding lacks {error}; copy the file again"
        ) from None
    except (ValueError, np.linalg.LinAlgError) as error:
        raise InvalidKeyError(f"the transform code of the client embedding is damaged: {error}") from None


def step_for(secret_key: object, bits_per_block: float | None) -> float | None:
    """The step with which images under this key take so many bits a block; None where no bits are asked for.

    Raises:
        ValueError: the key has no transform code, or not for so many bits.
    """
    if bits_per_block is None:
        return None
    code = secret_key.code if is_client_embedding(secret_key) else None
    if code is None:
        raise ValueError(
            "bits_per_block needs a client embedding with a transform code, got a key without one; make it with "
            "privseg fit-transform-code, and encrypt the model with it"
        )
    return code.step_for(bits_per_block)


def _parsed(data: bytes) -> tuple[Any, dict[str, np.ndarray]]:
    """The content of a file -> its header and arrays; errors repeat nothing of it."""
    if not isinstance(data, bytes):
        raise InvalidKeyError(f"ClientEmbedding.from_bytes expects bytes, got {type(data).__name__}")
    if data[:64].lstrip().startswith(b"privseg"):
        raise InvalidKeyError("expected a client embedding, got a key's text form; SecretKey.from_file reads it")
    try:
        return header_from_bytes(data).json_entry(_ENTRY), arrays_from_bytes(data)
    except HeaderError:
        raise InvalidKeyError(
            "expected a file that ClientEmbedding.to_file wrote, got something else or a part of one; copy it again "
            "from where it was made, or make one with ClientEmbedding.generate(model)"
        ) from None
