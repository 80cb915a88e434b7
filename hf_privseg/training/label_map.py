"""How stored labels become classes: `LabelMap`, made from a preset, from options, or from both."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from ..catalog.datasets import preset_named

IGNORE_INDEX = 255  # the label of pixels without a class


@dataclass(frozen=True)
class LabelMap:
    """A translation of stored labels into classes 0 .. num_labels - 1, and `IGNORE_INDEX` where a pixel has no class.

    Args:
        num_labels: number of classes.
        ignore_labels: stored values that belong to no class.
        mapping: {stored value: class}; None means that values are classes already. What it does not name is ignored.
        reduce_labels: whether stored 0 is background, to be ignored, and k is class k - 1, as in ADE20K.
    """

    num_labels: int
    ignore_labels: tuple[int, ...] = (IGNORE_INDEX,)
    mapping: dict[int, int] | None = None
    reduce_labels: bool = False

    @classmethod
    def from_files(
        cls,
        num_labels: int,
        ignore_labels: Sequence[int] | None,
        mapping: str | None,
        reduce_labels: bool | None,
        preset: str | None = None,
    ) -> "LabelMap":
        """The settings of a command line, `mapping` being the path of a JSON file {stored value: class}.

        What is None is the preset's, or, without a preset, this class's default.

        Raises:
            ValueError: there is no such preset, or its label map is for another number of classes.
        """
        known = None if preset is None else preset_named(preset)
        table = None if known is None else known.label_map
        if mapping is not None:
            table = {int(value): int(label) for value, label in json.loads(Path(mapping).read_text()).items()}
        elif known is not None and num_labels != len(known.class_names):
            raise ValueError(
                f"expected {len(known.class_names)} classes, as the preset {preset!r} has, got {num_labels}; give a "
                "label map of your own, or a model of these classes"
            )
        defaults = known or cls
        ignored = defaults.ignore_labels if ignore_labels is None else ignore_labels
        reduced = defaults.reduce_labels if reduce_labels is None else reduce_labels
        return cls(num_labels, tuple(ignored), table, reduced)

    def __call__(self, annotation: Image.Image | np.ndarray) -> np.ndarray:
        """`(height, width)` indices, or a palette image -> `(height, width)` int64.

        Some data sets store the index in red, green and blue alike, with or without transparency: that will do.

        Raises:
            ValueError: the annotation has several channels that differ, as a map of colours has, or a value that is
                no class.
        """
        stored = np.asarray(annotation)
        if stored.ndim == 3 and stored.shape[-1] in (3, 4) and (stored[..., :1] == stored[..., :3]).all():
            stored = stored[..., 0]
        if stored.ndim != 2:
            raise ValueError(
                f"expected a segmentation map (height, width) of class indices, got shape {stored.shape}; a map of "
                "colours must be converted to indices first"
            )
        labels = self._table[stored]
        if (labels < 0).any():
            raise ValueError(
                f"expected labels 0 .. {self.num_labels - 1}, or one of {self.ignore_labels} (ignored), got "
                f"{np.unique(stored[labels < 0])[:10].tolist()}; name them as ignored or give a label map"
            )
        return labels

    @cached_property
    def _table(self) -> np.ndarray:
        # -1 marks stored values that nobody accounted for
        table = np.full(2**16, -1, dtype=np.int64)
        if self.mapping is not None:
            table[:] = IGNORE_INDEX
            for value, label in self.mapping.items():
                table[value] = label
        else:
            first = int(self.reduce_labels)
            table[first : first + self.num_labels] = np.arange(self.num_labels)
            table[:first] = IGNORE_INDEX
        table[list(self.ignore_labels)] = IGNORE_INDEX
        return table
