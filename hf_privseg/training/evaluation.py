"""Predictions of a model over a data set: the one loop that validation during training and the experiments share."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm.auto import tqdm

from ..image_processing_setr import SetrImageProcessor
from ..keys import SecretKey
from ..modeling_setr import SetrForSemanticSegmentation


@torch.inference_mode()
def predict_maps(
    model: SetrForSemanticSegmentation,
    processor: SetrImageProcessor,
    images: Iterable[Image.Image],
    *,
    secret_key: SecretKey | None = None,
    **progress: Any,
) -> Iterator[np.ndarray]:
    """Photos -> one int64 map `(height, width)` of classes each, at the photo's size; one image a forward pass.

    Args:
        model: in evaluation mode, plain or encrypted, on any device.
        processor: the model's.
        images: photos.
        secret_key: encrypts each image before the model sees it. Nothing is checked against the model: the wrong key,
            or none, is what some experiments are about.
        progress: passed to the progress bar (`desc`, `total`, `disable`).
    """
    for image in tqdm(images, leave=False, **progress):
        inputs = processor(image, secret_key=secret_key, return_tensors="pt").to(model.device)
        outputs = model(**inputs)
        size = (image.height, image.width)
        yield processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0].cpu().numpy()
