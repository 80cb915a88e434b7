"""Predictions of a model over a data set, for validation during training and for the experiments."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ..any_vit.model_facts import key_facts
from ..inference.segmentation import WHOLE_IMAGE, segment_image
from ..inference.windows import Encrypt, Inference
from ..setr.encrypted_image import EncryptedImage
from ..setr.encryption_key import EncryptionKey
from ..setr.image_processing_setr import SetrImageProcessor
from .label_map import LabelMap
from .metrics import MeanIoU, Metrics
from .rows import read_row


def predict_maps(
    model: PreTrainedModel,
    processor: SetrImageProcessor,
    images: Iterable[Image.Image | torch.Tensor | EncryptedImage],
    *,
    secret_key: EncryptionKey | None = None,
    encrypt: Encrypt | None = None,
    inference: Inference = WHOLE_IMAGE,
    **progress: Any,
) -> Iterator[np.ndarray]:
    """Images -> one int64 segmentation map `(height, width)` each, at the image's size; one image at a time.

    Args:
        model: in evaluation mode, plain or encrypted, on any device.
        processor: the model's.
        images: plain or encrypted images.
        secret_key: encrypts each image before the model sees it. The key is not checked against the model, since some
            experiments measure what a wrong key gives.
        encrypt: encrypts the images instead of a key, as `Inference.scores` says.
        inference: how an image is evaluated: whole, by windows, at several scales, mirrored too.
        progress: settings of the progress bar (`desc`, `total`, `disable`).
    """
    for image in tqdm(images, leave=False, **progress):
        yield segment_image(
            model, processor, image, secret_key=secret_key, encrypt=encrypt, inference=inference, allow_mismatch=True
        )


def evaluate_mean_iou(
    model: PreTrainedModel,
    processor: SetrImageProcessor,
    dataset: Dataset,
    label_map: LabelMap,
    accelerator: Accelerator,
    *,
    encrypt: Encrypt | None = None,
    desc: str = "evaluate",
) -> Metrics:
    """`MeanIoU` over a data set, at the size of its labels and the same in every process.

    Each process takes its share of the images, and their counts are summed once, so that no image counts twice. All
    processes run equally many forward passes, because sharded models need that; a surplus one is not counted.

    Args:
        model: on any device.
        processor: the model's.
        dataset: with columns `image` and `annotation`; the images are ciphertexts if the model is encrypted, and
            nothing encrypts them here.
        label_map: turns annotations into classes.
        accelerator: of the run, all of whose processes call this function.
        encrypt: encrypts each image before the model sees it, as `Inference.scores` says.
        desc: text of the progress bar.
    """
    was_training = model.training
    model.eval()
    metric = MeanIoU(cast(int, model.config.num_labels))
    processes, rank, size = accelerator.num_processes, accelerator.process_index, len(dataset)
    mine = range(rank, -(-size // processes) * processes, processes)
    key = None if encrypt else key_facts(model)  # of ciphertexts; what `encrypt` takes is plain
    silent = not accelerator.is_local_main_process
    progress: dict[str, Any] = {"desc": desc, "total": len(mine), "disable": silent}
    truth: list[np.ndarray] = []  # of the image that is predicted next

    def images() -> Iterator[torch.Tensor | EncryptedImage]:
        for index in mine:
            image, labels = read_row(dataset, index % size, label_map, processor.num_channels, key)
            truth.append(labels)
            yield image

    maps = predict_maps(model, processor, images(), encrypt=encrypt, **progress)
    for index, prediction in zip(mine, maps, strict=True):
        reference = truth.pop()
        if index < size:
            metric.add(prediction=prediction, reference=reference)
    model.train(was_training)
    return compute_over_processes(metric, accelerator)


def compute_over_processes(metric: MeanIoU, accelerator: Accelerator) -> Metrics:
    """The metric of all that all processes have counted, the same in each; all of them call this function."""
    metric.confusion = accelerator.reduce(torch.from_numpy(metric.confusion).to(accelerator.device)).cpu().numpy()
    return metric.compute()
