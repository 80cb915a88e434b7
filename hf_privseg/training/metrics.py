"""Mean intersection over union of a whole data set: a streaming `evaluate` metric around one confusion matrix."""

from collections.abc import Iterable
from typing import Any, TypedDict

import datasets
import evaluate
import numpy as np

from ..setr.class_names import void_label

_DESCRIPTION = "Mean intersection over union of semantic segmentation, summed over the data set before dividing."
_INPUTS = "predictions and references: integer maps of shape (height, width), or iterables of such maps."


class Metrics(TypedDict):
    """The figures of `MeanIoU`: floats in [0, 1], and `(num_labels,)` float64 with NaN where a class is absent."""

    mean_iou: float
    mean_accuracy: float
    overall_accuracy: float
    per_category_iou: np.ndarray
    per_category_accuracy: np.ndarray


class MeanIoU(evaluate.Metric):
    """A streaming form of the metric `mean_iou` of `evaluate`: `add` counts a map and keeps the counts alone.

    Intersections and unions are summed over the data set and divided once. Pixels whose reference is `ignore_index` do
    not count. A prediction that is no class counts in the area of the reference and in no class. A class without union
    is NaN and does not enter the means.

    Several processes count their shares with one instance each, and the sum of their `confusion` is that of the whole.

    Args:
        num_labels: classes 0 .. num_labels - 1.
        ignore_index: the reference value of pixels that do not count, after any reduction. None means 255, or -100
            where 255 is a class.
        reduce_labels: whether reference 0 (background) becomes 255 and k becomes k - 1, as in ADE20K. Predictions are
            never reduced. `ignore_index` must then be 255.
    """

    def __init__(self, num_labels: int, ignore_index: int | None = None, reduce_labels: bool = False, **kwargs: Any):
        if ignore_index is None:
            ignore_index = void_label(num_labels)
        if num_labels < 2:
            raise ValueError(f"num_labels must be at least 2 (background is a class too), got {num_labels}.")
        if 0 <= ignore_index < num_labels:
            raise ValueError(f"ignore_index must be no class (0 .. {num_labels - 1}), got {ignore_index}.")
        if reduce_labels and ignore_index != 255:
            raise ValueError(
                f"reduce_labels turns background into 255, so ignore_index must be 255, got {ignore_index}."
            )
        super().__init__(**kwargs)
        self.num_labels, self.ignore_index, self.reduce_labels = num_labels, ignore_index, reduce_labels
        # One row for each value of a reference, and one column more than classes for predictions that are no class.
        # Counting all pixels and dropping the ignored row later is ten times faster than masking pixels.
        self._ignored_row = ignore_index if ignore_index >= 0 else num_labels
        self._counts = np.zeros((self._ignored_row + 1, num_labels + 1), np.int64)

    def _info(self) -> evaluate.MetricInfo:
        features = datasets.Features(
            {name: datasets.Array2D((None, 1), "int64") for name in ("predictions", "references")}
        )
        return evaluate.MetricInfo(
            description=_DESCRIPTION, citation="", inputs_description=_INPUTS, features=features
        )

    @property
    def confusion(self) -> np.ndarray:
        """`(num_labels, num_labels + 1)` int64 counts, one row a reference class; the last column is no class."""
        return self._counts[: self.num_labels]

    @confusion.setter
    def confusion(self, counts: np.ndarray) -> None:
        self._counts[: self.num_labels] = counts

    def add(self, *, prediction: np.ndarray, reference: np.ndarray, **kwargs: Any) -> None:
        """Count one map.

        Args:
            prediction: integers `(height, width)`.
            reference: integers `(height, width)`, classes or `ignore_index`.

        Raises:
            ValueError: the shapes differ, or the reference has a value that is neither a class nor ignored.
        """
        prediction, reference = np.asarray(prediction), np.asarray(reference)
        if prediction.shape != reference.shape:
            raise ValueError(
                f"prediction and reference must have the same shape, got {prediction.shape} and {reference.shape}."
            )
        labels = reference.astype(np.int64)  # a copy: it becomes the flat index below
        if self.reduce_labels:
            labels[labels == 255] = 0
            labels = np.where(labels == 0, 255, labels - 1)
        if self.ignore_index < 0:
            labels[labels == self.ignore_index] = self._ignored_row
        if labels.size and (labels.min() < 0 or labels.max() >= len(self._counts)):
            raise self._strange_labels(np.unique(labels))
        if prediction.size and (prediction.min() < 0 or prediction.max() >= self.num_labels):
            prediction = np.where((prediction < 0) | (prediction >= self.num_labels), self.num_labels, prediction)
        labels *= self.num_labels + 1
        labels += prediction
        counts = np.bincount(labels.ravel(), minlength=self._counts.size).reshape(self._counts.shape)
        present = np.flatnonzero(counts[self.num_labels :].any(axis=1)) + self.num_labels
        if (present != self._ignored_row).any():
            raise self._strange_labels(present)
        self._counts += counts

    def add_batch(self, *, predictions: Iterable[np.ndarray], references: Iterable[np.ndarray], **kwargs: Any) -> None:
        """Count several maps, which may differ in size."""
        for prediction, reference in zip(predictions, references, strict=True):
            self.add(prediction=prediction, reference=reference)

    def compute(
        self,
        *,
        predictions: Iterable[np.ndarray] | None = None,
        references: Iterable[np.ndarray] | None = None,
        **kwargs: Any,
    ) -> Metrics:
        """Count the given maps, if any -> the metric of all that was counted; then start anew."""
        if (predictions is None) != (references is None):
            raise ValueError("expected predictions and references together, or neither, got one of the two")
        if predictions is not None and references is not None:
            self.add_batch(predictions=predictions, references=references)
        result = self._compute(confusion=self.confusion.copy())
        self._counts[:] = 0
        return result

    def _compute(self, *, confusion: np.ndarray) -> Metrics:
        hits, areas = np.diag(confusion).astype(float), confusion.sum(axis=1)
        unions = areas + confusion[:, :-1].sum(axis=0) - hits
        with np.errstate(divide="ignore", invalid="ignore"):
            iou, accuracy = hits / unions, hits / areas
            overall = hits.sum() / areas.sum()
        return {
            "mean_iou": float(np.nanmean(iou)) if unions.any() else float("nan"),
            "mean_accuracy": float(np.nanmean(accuracy)) if areas.any() else float("nan"),
            "overall_accuracy": float(overall),
            "per_category_iou": iou,
            "per_category_accuracy": accuracy,
        }

    def _strange_labels(self, values: np.ndarray) -> ValueError:
        strange = values[(values != self._ignored_row) & ((values < 0) | (values >= self.num_labels))]
        return ValueError(
            f"references must be classes 0 .. {self.num_labels - 1} or {self.ignore_index} (ignored), got the values "
            f"{strange[:10].tolist()}. Map raw label ids to classes first, or pass reduce_labels / ignore_index."
        )
