"""The encryption of a model: the patch embedding E becomes E_hat = E_enc E, and nothing else changes.

Kiya et al., J. Imaging 2022, 8(9), 233, section 3.2.1, eq. 3; key updates: section 3.3.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import nn

from .block_cipher import BlockCipher
from .ciphers import cipher_for
from .configuration_setr import SetrConfig
from .encryption_key import EncryptionKey, as_encryption_key
from .public_facts import KeyFacts, check_key_fits, check_plain_model
from .rekey_update import RekeyUpdate


@dataclass(frozen=True, eq=False)
class PatchProjection:
    """The weight E of a model that meets blocks of pixels, and the configuration that says which key encrypts it.

    Args:
        weight: float, its first side the hidden size; the others make L = num_channels * patch_size**2 numbers, in
            the order of a flattened block.
        patch_size, num_channels: geometry of a block. Where a block spans several frames, they count as channels.
        config: its entry `encryption` is None or the public facts about the key, never the key.
        geometry: what that entry holds beside the facts about the key.
    """

    weight: nn.Parameter
    patch_size: int
    num_channels: int
    config: Any
    geometry: Mapping[str, object] = field(default_factory=dict)

    @property
    def key_facts(self) -> KeyFacts | None:
        """The public facts about the key that encrypts the weight; None where it is plain."""
        entry = getattr(self.config, "encryption", None)
        if entry is None:
            return None
        return KeyFacts.from_dict({name: fact for name, fact in entry.items() if name not in self.geometry})

    def encrypt(self, secret_key: EncryptionKey | bytes) -> None:
        """E -> E_hat, in place. Raises as `EncryptableEmbedding.encrypt_model`."""
        secret_key = as_encryption_key(secret_key)
        check_plain_model(
            self.key_facts,
            advice="change its key with rekey_model(old_key, new_key), or decrypt it with decrypt_model(old_key)",
        )
        self._replace(self._cipher(secret_key).encrypt_weight, secret_key.facts)

    def decrypt(self, secret_key: EncryptionKey | bytes) -> None:
        """E_hat -> E, in place. Raises as `EncryptableEmbedding.decrypt_model`."""
        secret_key = as_encryption_key(secret_key)
        check_key_fits(secret_key.facts, self.key_facts)
        self._replace(self._cipher(secret_key).decrypt_weight, None)

    def rekey(self, old_key: EncryptionKey | bytes, new_key: EncryptionKey | bytes) -> None:
        """E_hat of one key -> E_hat of another, in place. Raises as `EncryptableEmbedding.rekey_model`."""
        old_key, new_key = as_encryption_key(old_key), as_encryption_key(new_key)
        check_key_fits(old_key.facts, self.key_facts)
        decrypt, encrypt = self._cipher(old_key).decrypt_weight, self._cipher(new_key).encrypt_weight
        # In float64, so that a key update rounds once and not twice.
        self._replace(lambda weight: encrypt(decrypt(weight.double())), new_key.facts)

    def apply_update(self, update: RekeyUpdate) -> None:
        """The same without either key. Raises as `EncryptableEmbedding.apply_rekey_update`."""
        check_key_fits(update.old, self.key_facts, subject="the old key of the update")
        self._replace(update.apply_to_weight, update.new)

    def _cipher(self, secret_key: EncryptionKey) -> BlockCipher:
        return cipher_for(secret_key, patch_size=self.patch_size, num_channels=self.num_channels)

    def write_weight(self, weight: torch.Tensor) -> None:
        """Put other numbers in the place of the weight's own."""
        # Weights that were made in inference mode can be written in inference mode alone.
        with torch.inference_mode(self.weight.is_inference()), torch.no_grad():
            self.weight.copy_(weight.reshape(self.weight.shape))

    @torch.no_grad()
    def _replace(self, act: Callable[[torch.Tensor], torch.Tensor], key: KeyFacts | None) -> None:
        blocks = self.weight.reshape(len(self.weight), self.num_channels, self.patch_size, self.patch_size)
        self.write_weight(act(blocks))
        self.config.encryption = None if key is None else {**key.to_dict(), **self.geometry}


class EncryptableEmbedding:
    """The part of every SETR model that encrypts, decrypts and rekeys its patch embedding.

    The configuration holds the public facts about the key, never the key.
    """

    config: SetrConfig
    base_model: Any  # a property of PreTrainedModel

    @property
    def patch_projection(self) -> PatchProjection:
        """The weight that an encryption replaces, with the configuration that records it."""
        weight = self.base_model.embeddings.patch_embeddings.projection.weight
        return PatchProjection(weight, self.config.patch_size, self.config.num_channels, self.config)

    def encrypt_model(self, secret_key: EncryptionKey | bytes) -> Self:
        """Replace the patch embedding E by E_hat = E_enc E, in place (paper section 3.2.1, eq. 3).

        Nothing else changes: modules, other parameters, shapes and cost stay those of the plain model.

        Args:
            secret_key: a `SecretKey`, whose family chooses the cipher; 32 bytes, which are a key of the default
                family; or a `ClientEmbedding` made from this model.

        Returns:
            The model itself.

        Raises:
            InvalidKeyError: `secret_key` is no key.
            EncryptionStateError: the model is encrypted already.
            KeyMismatchError: a client embedding that was made from another model.
        """
        self.patch_projection.encrypt(secret_key)
        return self

    def decrypt_model(self, secret_key: EncryptionKey | bytes) -> Self:
        """Undo `encrypt_model` in place: bit for bit for the permutation families, up to rounding for the others.

        Raises:
            InvalidKeyError: `secret_key` is no key.
            EncryptionStateError: the model is plain.
            KeyMismatchError: the model is encrypted with another key.
        """
        self.patch_projection.decrypt(secret_key)
        return self

    def rekey_model(self, old_key: EncryptionKey | bytes, new_key: EncryptionKey | bytes) -> Self:
        """Replace the key of an encrypted model in place, without retraining (paper section 3.3).

        The families of the two keys may differ.

        Raises:
            InvalidKeyError: one of the keys is no key.
            EncryptionStateError: the model is plain.
            KeyMismatchError: the model is not encrypted with `old_key`, or `new_key` is a client embedding that was
                made from another model.
        """
        self.patch_projection.rekey(old_key, new_key)
        return self

    def apply_rekey_update(self, update: RekeyUpdate) -> Self:
        """Replace the key as `rekey_model` does, but without either key; `rekey_update` says what an update shows.

        Raises:
            EncryptionStateError: the model is plain.
            KeyMismatchError: the model is not encrypted with the update's old key.
            ValueError: the update was made for a patch embedding of another shape.
        """
        self.patch_projection.apply_update(update)
        return self


__all__ = ["EncryptableEmbedding", "PatchProjection"]
