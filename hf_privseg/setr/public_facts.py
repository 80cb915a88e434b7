"""The public facts {family, version, fingerprint} that tie together a key, the model and the images made with it.

A `SecretKey`, a `ClientEmbedding` and an `EncryptedImage` have them as attributes, an encrypted model has them in
`config.encryption`. Whether two of them belong together is decided here and nowhere else.
"""

from typing import Any

from .errors import CiphertextError, EncryptionStateError, KeyMismatchError

FACTS: dict[str, type] = {"family": str, "version": int, "fingerprint": str}


def public_facts(holder: Any) -> dict[str, Any]:
    """A `SecretKey`, a `ClientEmbedding` or an `EncryptedImage` -> {"family", "version", "fingerprint"}."""
    return {name: getattr(holder, name) for name in FACTS}


def check_fits(holder: Any, config: Any, *, subject: str | None = None, model: str = "the model") -> None:
    """Refuse a key, or an encrypted image, other than one of the key that a model is encrypted with.

    Args:
        holder: a `SecretKey`, a `ClientEmbedding` or an `EncryptedImage`.
        config: the model's configuration.
        subject, model: what the two are called in messages.

    Raises:
        EncryptionStateError: the model is plain.
        KeyMismatchError: another key, family or version; names both.
        CiphertextError: an image encrypted in blocks of another size than the model's patches.
    """
    patch_size = getattr(holder, "patch_size", None)  # of an image or a client embedding
    if type(holder).__name__ == "ClientEmbedding":  # of this or another copy of its module
        subject = subject or "the client embedding"
    subject = subject or ("the secret key" if patch_size is None else "the encrypted image")
    ours, theirs = public_facts(holder), config.encryption
    if theirs is None:
        raise EncryptionStateError(
            f"{subject} ({_shown(ours)}) needs a model encrypted with the same key, but {model} is plain; encrypt it "
            "with encrypt_model, or give it photos without a key"
        )
    if any(ours[name] != theirs[name] for name in FACTS):
        raise KeyMismatchError(
            f"{subject} ({_shown(ours)}) and {model} ({_shown(theirs)}) do not belong together; take two that were "
            "made with one key. Nothing was changed"
        )
    if patch_size not in (None, config.patch_size):
        raise CiphertextError(
            f"{subject} is encrypted in blocks of {patch_size} pixels, but the patches of {model} have "
            f"{config.patch_size}; encrypt with the processor of the model"
        )


def _shown(facts: dict[str, Any]) -> str:
    return f"key fingerprint {facts['fingerprint']}, family {facts['family']}, version {facts['version']}"
