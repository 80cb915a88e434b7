"""The proof that an encryption changes nothing but who can use the model: outputs before and after it."""

from collections.abc import Iterator, Mapping

import torch
from transformers import PreTrainedModel

from ..setr.encryption_key import EncryptionKey
from ..setr.model_encryption import PatchProjection
from .model_facts import ModelFacts
from .pixel_inputs import PIXEL_INPUTS, as_read_by, encrypt_inputs

# Sums in another order differ by some 1e-6 in float32, and a deep network amplifies that; another input differs by
# more than a tenth. In half precision the encrypted weight is rounded once more.
_TOLERANCE = 1e-3
_HALF_TOLERANCE = 5e-2


def encrypt_with_proof(
    model: PreTrainedModel, projection: PatchProjection, secret_key: EncryptionKey, inputs: Mapping[str, object]
) -> None:
    """Encrypt the projection, and undo it unless encrypted inputs give what plain ones gave.

    Raises:
        TypeError: the inputs are no mapping.
        ValueError: an output differs, so that pixels are read elsewhere as well, or no output depends on the layer; or
            the outputs are NaN before the encryption.
    """
    if not isinstance(inputs, Mapping):
        raise TypeError(
            "example_inputs are what the model takes by name, as its processor makes them from an image with "
            f"return_tensors='pt', got {type(inputs).__name__}"
        )
    facts = ModelFacts.of_projection(projection, secret_key.facts)
    encrypted = encrypt_inputs(inputs, secret_key, facts, plain_inputs=inputs.keys() - PIXEL_INPUTS)
    inputs, encrypted = as_read_by(model, inputs), as_read_by(model, encrypted)
    plain_weight = projection.weight.detach().clone()
    before = outputs_of(model, inputs)
    if any(output.isnan().any() for output in before):
        raise ValueError(
            f"{type(model).__name__} gives NaN for the example inputs, which proves nothing; pass those of a natural "
            "image, or load the model with dtype=torch.float32"
        )
    projection.encrypt(secret_key)
    try:
        _check_same(model, inputs, before, outputs_of(model, encrypted), outputs_of(model, inputs))
    except BaseException:
        projection.write_weight(plain_weight)
        projection.config.encryption = None
        raise


def _check_same(
    model: PreTrainedModel,
    inputs: Mapping[str, object],
    plain: list[torch.Tensor],
    encrypted: list[torch.Tensor],
    without_key: list[torch.Tensor],
) -> None:
    names = ", ".join(name for name in inputs if name in PIXEL_INPUTS)
    tolerance = _HALF_TOLERANCE if model.dtype.itemsize < 4 else _TOLERANCE
    if not plain or not len(plain) == len(encrypted) == len(without_key):
        raise ValueError(
            f"{type(model).__name__} cannot be proven: it returns {len(plain)} float tensors for plain inputs, "
            f"{len(encrypted)} for encrypted ones; at least one, and as many each time, can be compared. The weight "
            "is as it was"
        )
    differences = [difference(after, before) for after, before in zip(encrypted, plain, strict=True)]
    if max(differences) > tolerance:
        shown = f"by {max(differences):.1e} (at most {tolerance:.0e} is rounding)"
        raise ValueError(
            f"{type(model).__name__} cannot be encrypted: with encrypted inputs its outputs differ {shown}, so that "
            f"it reads {names} elsewhere than in its patch embedding; the weight is as it was"
        )
    if max(difference(after, before) for after, before in zip(without_key, plain, strict=True)) <= tolerance:
        raise ValueError(
            f"{type(model).__name__} gives the same outputs for plain inputs when it is encrypted: they do not depend "
            f"on the layer that was found; name the one that reads {names} with projection='...'. The weight is as it "
            "was"
        )


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Two outputs -> the largest absolute difference, relative to the largest finite number expected.

    It is inf for two shapes, and where one has NaN or an infinity (a masked score, often) and the other has not.
    """
    if found.shape != expected.shape:
        return float("inf")
    finite = expected.isfinite()
    if not torch.equal(finite, found.isfinite()) or not torch.equal(
        found[~finite].nan_to_num(nan=0.0), expected[~finite].nan_to_num(nan=0.0)
    ):
        return float("inf")
    found, expected = found[finite].double(), expected[finite].double()
    if not expected.numel():
        return 0.0
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((found - expected).abs().max() / scale)


@torch.no_grad()
def outputs_of(model: PreTrainedModel, inputs: Mapping[str, object]) -> list[torch.Tensor]:
    """All float tensors that a model returns, in evaluation mode and with the same random numbers each time."""
    was_training = model.training
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            return list(_float_tensors(model.eval()(**inputs)))
        finally:
            model.train(was_training)


def _float_tensors(item: object) -> Iterator[torch.Tensor]:
    if isinstance(item, torch.Tensor):
        if item.is_floating_point():
            yield item.clone()
    elif isinstance(item, Mapping):
        for value in item.values():
            yield from _float_tensors(value)
    elif isinstance(item, list | tuple):
        for value in item:
            yield from _float_tensors(value)
