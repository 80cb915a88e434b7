"""One image through a segmentation model of any class: what its file holds, and its segmentation map."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from ..any_vit.encrypted_inputs import EncryptedInputs
from ..any_vit.model_facts import key_facts
from ..any_vit.processor import EncryptingProcessor
from ..setr.encryption_key import EncryptionKey
from ..setr.errors import CiphertextError
from ..setr.public_facts import check_plain_image_fits
from ..storage.images import is_ciphertext, read_image

POST_PROCESSING = "post_process_semantic_segmentation"


def check_segments(processor: Any, *, model: str = "the model") -> None:
    """Refuse a model whose processor makes no segmentation maps.

    Raises:
        ValueError: names the method that is missing.
    """
    if not hasattr(processor, POST_PROCESSING):
        raise ValueError(
            f"expected a model for semantic segmentation, got {model}, whose {type(processor).__name__} has no method "
            f"{POST_PROCESSING}"
        )


def encrypt_for(
    model: PreTrainedModel | PreTrainedConfig, processor: Any, path: Path, secret_key: EncryptionKey
) -> EncryptedInputs:
    """Path of a plain image -> the inputs of the model with encrypted pixels, and the image's size.

    Args:
        model: encrypted, or its configuration.
        processor: the model's.
        path: the image.
        secret_key: the model's.

    Raises:
        InvalidImageError: the file holds no image, or the processor makes sizes off the grid of blocks.
        EncryptionStateError, KeyMismatchError: the model is plain, or encrypted with another key.
    """
    image = read_image(path)
    encrypting = EncryptingProcessor(processor, model)
    return encrypting.encrypt(images=image, secret_key=secret_key, target_sizes=[(image.height, image.width)])


def segment_file(
    model: PreTrainedModel,
    processor: Any,
    path: Path,
    *,
    secret_key: EncryptionKey | None = None,
    max_pixels: int,
) -> np.ndarray:
    """Path of an image, plain or encrypted -> its segmentation map, (height, width) int64, at the image's own size.

    Args:
        model: in evaluation mode.
        processor: the model's, with a method `post_process_semantic_segmentation`.
        path: a plain image, or the file of `EncryptedInputs` with one image.
        secret_key: encrypts a plain image for an encrypted model.
        max_pixels: of the map of an encrypted image, whose file says how large it is.

    Raises:
        EncryptionStateError, KeyMismatchError: image, key and model do not belong together.
        CiphertextError: the file is damaged, holds several images or none with a size, or claims too large a one.
        InvalidImageError: as `encrypt_for`.
    """
    if is_ciphertext(path):
        encrypted = EncryptedInputs.from_file(path)
        inputs, sizes = encrypted.inputs_for(model), encrypted.target_sizes
        if len(sizes) != 1 or sizes[0][0] * sizes[0][1] > max_pixels:
            raise CiphertextError(
                f"{path.name}: expected one image of at most {max_pixels} pixels, got the sizes {list(sizes)!r:.80}"
            )
        return _segmentation_map(model, processor, inputs, sizes[0])
    check_plain_image_fits(None if secret_key is None else secret_key.facts, key_facts(model), subject=str(path))
    if secret_key is not None:
        encrypted = encrypt_for(model, processor, path, secret_key)
        return _segmentation_map(model, processor, encrypted.inputs_for(model), encrypted.target_sizes[0])
    image = read_image(path)
    inputs = dict(processor(images=image, return_tensors="pt").to(model.device))
    return _segmentation_map(model, processor, inputs, (image.height, image.width))


def _segmentation_map(
    model: PreTrainedModel, processor: Any, inputs: Mapping[str, object], size: tuple[int, int]
) -> np.ndarray:
    accepted = inspect.signature(model.forward).parameters
    with torch.inference_mode():
        outputs = model(**{name: value for name, value in inputs.items() if name in accepted})
        found: torch.Tensor = getattr(processor, POST_PROCESSING)(outputs, target_sizes=[size])[0]
    return found.long().cpu().numpy()
