"""One image through a model: what its file holds, whether it fits the model, and its segmentation map."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from ..any_vit.model_facts import key_facts
from ..setr.configuration_setr import SetrConfig
from ..setr.encrypted_image import EncryptedImage, is_encrypted_image
from ..setr.encryption_key import EncryptionKey, as_encryption_key
from ..setr.errors import CiphertextError, InvalidImageError
from ..setr.image_encrypter import AnyImage
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.image_scores import ImageScores
from ..setr.modeling_setr import SetrForSemanticSegmentation
from ..setr.patch_grid import PatchGrid
from ..setr.public_facts import check_image_fits, check_plain_image_fits
from ..storage.images import is_ciphertext
from .windows import Encrypt, Inference, logits_of

WHOLE_IMAGE = Inference()
MAX_MAP_PIXELS = 2**25  # of the segmentation map of an encrypted image, whose file says how large it is


def segment_image(
    model: PreTrainedModel,
    processor: SetrImageProcessor,
    image: AnyImage,
    *,
    secret_key: EncryptionKey | bytes | None = None,
    encrypt: Encrypt | None = None,
    inference: Inference = WHOLE_IMAGE,
    max_pixels: int = MAX_MAP_PIXELS,
    allow_mismatch: bool = False,
) -> np.ndarray:
    """One image, plain or encrypted -> its segmentation map, (height, width) int64, at the image's own size.

    Args:
        model: in evaluation mode, plain or encrypted, on any device.
        processor: the model's.
        image: whatever the processor takes.
        secret_key: encrypts a plain image before the model sees it.
        encrypt: does so instead of a key, as `Inference.scores` says.
        inference: the whole image in one forward pass, windows of it, several scales, mirrored too.
        max_pixels: of the map of an encrypted image. The file of an encrypted image may claim any size of the plain
            one, and the map takes 8 bytes a pixel.
        allow_mismatch: whether what does not belong to the model is segmented all the same, into a map of no use, as
            an experiment may want. With `encrypt`, nothing is known of the key, and nothing is checked.

    Raises:
        CiphertextError: the map of an encrypted image would have more pixels, or it has other blocks or channels.
        EncryptionStateError: a plain image without a key for an encrypted model; a key or a ciphertext for a plain
            one.
        KeyMismatchError: the key, or that of the ciphertext, is not the model's.
        As `Inference.scores`.
    """
    if is_encrypted_image(image):
        check_map_size(image, max_pixels)
    if encrypt is None and not allow_mismatch:
        _check_belongs(image, secret_key, model)
    scores = inference.scores(model, processor, image, secret_key=secret_key, encrypt=encrypt)
    with torch.inference_mode():
        return scores.segmentation_map().cpu().numpy()


@torch.inference_mode()
def segment_images(
    model: SetrForSemanticSegmentation,
    processor: SetrImageProcessor,
    images: Sequence[AnyImage],
    *,
    batch_size: int = 1,
) -> list[np.ndarray | Exception]:
    """Images that belong to the model, plain or encrypted -> the map of each, or the error that it failed with.

    Up to rounding in the last bits of scores they are the maps of `segment_image`, which is not told what came before:
    images whose pixels have one size pass through the model together.

    Args:
        model: in evaluation mode.
        processor: the model's.
        images: (channels, height, width) uint8 levels, or encrypted images that `check_image_fits` and
            `check_map_size` admit.
        batch_size: how many of one size the model sees at once. A batch that fails is done one by one.

    Raises:
        torch.AcceleratorError: the device is in a state in which no other image would succeed.
    """
    groups: dict[tuple[int, int], list[tuple[int, torch.Tensor, tuple[int, int], tuple[int, int]]]] = {}
    found: list[np.ndarray | Exception | None] = [None] * len(images)

    def run(group: list[tuple[int, torch.Tensor, tuple[int, int], tuple[int, int]]]) -> None:
        try:
            logits = logits_of(model, torch.cat([pixels for _, pixels, _, _ in group]))
            for (index, _, size, region), own in zip(group, logits, strict=True):
                scores = ImageScores.from_logits(own, size, region, processor.patch_size)
                found[index] = scores.segmentation_map().cpu().numpy()
        except torch.AcceleratorError:
            raise
        except Exception as error:  # of one image, as a lack of memory is
            if len(group) == 1:
                found[group[0][0]] = error
            else:
                for each in group:
                    run([each])

    for index, image in enumerate(images):
        try:
            entry = _pixels_of(processor, image)
        except Exception as error:
            found[index] = error
            continue
        height, width = entry[0].shape[-2:]
        group = groups.setdefault((height, width), [])
        group.append((index, *entry))
        if len(group) == batch_size:
            run(groups.pop((height, width)))
    for group in groups.values():
        run(group)
    return [each for each in found if each is not None]


def _pixels_of(
    processor: SetrImageProcessor, image: AnyImage
) -> tuple[torch.Tensor, tuple[int, int], tuple[int, int]]:
    """Levels or an encrypted image -> (1, channels, height, width) pixels, the image's size, and its valid region."""
    if is_encrypted_image(image):
        return processor(image, return_tensors="pt").pixel_values, image.original_size, image.valid_region
    assert isinstance(image, np.ndarray)
    size = (image.shape[-2], image.shape[-1])
    region = PatchGrid.of({field.name: getattr(processor, field.name) for field in fields(PatchGrid)}).valid_region(
        size
    )
    pixels = processor(image, input_data_format="channels_first", return_tensors="pt").pixel_values
    return pixels, size, region


