"""One image through a segmentation model of any class: what its file holds, and its segmentation."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from transformers import PreTrainedConfig, PreTrainedModel

from ..any_vit.encrypted_inputs import EncryptedInputs
from ..any_vit.model_facts import ModelFacts, key_facts
from ..any_vit.pixel_inputs import as_read_by, encrypt_inputs
from ..any_vit.processor import EncryptingProcessor
from ..setr.encryption_key import EncryptionKey
from ..setr.errors import CiphertextError, EncryptionStateError
from ..setr.public_facts import check_plain_image_fits
from ..storage.images import is_ciphertext, read_image
from .tasks import Segmentation, Task

_BLANK = Image.new("RGB", (64, 64))


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
    return EncryptingProcessor(processor, model).encrypt(
        images=[image], secret_key=secret_key, target_sizes=[(image.height, image.width)], **Task().inputs(processor)
    )


def inputs_of_image(processor: Any, path: Path) -> dict[str, Any]:
    """Path of a plain image -> what a model takes for it, in plain.

    Raises:
        InvalidImageError: the file holds no image.
    """
    return dict(processor(images=[read_image(path)], return_tensors="pt", **Task().inputs(processor)))


def segment_file(
    model: PreTrainedModel,
    processor: Any,
    path: Path,
    *,
    task: Task = Task(),  # noqa: B008 # it is immutable
    secret_key: EncryptionKey | None = None,
    max_pixels: int,
) -> Segmentation:
    """Path of an image, plain or encrypted -> its segmentation, at the image's own size.

    Args:
        model: in evaluation mode.
        processor: the model's, which offers the task.
        path: a plain image, or the file of `EncryptedInputs` with one image.
        task: what is asked. One file serves every task of a model.
        secret_key: encrypts a plain image for an encrypted model.
        max_pixels: of the map of an encrypted image, whose file says how large it is.

    Raises:
        EncryptionStateError, KeyMismatchError: image, key and model do not belong together.
        CiphertextError: the file is damaged, holds several images or none with a size, or claims too large a one.
        InvalidImageError: as `encrypt_for`.
        ValueError: more segments than a picture holds.
    """
    if is_ciphertext(path):
        encrypted = EncryptedInputs.from_file(path)
        inputs, sizes = encrypted.inputs_for(model), encrypted.target_sizes
        if len(sizes) != 1 or sizes[0][0] * sizes[0][1] > max_pixels:
            raise CiphertextError(
                f"{path.name}: expected one image of at most {max_pixels} pixels, got the sizes {list(sizes)!r:.80}"
            )
        return _segmentation(model, processor, inputs, sizes[0], task)
    check_plain_image_fits(None if secret_key is None else secret_key.facts, key_facts(model), subject=str(path))
    return segment_vision_image(model, processor, read_image(path), task=task, secret_key=secret_key)


def segment_vision_image(
    model: PreTrainedModel,
    processor: Any,
    image: Image.Image,
    *,
    task: Task = Task(),  # noqa: B008 # it is immutable
    secret_key: EncryptionKey | None = None,
) -> Segmentation:
    """One upright RGB image -> its segmentation, at its own size.

    Args:
        model: in evaluation mode, encrypted if there is a key.
        processor: the model's, which offers the task.
        image: in plain.
        task: what is asked.
        secret_key: encrypts the image. Whether it fits the model is not checked, since some experiments measure what a
            wrong key gives.

    Raises:
        EncryptionStateError: a key for a plain model.
        InvalidImageError: the processor makes sizes off the grid of blocks.
        ValueError: more segments than a picture holds.
    """
    batch = processor(images=[image], return_tensors="pt", **task.inputs(processor))
    if secret_key is not None:
        facts = ModelFacts.of(model)
        if facts is None:
            raise EncryptionStateError("got a key for a plain model; leave it out, or encrypt the model first")
        batch.update(encrypt_inputs(batch, secret_key, facts))
    return _segmentation(model, processor, batch, (image.height, image.width), task)


@torch.inference_mode()
def _segmentation(
    model: PreTrainedModel, processor: Any, inputs: Mapping[str, Any], size: tuple[int, int], task: Task
) -> Segmentation:
    words = task.inputs(processor)
    if words:  # whoever runs the model says what they want, whatever the client wrote
        said = processor(images=[_BLANK], return_tensors="pt", **words)["task_inputs"]
        inputs = {**inputs, "task_inputs": said}
    accepted = inspect.signature(model.forward).parameters
    outputs = model(**as_read_by(model, {name: value for name, value in inputs.items() if name in accepted}))
    return task.segmentation(processor, outputs, size, cast("dict[int, str]", model.config.id2label))
