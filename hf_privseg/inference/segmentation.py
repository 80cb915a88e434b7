"""One image through a model: what the file is, whether it fits the model, and its segmentation map."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from ..setr.configuration_setr import SetrConfig
from ..setr.encrypted_image import EncryptedImage
from ..setr.encryption_key import EncryptionKey
from ..setr.errors import EncryptionStateError
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.modeling_setr import SetrForSemanticSegmentation
from ..setr.public_facts import check_image_fits, check_plain_image_fits
from ..storage.images import is_ciphertext, read_image


def prepare(
    path: Path, model: str | Path, config: SetrConfig, processor: SetrImageProcessor, secret_key: EncryptionKey | None
) -> EncryptedImage | Image.Image:
    """Path of an encrypted image or a photo -> what this model takes: encrypted for an encrypted one, else a photo.

    Args:
        path: the image.
        model: name of the model, for messages.
        config: of the model.
        processor: of the model.
        secret_key: that of the model; only photos for an encrypted model need it.

    Raises:
        EncryptionStateError: a photo for an encrypted model without a key, or an encrypted image for a plain model.
        KeyMismatchError: the image was encrypted with another key than the model.
        CiphertextError: the image is damaged, or encrypted in blocks of another size.
    """
    names = {"subject": str(path), "model": f"the model {model}"}
    if is_ciphertext(path):
        image = EncryptedImage.from_file(path)
        check_image_fits(image, config.key_facts, config.patch_size, **names)
        return image
    check_plain_image_fits(None if secret_key is None else secret_key.facts, config.key_facts, **names)
    plain = read_image(path)
    return plain if secret_key is None else processor.encrypt(plain, secret_key)


def plain_image(path: Path, processor: SetrImageProcessor, secret_key: EncryptionKey | None) -> Image.Image:
    """Path of a photo or an encrypted image -> the photo at its own size, decrypted if need be.

    Raises:
        EncryptionStateError: an encrypted image without a key.
    """
    if not is_ciphertext(path):
        return read_image(path)
    if secret_key is None:
        raise EncryptionStateError(f"{path} is encrypted; to show the photo itself, give the key that it needs")
    image = EncryptedImage.from_file(path)
    return processor.decrypt(image, secret_key).resize(image.original_size[::-1])


@torch.inference_mode()
def segment_image(
    model: SetrForSemanticSegmentation, processor: SetrImageProcessor, image: EncryptedImage | Image.Image
) -> np.ndarray:
    """An encrypted image or an upright RGB photo -> (height, width) int64 class indices, at the photo's own size."""
    regions: list[tuple[int, int]] | None
    if isinstance(image, Image.Image):
        size, regions = (image.height, image.width), None
    else:
        size, regions = image.original_size, [image.valid_region]
    inputs = processor(images=cast(Any, image), return_tensors="pt").to(model.device)
    maps = processor.post_process_semantic_segmentation(model(**inputs), [size], valid_regions=regions)
    return cast(torch.Tensor, maps[0]).cpu().numpy()
