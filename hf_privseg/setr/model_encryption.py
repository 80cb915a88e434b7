"""The encryption of a model: the patch embedding E becomes E_hat = E_enc E, and nothing else changes.

Kiya et al., J. Imaging 2022, 8(9), 233, section 3.2.1, eq. 3; key updates: section 3.3.
"""

from typing import Any, Self

import torch
from torch import nn

from .block_cipher import BlockCipher
from .ciphers import cipher_for
from .configuration_setr import SetrConfig
from .encryption_key import EncryptionKey, as_encryption_key
from .public_facts import check_key_fits, check_plain_model
from .rekey_update import RekeyUpdate


class EncryptableEmbedding:
    """The part of every SETR model that encrypts, decrypts and rekeys its patch embedding.

    The configuration holds the public facts about the key, never the key.
    """

    config: SetrConfig
    base_model: Any  # a property of PreTrainedModel

    @property
    def _projection(self) -> nn.Conv2d:
        projection: nn.Conv2d = self.base_model.embeddings.patch_embeddings.projection
        return projection

    def _cipher(self, secret_key: EncryptionKey) -> BlockCipher:
        return cipher_for(secret_key, patch_size=self.config.patch_size, num_channels=self.config.num_channels)

    @torch.no_grad()
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
        secret_key = as_encryption_key(secret_key)
        check_plain_model(
            self.config.key_facts,
            advice="change its key with rekey_model(old_key, new_key), or decrypt it with decrypt_model(old_key)",
        )
        weight = self._projection.weight
        weight.copy_(self._cipher(secret_key).encrypt_weight(weight))
        self.config.encryption = secret_key.facts.to_dict()
        return self

    @torch.no_grad()
    def decrypt_model(self, secret_key: EncryptionKey | bytes) -> Self:
        """Undo `encrypt_model` in place: bit for bit for the permutation families, up to rounding for the others.

        Raises:
            InvalidKeyError: `secret_key` is no key.
            EncryptionStateError: the model is plain.
            KeyMismatchError: the model is encrypted with another key.
        """
        secret_key = as_encryption_key(secret_key)
        check_key_fits(secret_key.facts, self.config.key_facts)
        weight = self._projection.weight
        weight.copy_(self._cipher(secret_key).decrypt_weight(weight))
        self.config.encryption = None
        return self

    @torch.no_grad()
    def rekey_model(self, old_key: EncryptionKey | bytes, new_key: EncryptionKey | bytes) -> Self:
        """Replace the key of an encrypted model in place, without retraining (paper section 3.3).

        The families of the two keys may differ.

        Raises:
            InvalidKeyError: one of the keys is no key.
            EncryptionStateError: the model is plain.
            KeyMismatchError: the model is not encrypted with `old_key`, or `new_key` is a client embedding that was
                made from another model.
        """
        old_key, new_key = as_encryption_key(old_key), as_encryption_key(new_key)
        check_key_fits(old_key.facts, self.config.key_facts)
        weight = self._projection.weight
        # In float64, so that a key update rounds once and not twice.
        plain = self._cipher(old_key).decrypt_weight(weight.double())
        weight.copy_(self._cipher(new_key).encrypt_weight(plain))
        self.config.encryption = new_key.facts.to_dict()
        return self

    @torch.no_grad()
    def apply_rekey_update(self, update: RekeyUpdate) -> Self:
        """Replace the key as `rekey_model` does, but without either key; `rekey_update` says what an update shows.

        Raises:
            EncryptionStateError: the model is plain.
            KeyMismatchError: the model is not encrypted with the update's old key.
            ValueError: the update was made for a patch embedding of another shape.
        """
        check_key_fits(update.old, self.config.key_facts, subject="the old key of the update")
        self._projection.weight.copy_(update.apply_to_weight(self._projection.weight))
        self.config.encryption = update.new.to_dict()
        return self


__all__ = ["EncryptableEmbedding"]
