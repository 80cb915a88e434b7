"""Encryption of any vision model of transformers: `encrypt_model` and what undoes and changes it.

The model keeps its class, its shapes and its cost, and whoever runs it needs transformers alone. Its configuration
says that it is encrypted, and with which key (never the key itself), and so do all copies that are saved from it.
"""

import os
import warnings
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, TypeVar

from transformers import PreTrainedConfig, PreTrainedModel

from ..setr.client_embedding import ClientEmbedding
from ..setr.encryption_key import EncryptionKey, as_encryption_key
from ..setr.model_encryption import PatchProjection
from ..setr.public_facts import check_key_fits, check_plain_model
from ..setr.rekey_update import RekeyUpdate
from .model_facts import key_facts
from .projection import find_projection, owners, projection_name
from .proof import encrypt_with_proof
from .support import untested

Model = TypeVar("Model", bound=PreTrainedModel)

_SMALL_BLOCK = 3 * 14**2  # numbers; below it one ciphertext shows most of a scene (docs/how-to/any-model.md)


def encrypt_model(
    model: Model,
    secret_key: EncryptionKey | bytes,
    *,
    projection: str | None = None,
    example_inputs: Mapping[str, object] | None = None,
    unverified: bool = False,
) -> Model:
    """Replace the patch embedding E of any vision model by E_hat = E_enc E, in place (paper section 3.2.1, eq. 3).

    The model then takes pixels from an `EncryptingProcessor`. A processor of its own gives it plain pixels, whose
    results are of no use: transformers raises no error then.

    Args:
        model: plain, with its weights in memory.
        secret_key: a `SecretKey`, 32 bytes, or a client embedding that was made from this model.
        projection: name of the layer that reads pixels, where structure does not decide.
        example_inputs: what the model takes, as its processor makes it from one image or more. The encryption is then
            kept only if the encrypted inputs give the same outputs. A class that no test of this package has
            encrypted needs it.
        unverified: encrypt such a class without a proof.

    Returns:
        The model itself.

    Warns:
        UserWarning: the blocks are small, or the weights seem to be public; both make attacks easy.

    Raises:
        InvalidKeyError: `secret_key` is no key.
        EncryptionStateError: the model is encrypted already.
        KeyMismatchError: a client embedding that was made from another model.
        TypeError: `model` is no model of transformers, or `example_inputs` are no mapping.
        ValueError: the model cannot be encrypted, or not without a proof; the message says why.
    """
    key = as_encryption_key(secret_key)
    check_plain_model(
        key_facts(model),
        advice="change its key with rekey_model(model, old_key, new_key), or decrypt it with decrypt_model",
    )
    own_configuration(model)
    found = find_projection(model, projection)
    if example_inputs is None and not unverified:
        _check_tested(model, projection)
    if example_inputs is None:
        found.encrypt(key)
    else:
        encrypt_with_proof(model, found, key, example_inputs)
    _warn_of_weakness(model, found)
    return model


def decrypt_model(model: Model, secret_key: EncryptionKey | bytes) -> Model:
    """Undo `encrypt_model` in place: bit for bit for the permutation families, up to rounding for the others.

    Raises:
        InvalidKeyError: `secret_key` is no key.
        EncryptionStateError: the model is plain.
        KeyMismatchError: the model is encrypted with another key.
    """
    key = as_encryption_key(secret_key)
    _encrypted_projection(model, key).decrypt(key)
    return model


def rekey_model(model: Model, old_key: EncryptionKey | bytes, new_key: EncryptionKey | bytes) -> Model:
    """Replace the key of an encrypted model in place, without retraining (paper section 3.3); families may differ.

    Raises:
        InvalidKeyError: one of the keys is no key.
        EncryptionStateError: the model is plain.
        KeyMismatchError: the model is not encrypted with `old_key`, or `new_key` is a client embedding that was made
            from another model.
    """
    old_key, new_key = as_encryption_key(old_key), as_encryption_key(new_key)
    _encrypted_projection(model, old_key).rekey(old_key, new_key)
    return model


def apply_rekey_update(model: Model, update: RekeyUpdate) -> Model:
    """Replace the key as `rekey_model` does, but without either key; `rekey_update` says what an update shows.

    Raises:
        EncryptionStateError: the model is plain.
        KeyMismatchError: the model is not encrypted with the update's old key.
        ValueError: the update was made for a patch embedding of another shape.
    """
    check_key_fits(update.old, key_facts(model), subject="the old key of the update")
    find_projection(model).apply_update(update)
    return model


def generate_client_embedding(model: PreTrainedModel, *, projection: str | None = None) -> ClientEmbedding:
    """A plain model of any class -> a new client embedding for it, as `ClientEmbedding.generate` makes for a SETR.

    Raises:
        EncryptionStateError: the model is encrypted.
        ValueError: the model cannot be encrypted, or its patch embedding is zero or not finite.
    """
    check_plain_model(key_facts(model))
    return ClientEmbedding.from_projection(find_projection(model, projection))


def own_configuration(model: PreTrainedModel) -> None:
    """Give a model and its parts configurations of their own, equal to those that they had.

    Two models that are built from one configuration object share it, and what is recorded about the key of one would
    be said of the other.
    """
    copies: dict[int, Any] = {}
    deepcopy(model.config, copies)
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, PreTrainedConfig) and id(value) in copies:
                setattr(module, name, copies[id(value)])


def _encrypted_projection(model: PreTrainedModel, key: EncryptionKey) -> PatchProjection:
    """The projection of an encrypted model, once the key fits it."""
    check_key_fits(key.facts, key_facts(model))
    return find_projection(model)


def _check_tested(model: PreTrainedModel, projection: str | None) -> None:
    around = [type(owner).__name__ for owner in owners(model, projection_name(model, projection))]
    unknown = untested(around)
    if projection is not None or unknown:
        what = " and ".join(unknown) if unknown else "a named projection"
        raise ValueError(
            f"{type(model).__name__} is not encrypted unproven: only classes that the tests of this package have "
            f"encrypted are, not {what}. Pass example_inputs=processor(images=..., return_tensors='pt') (privseg: "
            "--example IMAGE), which proves that no output changes, or unverified=True (--unverified)"
        )


def _warn_of_weakness(model: PreTrainedModel, found: PatchProjection) -> None:
    length = found.num_channels * found.patch_size**2
    if length < _SMALL_BLOCK:
        side = (length / 3) ** 0.5
        warnings.warn(
            f"the blocks of {type(model).__name__} have {length} numbers, as patches of {side:.0f} x {side:.0f} "
            f"pixels have: one ciphertext shows {'the scene' if side < 8 else 'most of the scene'} whatever the key "
            "family is. Take a model with patches of 14 or 16 pixels",
            UserWarning,
            stacklevel=3,
        )
    source = model.name_or_path
    if source and not os.path.exists(source) and source.count("/") <= 1 and len(found.weight) >= length:
        warnings.warn(
            f"the weights come from {source!r}: if that checkpoint is public, anyone who has it inverts the "
            "ciphertexts exactly, with no key; train the patch embedding in private",
            UserWarning,
            stacklevel=3,
        )