def _check_belongs(image: AnyImage, secret_key: EncryptionKey | bytes | None, model: PreTrainedModel) -> None:
    """Refuse an image, plain or encrypted, or a key that is not for the model."""
    model_key, config = key_facts(model), model.config
    if is_encrypted_image(image):
        check_image_fits(image, model_key, config.patch_size, config.num_channels)
    else:
        check_plain_image_fits(None if secret_key is None else as_encryption_key(secret_key).facts, model_key)


def check_map_size(image: EncryptedImage, max_pixels: int) -> None:
    """Refuse an encrypted image whose segmentation map would have more than `max_pixels` pixels.

    Raises:
        CiphertextError: names both sizes.
    """
    height, width = image.original_size
    if height * width > max_pixels:
        raise CiphertextError(
            f"expected an encrypted image whose segmentation map has at most {max_pixels} pixels, got one with an "
            f"original size of {height} x {width}; if you trust its file, raise max_pixels (--max-pixels)"
        )


def prepare(
    path: Path, model: str | Path, config: SetrConfig, processor: SetrImageProcessor, secret_key: EncryptionKey | None
) -> EncryptedImage | torch.Tensor:
    """Path of an image, plain or encrypted -> what this model takes, encrypted for an encrypted model.

    A plain image for a plain model becomes (channels, height, width) uint8.

    Args:
        path: the image.
        model: name of the model, for messages.
        config: of the model.
        processor: of the model.
        secret_key: that of the model; only plain images for an encrypted model need it.

    Raises:
        EncryptionStateError: a plain image for an encrypted model without a key, or an encrypted image for a plain
            model.
        KeyMismatchError: the image was encrypted with another key than the model.
        CiphertextError: the image is damaged, or has other channels or blocks of another size than the model.
        InvalidImageError: the file holds no image, a damaged one or one of other channels; names the file.
    """
    names = {"subject": str(path), "model": f"the model {model}"}
    if is_ciphertext(path):
        image = EncryptedImage.from_file(path)
        check_image_fits(image, config.key_facts, config.patch_size, config.num_channels, **names)
        return image
    check_plain_image_fits(None if secret_key is None else secret_key.facts, config.key_facts, **names)
    try:
        return processor.to_levels(path) if secret_key is None else processor.encrypt(path, secret_key)
    except InvalidImageError as error:
        raise InvalidImageError(f"{path}: {error}") from error
