"""Predictions of a model over a data set: the one loop that validation during training and the experiments share."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..inference.windows import Encrypt, Inference
from ..setr.encrypted_image import EncryptedImage
from ..setr.encryption_key import EncryptionKey
from ..setr.image_processing_setr import SetrImageProcessor
from .label_map import LabelMap
from .metrics import MeanIoU

WHOLE_IMAGE = Inference()


def predict_maps(
    model: PreTrainedModel,
    processor: SetrImageProcessor,
    images: Iterable[Image.Image | EncryptedImage],
    *,
    secret_key: EncryptionKey | None = None,
    encrypt: Encrypt | None = None,
    inference: Inference = WHOLE_IMAGE,
    **progress: Any,
) -> Iterator[np.ndarray]:
    """Photos -> one int64 map `(height, width)` of classes each, at the photo's size; one image at a time.

    Args:
        model: in evaluation mode, plain or encrypted, on any device.
        processor: the model's.
        images: photos, or encrypted images.
        secret_key: encrypts each image before the model sees it. Nothing is checked against the model: the wrong key,
            or none, is what some experiments are about.
        encrypt: encrypts them instead of a key, as `Inference.scores` says.
        inference: the whole image in one forward pass, windows of it, several scales, mirrored too.
        progress: passed to the progress bar (`desc`, `total`, `disable`).
    """
    for image in tqdm(images, leave=False, **progress):
        scores = inference.scores(model, processor, image, secret_key=secret_key, encrypt=encrypt)
        yield scores.argmax(dim=0).cpu().numpy()


def evaluate_mean_iou(
    model: PreTrainedModel,
    processor: SetrImageProcessor,
    dataset: Dataset,
    label_map: LabelMap,
    accelerator: Accelerator,
    *,
    encrypt: Encrypt | None = None,
    desc: str = "evaluate",
) -> dict[str, Any]:
    """mIoU over a data set at the size of its labels, as `MeanIoU.compute` returns it, the same in every process.

    Each process takes its share of the images and their counts are summed once, so no image counts twice. All
    processes run equally many forward passes, as sharded models need it: a last one may be idle work.

    Args:
        model, processor: on any device, and what gives it its pixels.
        dataset: columns `image` and `annotation`.
        label_map: turns annotations into classes.
        accelerator: of the run; all of its processes call this.
        encrypt: encrypts each image before the model sees it, as `Inference.scores` says.
        desc: what the progress bar says.
    """
    was_training = model.training
    model.eval()
    metric = MeanIoU(cast(int, model.config.num_labels))
    processes, rank, size = accelerator.num_processes, accelerator.process_index, len(dataset)
    mine = range(rank, -(-size // processes) * processes, processes)
    rows = dataset.select([index % size for index in mine])
    silent = not accelerator.is_local_main_process
    progress: dict[str, Any] = {"desc": desc, "total": len(rows), "disable": silent}
    maps = predict_maps(model, processor, rows["image"], encrypt=encrypt, **progress)
    for index, prediction, annotation in zip(mine, maps, rows["annotation"], strict=True):
        if index < size:
            metric.add(prediction=prediction, reference=label_map(annotation))
    metric.confusion = accelerator.reduce(torch.from_numpy(metric.confusion).to(accelerator.device)).cpu().numpy()
    model.train(was_training)
    return metric.compute()
