"""The labels that the segmentation maps of a split store, counted over a sample before anything is computed."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

from ..catalog.datasets import LabelForm, Preset
from ..setr.counts import counted
from ..setr.errors import InvalidImageError
from ..setr.segmentation_map_inputs import segmentation_map_to_indices
from .data import evenly_spaced
from .rows import load_row

SAMPLE = 200  # segmentation maps that are counted


@dataclass(frozen=True)
class StoredLabels:
    """How often each stored label occurs in a sample of a split.

    Args:
        split: name of the split.
        counts: {stored label: pixels} of each counted map.
        names: the maps' files, or their rows where they come from no file.
        num_rows: images of the split; None if unknown, as of a stream.
    """

    split: str
    counts: tuple[dict[int, int], ...]
    names: tuple[str, ...]
    num_rows: int | None

    @classmethod
    def of(cls, split: str, rows: Dataset | IterableDataset, limit: int = SAMPLE) -> "StoredLabels":
        """Count `limit` maps: evenly spaced ones, or the first ones of a stream.

        Raises:
            InvalidImageError: a map is no map of indices; the message names its file.
        """
        counted, names = [], []
        for index, annotation in enumerate(_annotations(rows.select_columns("annotation"), limit)):
            otherwise = f"segmentation map {index} of a sample of {split}"
            name = annotation if isinstance(annotation, str) else getattr(annotation, "filename", "")
            names.append(str(name or otherwise))
            try:
                labels = segmentation_map_to_indices(annotation)
            except InvalidImageError as error:
                raise InvalidImageError(f"{names[-1]}: {error}") from None
            counted.append(_counts(labels.numpy()))
        return cls(split, tuple(counted), tuple(names), len(rows) if isinstance(rows, Dataset) else None)

    @property
    def total(self) -> Counter[int]:
        """{stored label: pixels} of the whole sample."""
        return sum(map(Counter, self.counts), Counter())

    def describe(self) -> str:
        """ "12 of the 400 images of train", for messages."""
        of = "" if self.num_rows in (None, len(self.counts)) else f" of the {self.num_rows}"
        number, _, noun = counted(len(self.counts), "image").partition(" ")
        return f"{number}{of} {noun} of {self.split}"


def _counts(labels: np.ndarray) -> dict[int, int]:
    """Integers -> {value: how often}."""
    if labels.min() >= 0 and labels.max() < 2**16:  # four times as fast as sorting
        every = np.bincount(labels.ravel())
        values, counts = np.flatnonzero(every), every[every > 0]
    else:
        values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _annotations(rows: Dataset | IterableDataset, limit: int) -> Iterator[Any]:
    """The stored segmentation maps of a sample; lists of numbers, as arrays come from a data set, as arrays."""
    if isinstance(rows, Dataset):
        sample = evenly_spaced(rows, limit)
        loaded: Iterable[dict[str, Any]] = (load_row(sample, index) for index in range(len(sample)))
    else:
        loaded = islice(rows, limit)
    for row in loaded:
        annotation = row["annotation"]
        yield np.asarray(annotation) if isinstance(annotation, list) else annotation


def form_of(stored: StoredLabels, preset: Preset) -> LabelForm | None:
    """The form in which the maps of a data set are stored; None for a preset that knows one form alone.

    The names of the files tell it or, where they do not, the values: the form is the one with the fewest possible
    values among those that have all values of the sample.

    Raises:
        ValueError: the maps have a form that holds no classes.
    """
    if not preset.forms:
        return None
    stems = [Path(name).stem for name in stored.names]
    values = set(stored.total) - set(preset.ignore_labels)
    named = [form for form in preset.forms if all(stem.endswith(form.file_ending) for stem in stems)]
    possible = sorted((form for form in preset.forms if values <= set(form.values)), key=lambda form: len(form.values))
    form = (named or possible or [preset.forms[0]])[0]
    if not form.label_map:
        usable = " or ".join(f"*{each.file_ending}" for each in preset.forms if each.label_map)
        raise ValueError(
            f"expected segmentation maps that hold classes, {usable}, got *{form.file_ending} with {form.description} "
            f"in {stored.split}, for example {stored.names[0]}; choose the files with --annotation-pattern"
        )
    return form
