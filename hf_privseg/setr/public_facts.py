"""The public facts about a key, and whether a key, an encrypted image and a model belong together.

A `SecretKey`, a `ClientEmbedding` and an `EncryptedImage` have the facts as `facts`; an encrypted model has them as a
dictionary in `config.encryption`. Every refusal to combine two of them is worded here.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Protocol

from .counts import counted
from .errors import CiphertextError, EncryptionStateError, KeyMismatchError

FAMILIES = ("permutation", "signed_permutation", "orthogonal", "matrix")  # of a SecretKey, those of this package
EMBEDDING_FAMILY = "embedding"  # of a ClientEmbedding
FORMAT_VERSION = 1

_registered: list[str] = []


def key_families() -> tuple[str, ...]:
    """The families that a SecretKey may have: those of this package, and those that `register_cipher` has added."""
    return (*FAMILIES, *_registered)


def add_family(family: str) -> None:
    """Make keys of a family possible, in this process. `register_cipher` calls it, once the cipher is proven."""
    if family not in key_families():
        _registered.append(family)


def remove_family(family: str) -> None:
    """Undo `add_family`."""
    if family in _registered:
        _registered.remove(family)


@dataclass(frozen=True)
class KeyFacts:
    """What anyone may know of a key: two keys are the same where these facts are.

    Args:
        family: the key family, one of `key_families()` or `EMBEDDING_FAMILY`.
        version: the format version of the key, `FORMAT_VERSION`.
        fingerprint: 16 lowercase hexadecimal characters.

    Raises:
        ValueError: a fact is of another type or form. The message shows no text that could be a secret.
    """

    family: str
    version: int
    fingerprint: str

    def __post_init__(self) -> None:
        families = (*key_families(), EMBEDDING_FAMILY)
        if not isinstance(self.family, str) or self.family not in families:
            raise ValueError(
                f"the family of a key is one of {', '.join(families)}, got {_shown_name(self.family)}; see "
                "register_cipher"
            )
        if type(self.version) is not int or self.version != FORMAT_VERSION:
            raise ValueError(
                f"the version of a key is the number {FORMAT_VERSION}, got {_described(self.version)}; a later "
                "version of this package may have made it"
            )
        if not isinstance(self.fingerprint, str) or not re.fullmatch("[0-9a-f]{16}", self.fingerprint):
            raise ValueError(
                f"the fingerprint of a key is 16 hexadecimal characters, got {_described(self.fingerprint)}"
            )

    @classmethod
    def from_dict(cls, facts: object) -> "KeyFacts":
        """What `to_dict` returned -> the facts.

        Raises:
            ValueError: anything else, with missing or additional fields among it; no value of a field is shown.
        """
        names = [field.name for field in fields(cls)]
        if not isinstance(facts, Mapping):
            raise ValueError(f"the facts about a key are a dictionary with {names}, got {_described(facts)}")
        if set(facts) != set(names):
            raise ValueError(
                f"the facts about a key are exactly {names}, got the fields {sorted(map(str, facts))!r:.200}"
            )
        return cls(**facts)

    def to_dict(self) -> dict[str, object]:
        """{"family", "version", "fingerprint"}, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"key fingerprint {self.fingerprint}, family {self.family}, version {self.version}"


class HasKeyFacts(Protocol):
    """A key or an encrypted image, of this or another copy of its module."""

    @property
    def facts(self) -> KeyFacts: ...


class HasBlocks(HasKeyFacts, Protocol):
    """An encrypted image, of this or another copy of its module."""

    @property
    def patch_size(self) -> int: ...

    @property
    def num_channels(self) -> int: ...


class HasGeometry(Protocol):
    """An image processor, or the configuration of a model."""

    @property
    def patch_size(self) -> int: ...

    @property
    def num_channels(self) -> int: ...


def check_key_fits(
    key: KeyFacts, model_key: KeyFacts | None, *, subject: str | None = None, model: str = "the model"
) -> None:
    """Refuse a key other than the one that a model, or an encrypted image, was encrypted with.

    Args:
        key: the facts about the key.
        model_key: the facts about the model's key, None where the model is plain.
        subject, model: what the two are called in messages.

    Raises:
        EncryptionStateError: the model is plain.
        KeyMismatchError: the keys differ; names both.
    """
    subject = subject or ("the client embedding" if key.family == EMBEDDING_FAMILY else "the secret key")
    if model_key is None:
        raise EncryptionStateError(
            f"{subject} ({key}) needs a model encrypted with the same key, but {model} is plain; encrypt it with "
            "encrypt_model, or give it plain images without a key"
        )
    if key.to_dict() != model_key.to_dict():  # not key != model_key: one may be of another copy of this module
        raise KeyMismatchError(
            f"{subject} ({key}) and {model} ({model_key}) do not belong together; take two that were made with one "
            "key. Nothing was changed"
        )


