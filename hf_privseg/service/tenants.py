"""A tenant's encrypted patch embedding, taken from the model that its owner encrypted with the tenant's key."""

from pathlib import Path

from ..setr.errors import EncryptionStateError
from ..storage.models import load_model
from .embedding_store import RegisteredEmbedding


def embedding_of(model: Path) -> RegisteredEmbedding:
    """Folder of an encrypted model -> its patch embedding, ready to be registered.

    Raises:
        EncryptionStateError: the model is plain.
        OSError, ValueError: there is no such model.
    """
    found, _ = load_model(model)
    facts = found.config.key_facts
    if facts is None:
        raise EncryptionStateError(
            f"expected a model that is encrypted with the tenant's key, got the plain one {model}; encrypt it first "
            "(privseg encrypt-model)"
        )
    weight = found.setr.embeddings.patch_embeddings.projection.weight.detach().float().cpu()
    return RegisteredEmbedding(weight, facts)
