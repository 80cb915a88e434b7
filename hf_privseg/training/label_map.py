"""How stored labels become classes: `LabelMap`, made from a preset, from options, or from both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from ..catalog.class_files import read_label_map
from ..catalog.datasets import preset_named
from ..setr.class_names import void_label
from ..setr.segmentation_map_inputs import IGNORE_INDEX, segmentation_map_to_indices

_UNKNOWN = -1  # a stored label that nothing accounts for


@dataclass(frozen=True)
class LabelMap:
    """A translation of stored labels into classes 0 .. num_labels - 1, and `ignore_index` where a pixel has no class.

    Args:
        num_labels: number of classes, two or more.
        ignore_labels: stored labels that belong to no class. None means 255 where the stored labels are classes
            already and 255 is none of them.
        mapping: {stored label: class, or None for void}; what it does not name is void. None means that the stored
            labels are classes already.
        reduce_labels: whether stored 0 is void and k is class k - 1, as in ADE20K.

    Raises:
        ValueError: fewer than two classes, a class beyond `num_labels`, a label that is void and has a class, or a
            mapping together with `reduce_labels`.
    """

    num_labels: int
    ignore_labels: tuple[int, ...] | None = None
    mapping: Mapping[int, int | None] | None = None
    reduce_labels: bool = False

    def __post_init__(self) -> None:
        if self.num_labels < 2:
            raise ValueError(f"expected two or more classes, got {self.num_labels}; let the background be a class too")
        for stored, label in (self.mapping or {}).items():
            if label is not None and label not in range(self.num_labels):
                raise ValueError(
                    f"expected classes 0 .. {self.num_labels - 1} in the label map, got the class {label} for the "
                    f"stored label {stored}; the classes are those of --id2label"
                )
            if label is not None and stored in (self.ignore_labels or ()):
                raise ValueError(
                    f"expected the stored label {stored} either in ignore_labels or in the label map, got it in both"
                )
        if self.mapping is not None and self.reduce_labels:
            raise ValueError("expected a label map or reduce_labels, got both; a label map can say all")

    @classmethod
    def from_files(
        cls,
        num_labels: int,
        ignore_labels: Sequence[int] | None,
        mapping: str | None,
        reduce_labels: bool | None,
        preset: str | None = None,
        preset_mapping: Mapping[int, int] | None = None,
    ) -> "LabelMap":
        """The label map that the options of a command line describe.

        What is None is the preset's or, without a preset, this class's default. A file with a label map replaces all
        that the preset says about stored labels.

        Args:
            num_labels: number of classes.
            ignore_labels: as in the class.
            mapping: path of a JSON file {stored label: class}.
            reduce_labels: as in the class.
            preset: name of a known data set.
            preset_mapping: the label map of the form in which the data set is stored; None takes the preset's own.

        Raises:
            ValueError: there is no such preset, it is for another number of classes, or the file is wrong.
        """
        ignored = None if ignore_labels is None else tuple(ignore_labels)
        if mapping is not None:
            return cls(num_labels, ignored, read_label_map(mapping), bool(reduce_labels))
        if preset is None:
            return cls(num_labels, ignored, None, bool(reduce_labels))
        known = preset_named(preset)
        if num_labels != len(known.class_names):
            raise ValueError(
                f"expected {len(known.class_names)} classes, as the preset {preset!r} has, got {num_labels}; give a "
                "label map of your own, or a model of these classes"
            )
        return cls(
            num_labels,
            known.ignore_labels if ignored is None else ignored,
            known.label_map if preset_mapping is None else preset_mapping,
            known.reduce_labels if reduce_labels is None else reduce_labels,
        )

    @property
    def ignore_index(self) -> int:
        """The label of pixels without a class: 255, or -100 where 255 is a class."""
        return void_label(self.num_labels)

    def __call__(self, annotation: Image.Image | np.ndarray) -> np.ndarray:
        """A stored segmentation map, as `segmentation_map_to_indices` takes it -> `(height, width)` int64.

        Raises:
            InvalidImageError: the annotation is no map of indices.
            ValueError: a stored label belongs to no class and is not ignored.
        """
        return self.classes_of(segmentation_map_to_indices(annotation).numpy())

    def classes_of(self, stored: np.ndarray) -> np.ndarray:
        """Stored labels, int64 of any shape -> the same shape, classes or `ignore_index`.

        Raises:
            ValueError: a stored label belongs to no class and is not ignored.
        """
        inside = (stored >= 0) & (stored < len(self._table))
        if inside.all():
            labels = self._table[stored]
        else:
            labels = np.full(stored.shape, self._default)
            labels[inside] = self._table[stored[inside]]
            for value, label in self._known.items():
                if not 0 <= value < len(self._table):
                    labels[stored == value] = label
        if (labels == _UNKNOWN).any():
            raise ValueError(
                f"expected labels 0 .. {self.num_labels - 1}{self._named_void()}, got "
                f"{np.unique(stored[labels == _UNKNOWN])[:10].tolist()}; name them in --ignore-labels, or translate "
                "them with --label-map"
            )
        return labels

    @property
    def _default(self) -> int:
        """What becomes of a stored label that nothing names."""
        return _UNKNOWN if self.mapping is None else self.ignore_index

    @cached_property
    def _known(self) -> dict[int, int]:
        """{stored label: class or `ignore_index`} of all that the settings name."""
        if self.mapping is not None:
            known = {stored: self.ignore_index if label is None else label for stored, label in self.mapping.items()}
        else:
            first = int(self.reduce_labels)
            known = dict.fromkeys(range(first), self.ignore_index)
            known |= {first + label: label for label in range(self.num_labels)}
        return known | dict.fromkeys(self._void, self.ignore_index)

    @property
    def _void(self) -> tuple[int, ...]:
        """The stored labels that are void by their name."""
        if self.ignore_labels is not None:
            return self.ignore_labels
        return (IGNORE_INDEX,) if self.mapping is None and self.num_labels + self.reduce_labels <= IGNORE_INDEX else ()

    def _named_void(self) -> str:
        return f", or one of {self._void} (ignored)" if self._void else ""

    @cached_property
    def _table(self) -> np.ndarray:
        """What becomes of the stored labels 0, 1, ...; larger ones are looked up one by one."""
        small = {stored: label for stored, label in self._known.items() if 0 <= stored < 2**16}
        table = np.full(max(small, default=-1) + 1, self._default)
        table[list(small)] = list(small.values())
        return table
