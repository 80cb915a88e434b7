"""Fits the transform code of a client embedding on calibration images, and measures what its rates cost."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from datasets import Dataset

from ..inference.segmentation import segment_image
from ..setr.block_cipher import to_blocks
from ..setr.client_embedding import ClientEmbedding
from ..setr.encrypted_image import EncryptedImage
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.modeling_setr import SetrForSemanticSegmentation
from ..setr.packed_integers import packed
from ..setr.stored_pixels import rounded, stored, without_zeros
from ..setr.transform_code import TransformCode, task_transform
from .label_map import LabelMap
from .metrics import MeanIoU
from .rows import read_row

_STEPS = 2.0 ** -np.arange(9, 0.5, -0.5)  # of the quantiser, relative to the spread of the largest direction


def fit_transform_code(
    model: SetrForSemanticSegmentation, processor: SetrImageProcessor, images: Iterable[Any], *, seed: int = 0
) -> ClientEmbedding:
    """A plain model and calibration images -> a new client embedding for it, with a transform code.

    The Fisher information is that of the model's own scores: labels are drawn from them, and none are needed.

    Args:
        model: plain, in evaluation mode.
        processor: the model's.
        images: as the processor takes them, one by one. What the code tells of them, it tells the server.
        seed: of the labels that are drawn.

    Raises:
        EncryptionStateError: the model is encrypted.
        ValueError: no images, or so few or so uniform ones that no rates could be told apart.
    """
    embedding = ClientEmbedding.generate(model)
    patches = model.patch_projection
    weight = patches.weight.detach().double().cpu().numpy().reshape(len(patches.weight), -1)
    server = np.linalg.pinv(embedding.matrix) @ weight.T  # z = y server
    generator = torch.Generator().manual_seed(seed)
    rank = embedding.shape[1]
    moments, information, sent = np.zeros((rank, rank)), np.zeros((rank, rank)), []
    for image in images:
        pixel_values = processor(image, return_tensors="pt").pixel_values
        y = to_blocks(pixel_values.double().numpy(), patches.patch_size)[0] @ embedding.matrix
        gradients = _gradients(model, pixel_values, generator) @ server.T
        moments += np.einsum("abi,abj->ij", y, y, optimize=True)
        information += gradients.T @ gradients
        sent.append(y.astype(np.float32))
    if not sent:
        raise ValueError("expected calibration images, got none")
    transform = task_transform(moments, information)
    blocks = sum(y.shape[0] * y.shape[1] for y in sent)
    spread = np.sqrt(np.diag(transform.T @ moments @ transform).max() / blocks)
    coded = [(y @ transform.astype(np.float32)).transpose(2, 0, 1) for y in sent]
    bits: list[float] = []
    steps: list[float] = []
    for step in spread * _STEPS:
        found = sum(8 * _packed_bytes(array, step) for array in coded) / blocks
        if not bits or 0 < found < bits[-1]:
            bits.append(found)
            steps.append(step)
    if len(steps) < 2:
        raise ValueError("expected calibration images whose blocks differ, got uniform ones; take others, or more")
    return embedding.with_code(TransformCode(transform, np.array(steps), np.array(bits)))


@dataclass(frozen=True)
class Rate:
    """What uploads of one size cost.

    Args:
        bits_per_block: as asked for; None for the exact form of 16 bits a number.
        num_bytes: of an upload, its header included, in the mean.
        mean_iou: against the segmentation maps of the data set.
        equal_pixels: share of pixels whose class is that of the plain model.
    """

    bits_per_block: float | None
    num_bytes: float
    mean_iou: float
    equal_pixels: float


def measure_rates(
    model: SetrForSemanticSegmentation,
    processor: SetrImageProcessor,
    embedding: ClientEmbedding,
    rows: Dataset,
    label_map: LabelMap,
    rates: Sequence[float],
) -> Iterator[tuple[float, list[Rate]]]:
    """After each row of a data set: the mIoU of the plain model up to it, and that of each rate.

    Every image goes the whole way: encrypted, written, read again and segmented by the encrypted model.
    """
    asked = [None, *rates]
    encrypted_model = deepcopy(model).encrypt_model(embedding)
    plain, metrics = MeanIoU(model.config.num_labels), [MeanIoU(model.config.num_labels) for _ in asked]
    num_bytes, equal = np.zeros(len(asked)), np.zeros(len(asked))
    for index in range(len(rows)):
        image, labels = read_row(rows, index, label_map, processor.num_channels, None)
        expected = segment_image(model, processor, image)
        plain.add(prediction=expected, reference=labels)
        for place, bits in enumerate(asked):
            sent = cast(EncryptedImage, processor.encrypt(image, embedding, bits_per_block=bits)).to_bytes()
            found = segment_image(encrypted_model, processor, EncryptedImage.from_bytes(sent))
            metrics[place].add(prediction=found, reference=labels)
            num_bytes[place] += len(sent)
            equal[place] += (found == expected).mean()
        figures = zip(asked, num_bytes / (index + 1), metrics, equal / (index + 1), strict=True)
        yield (
            plain.compute()["mean_iou"],
            [Rate(bits, size, metric.compute()["mean_iou"], same) for bits, size, metric, same in figures],
        )


def _packed_bytes(coded: np.ndarray, step: float) -> int:
    """(r, rows, columns) float32 -> bytes of its packed multiples of the step."""
    values, _ = stored(*rounded(coded, step))
    return len(packed(without_zeros(values, 1)))


def _gradients(
    model: SetrForSemanticSegmentation, pixel_values: torch.Tensor, generator: torch.Generator
) -> np.ndarray:
    """One image -> (blocks, hidden_size): of the log likelihood of labels that the model's scores were drawn from."""
    with _embeddings_of(model) as found:
        scores = model(pixel_values=pixel_values.to(model.device)).logits.float()
        probabilities = scores.detach().softmax(1).movedim(1, -1).cpu()
        drawn = torch.multinomial(probabilities.flatten(0, -2), 1, generator=generator)
        drawn = drawn.reshape(probabilities.shape[:-1]).to(scores.device)
        loss = torch.nn.functional.cross_entropy(scores, drawn, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, found)
    return gradient.double().flatten(2)[0].T.cpu().numpy()


@contextmanager
def _embeddings_of(model: SetrForSemanticSegmentation) -> Iterator[list[torch.Tensor]]:
    """The output of the projection, at which the graph of a forward pass begins, in a list that the pass fills."""
    found: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> torch.Tensor:
        found.append(output.detach().requires_grad_())
        return found[0]

    with torch.enable_grad():
        handle = model.setr.embeddings.patch_embeddings.projection.register_forward_hook(keep)
        try:
            yield found
        finally:
            handle.remove()
