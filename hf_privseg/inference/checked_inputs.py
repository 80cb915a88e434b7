"""A processor's batch for a model, after a check that the two belong together."""

from typing import Any

from transformers import PreTrainedModel

from ..any_vit.encrypted_inputs import EncryptedInputs
from ..any_vit.model_facts import key_facts
from ..any_vit.pixel_inputs import as_read_by
from ..setr.errors import EncryptionStateError
from ..setr.public_facts import check_key_fits, check_plain_image_fits


def inputs_for(model: PreTrainedModel, batch: Any) -> dict[str, Any]:
    """A batch -> inputs on the model's device and in its dtype: `model(**inputs_for(model, batch))`.

    A model sees tensors alone, so `model(**batch)` runs with whatever it is given, and of a wrong key, or of a plain
    image for an encrypted model, it makes garbage without a word. The batches of `SetrImageProcessor` and
    `EncryptingProcessor` say what they are encrypted with: `batch.key_facts`, a tuple of the different `KeyFacts`
    among their images, None for plain ones. `.to(device)` keeps it; pickling and collating lose it.

    Args:
        model: plain or encrypted, of any class.
        batch: what a processor returned, or `EncryptedInputs`.

    Raises:
        EncryptionStateError: a plain image for an encrypted model, an encrypted one for a plain model; or a batch that
            says nothing for an encrypted model.
        KeyMismatchError: another key than the model's; names both.
        CiphertextError: as `EncryptedInputs.inputs_for`.
    """
    if isinstance(batch, EncryptedInputs):
        return batch.inputs_for(model)
    model_key, said = key_facts(model), getattr(batch, "key_facts", None)
    if said is None and model_key is not None:
        raise EncryptionStateError(
            f"the model is encrypted ({model_key}), and this {type(batch).__name__} does not say what its pixels are "
            "encrypted with; take the batch as SetrImageProcessor or EncryptingProcessor returns it, or "
            "EncryptedInputs"
        )
    for facts in said or ():
        if facts is None:
            check_plain_image_fits(None, model_key)
        else:
            check_key_fits(facts, model_key, subject="the encrypted image")
    return as_read_by(model, batch)
