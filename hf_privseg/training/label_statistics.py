"""How often each class occurs in a split: a table for people, and warnings about what looks wrong."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..setr.counts import counted
from .label_map import LabelMap
from .stored_labels import StoredLabels

TABLE_HEADER = ("class", "name", "pixels", "images")
_MUCH_VOID = 0.9  # a larger share of void pixels is worth a warning
_SHOWN = 8  # classes and stored labels that a message lists


@dataclass(frozen=True)
class LabelStatistics:
    """How often each class occurs in a sample of a split.

    Args:
        stored: the stored labels of the sample.
        names: {class: name}.
        pixels: `(num_labels,)` int64, the pixels of each class.
        images: `(num_labels,)` int64, the images in which each class occurs.
        void: {stored label: pixels} of the labels that are void.
        unlabelled: the names of the maps in which every pixel is void.
    """

    stored: StoredLabels
    names: Mapping[int, str]
    pixels: np.ndarray
    images: np.ndarray
    void: Counter[int]
    unlabelled: tuple[str, ...]

    @classmethod
    def of(cls, stored: StoredLabels, label_map: LabelMap, names: Mapping[int, str]) -> "LabelStatistics":
        """Translate the stored labels of a sample into classes, and count these.

        Raises:
            ValueError: a stored label has no class; the message names the file that holds it.
        """
        pixels, images = np.zeros((2, label_map.num_labels), np.int64)
        void: Counter[int] = Counter()
        unlabelled = []
        for counts, name in zip(stored.counts, stored.names, strict=True):
            values = np.array(list(counts), np.int64)
            try:
                classes = label_map.classes_of(values)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            for value, label in zip(counts, classes.tolist(), strict=True):
                if label == label_map.ignore_index:
                    void[value] += counts[value]
                else:
                    pixels[label] += counts[value]
            present = np.setdiff1d(classes, label_map.ignore_index)
            images[present] += 1
            unlabelled += [] if len(present) else [name]
        return cls(stored, names, pixels, images, void, tuple(unlabelled))

    def warnings(self) -> list[str]:
        """What looks wrong, each with its remedy.

        Raises:
            ValueError: no pixel of the sample has a class.
        """
        where, total = self.stored.describe(), int(self.pixels.sum() + self.void.total())
        if not self.pixels.any():
            raise ValueError(
                f"expected labelled pixels, got none in {where}, for example {self.stored.names[0]}: "
                f"{self._void_labels()}. {self._remedy()}"
            )
        found = []
        if self.unlabelled:
            listed = ", ".join(self.unlabelled[:_SHOWN]) + (", ..." if self.unlabelled[_SHOWN:] else "")
            number = counted(len(self.unlabelled), "segmentation map")
            found.append(f"{number} in {where} without a labelled pixel, from which a model learns nothing: {listed}")
        if self.void.total() > _MUCH_VOID * total:
            share = self.void.total() / total
            found.append(f"{share:.1%} of the pixels in {where} are void: {self._void_labels()}. {self._remedy()}")
        absent = [f"{index} ({self.names[index]})" for index in np.flatnonzero(self.pixels == 0).tolist()]
        if len(absent) == len(self.pixels) - 1:
            only = self.names[int(self.pixels.argmax())]
            found.append(
                f"all labelled pixels in {where} are of one class, {only}, from which a model learns nothing"
                f"{f'; {self._void_labels()}' if self.void else ''}. {self._remedy()}"
            )
        elif absent:
            listed = ", ".join(absent[:_SHOWN]) + (f" and {len(absent) - _SHOWN} more" if absent[_SHOWN:] else "")
            found.append(f"no pixel in {where} is of the classes {listed}. {self._remedy()}")
        return found

    def rows(self) -> list[list[str]]:
        """The cells of a table with `TABLE_HEADER`: one row a class, then void; shares are of all counted pixels."""
        total = max(int(self.pixels.sum() + self.void.total()), 1)
        rows = [
            [str(index), self.names[index], f"{count / total:.2%}", str(images)]
            for index, (count, images) in enumerate(zip(self.pixels.tolist(), self.images.tolist(), strict=True))
        ]
        return [*rows, ["", "void", f"{self.void.total() / total:.2%}", ""]]

    def _void_labels(self) -> str:
        values = [str(value) for value, _ in self.void.most_common(_SHOWN)]
        return f"the stored labels {', '.join(values)} count as void" if values else "no stored label is void"

    def _remedy(self) -> str:
        """How the stored labels become the classes: exactly, where there are as many of both."""
        values = sorted(self.stored.total)
        text = "If that is wrong, say which class each stored label is: --label-map FILE with "
        if len(values) == len(self.names):
            return text + json.dumps({str(value): index for index, value in enumerate(values)})
        listed = ", ".join(map(str, values[:_SHOWN])) + (", ..." if values[_SHOWN:] else "")
        return f"{text}{{stored label: class}}; the stored labels are {listed}"