def check_image_fits(
    image: HasBlocks,
    model_key: KeyFacts | None,
    patch_size: int,
    num_channels: int,
    *,
    subject: str = "the encrypted image",
    model: str = "the model",
) -> None:
    """Refuse an encrypted image other than one of the model's key, patch size and channels.

    Args:
        image: the encrypted image.
        model_key: the facts about the model's key, None where the model is plain.
        patch_size: side of the model's patches in pixels.
        num_channels: of the model's input.
        subject, model: what the two are called in messages.

    Raises:
        EncryptionStateError: the model is plain.
        KeyMismatchError: the keys differ; names both.
        CiphertextError: the image has other channels, or is encrypted in blocks of another size than the model's
            patches.
    """
    check_key_fits(image.facts, model_key, subject=subject, model=model)
    if image.patch_size != patch_size:
        raise CiphertextError(
            f"{subject} is encrypted in blocks of {image.patch_size} pixels, but the patches of {model} have "
            f"{patch_size}; encrypt with the processor of the model"
        )
    if image.num_channels != num_channels:
        raise CiphertextError(
            f"{subject} has {counted(image.num_channels, 'channel')}, but {model} takes {num_channels}; encrypt with "
            "the processor of the model"
        )


def check_processor_fits(processor: HasGeometry, config: HasGeometry, *, model: str = "the model") -> None:
    """Refuse an image processor that makes other pixels than the model takes.

    Args:
        processor: the image processor.
        config: the model's configuration.
        model: what the model is called in the message.

    Raises:
        ValueError: names the setting, and both values.
    """
    for name in ("num_channels", "patch_size"):
        ours, theirs = getattr(processor, name), getattr(config, name)
        if ours != theirs:
            raise ValueError(
                f"the image processor has {name}={ours}, but {model} takes {name}={theirs}; use the processor that "
                f"was saved with the model, or SetrImageProcessor({name}={theirs}, ...)"
            )


def check_plain_image_fits(
    key: KeyFacts | None, model_key: KeyFacts | None, *, subject: str = "the image", model: str = "the model"
) -> None:
    """Refuse to show a plain image to an encrypted model, whose provider is not meant to see it.

    Args:
        key: the facts about the key that will encrypt the image, None where there is none.
        model_key: the facts about the model's key, None where the model is plain.
        subject, model: what image and model are called in messages.

    Raises:
        EncryptionStateError: no key for an encrypted model, or a key for a plain one.
        KeyMismatchError: the keys differ; names both.
    """
    if key is not None:
        check_key_fits(key, model_key, model=model)
    elif model_key is not None:
        raise EncryptionStateError(
            f"{subject} is plain, but {model} is encrypted ({model_key}): the image would be disclosed, and the "
            "result would be of no use; give the secret key, or encrypt the image first "
            "(processor.encrypt(image, secret_key), privseg encrypt)"
        )


def check_plain_model(
    model_key: KeyFacts | None,
    *,
    model: str = "the model",
    advice: str = "decrypt it first with decrypt_model(secret_key)",
) -> None:
    """Refuse an encrypted model where a plain one is needed.

    Raises:
        EncryptionStateError: the model is encrypted; names its key and says the `advice`.
    """
    if model_key is not None:
        raise EncryptionStateError(f"expected a plain model, but {model} is encrypted ({model_key}); {advice}")


def _shown_name(value: object) -> str:
    """A value for a message: as it is where it looks like the name of a family, else as `_described`."""
    is_name = isinstance(value, str) and re.fullmatch("[a-z][a-z0-9_]{0,19}", value)
    return repr(value) if is_name else _described(value)


def _described(value: object) -> str:
    """A value for a message: a number as it is, of anything else, which might be a secret, its kind alone."""
    if isinstance(value, int | float):
        return repr(value)
    kind = type(value).__name__
    return f"a {kind} of {len(value)} characters" if isinstance(value, str) else f"a {kind}"
