"""What an encryption changes in the outputs of a tiny model, and which classes it has been tried on."""

import inspect
import sys
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import NamedTuple

from transformers import PreTrainedModel

from hf_privseg import ClientEmbedding, SecretKey
from hf_privseg.any_vit.model_encryption import decrypt_model, encrypt_model
from hf_privseg.any_vit.model_facts import ModelFacts
from hf_privseg.any_vit.pixel_inputs import PIXEL_INPUTS, encrypt_inputs
from hf_privseg.any_vit.projection import find_projection, owners, projection_name
from hf_privseg.any_vit.proof import difference, outputs_of
from hf_privseg.setr.errors import InvalidImageError

from .parts import Case, randomize


class Measured(NamedTuple):
    """What the encryption with a key of one family changes.

    Args:
        family: of the key.
        encrypted, without_key, wrong_key: the largest difference of any output from the plain model's, relative to the
            largest number of that output.
        after_decryption: that of the weight of the patch embedding.
    """

    family: str
    encrypted: float
    without_key: float
    wrong_key: float
    after_decryption: float


def encrypted_inputs(case: Case, key: SecretKey | ClientEmbedding) -> dict:
    """The inputs of a case whose model is encrypted, encrypted with any key."""
    facts = ModelFacts.of(case.model)
    assert facts is not None, "the model is plain"
    return encrypt_inputs(case.inputs, key, facts, plain_inputs=case.inputs.keys() - PIXEL_INPUTS)


def measure(case: Case, keys: Iterable[tuple[SecretKey, SecretKey]]) -> Iterator[Measured]:
    """Encrypt the model of a case with each key, compare its outputs, and leave it decrypted."""
    model, inputs = case
    plain, weight = outputs_of(model, inputs), find_projection(model).weight.detach().clone()

    def largest_difference(given: dict) -> float:
        return max(difference(*pair) for pair in zip(outputs_of(model, given), plain, strict=True))

    for key, wrong_key in keys:
        encrypt_model(model, key, unverified=True)
        right, wrong = (largest_difference(encrypted_inputs(case, other)) for other in (key, wrong_key))
        without_key = largest_difference(inputs)
        decrypt_model(model, key)
        rest = difference(find_projection(model).weight.detach(), weight)
        yield Measured(key.family, right, without_key, wrong, rest)


def classes_around(model: PreTrainedModel) -> list[str]:
    """The class names of a model and of those inside it that own its patch embedding."""
    return [type(owner).__name__ for owner in owners(model, projection_name(model))]


def relatives(case: Case) -> Iterator[Case]:
    """Other classes of the same module with the same configuration that take the same inputs and can be encrypted."""
    cls, config = type(case.model), case.model.config
    module = sys.modules[cls.__module__]
    for name in module.__all__:
        other = getattr(module, name)
        if not inspect.isclass(other) or not issubclass(other, PreTrainedModel) or other is cls:
            continue
        if name.endswith("PreTrainedModel") or other.config_class is not type(config):
            continue
        accepted = inspect.signature(other.forward).parameters
        inputs = {input_name: value for input_name, value in case.inputs.items() if input_name in accepted}
        if not PIXEL_INPUTS & set(inputs):
            continue
        try:
            relative = Case(randomize(other(deepcopy(config))), inputs)
            projection_name(relative.model)
            outputs_of(*relative)
        except (ValueError, RuntimeError, InvalidImageError):  # it needs other inputs, or cannot be encrypted
            continue
        yield relative
