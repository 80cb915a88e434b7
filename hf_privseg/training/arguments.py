"""Command lines of trainings and experiments: a dataclass declares the options, a docstring is the help text.

Options that several programs have are declared here once; a program's own dataclass inherits them. An option of
several words may be written with hyphens or underscores. What needs torch or datasets is imported where it is used, so
that `--help` and a mistake in the options cost no more than they must.
"""

import argparse
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, overload

from transformers.hf_argparser import HfArgumentParser

from ..catalog.class_files import class_names_of, palette_of
from ..catalog.datasets import PRESETS, Colour, preset_named
from ..reporting.tables import terminal, terminal_table
from ..setr.errors import EncryptionStateError

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

    from .label_map import LabelMap
    from .label_statistics import LabelStatistics
    from .stored_labels import StoredLabels

Options = TypeVar("Options")
MoreOptions = TypeVar("MoreOptions")


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """A help text that keeps the lines of the description, and shows one spelling, defaults, and what is required."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        options, action.option_strings = action.option_strings, action.option_strings[-1:] or action.option_strings
        try:
            return super()._format_action_invocation(action)
        finally:
            action.option_strings = options

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.nargs == 0 and action.const is False:
            return f"Turn --{action.dest.replace('_', '-')} off."
        if action.required:
            return f"{action.help} Required."
        if action.default is None or action.default is False or action.default in (argparse.SUPPRESS, []):
            return action.help
        return f"{action.help} Default: %(default)s."


@overload
def parse_arguments(
    options: type[Options], /, *, description: str | None, given: Sequence[str] | None = None, prog: str | None = None
) -> Options: ...


@overload
def parse_arguments(
    options: type[Options], more: type[MoreOptions], /, *, description: str | None
) -> tuple[Options, MoreOptions]: ...


def parse_arguments(
    *dataclass_types: Any, description: str | None, given: Sequence[str] | None = None, prog: str | None = None
) -> Any:
    """The command line -> an instance of the dataclass, or a tuple with one of each.

    A `ValueError` of a dataclass ends the program as argparse does: one line and exit code 2.

    Args:
        dataclass_types: what declares the options.
        description: the help text.
        given: the command line, None for that of the process.
        prog: what the program is called in its help.
    """
    settings: dict[str, Any] = {"prog": prog, "usage": "%(prog)s [options]", "description": description}
    parser = HfArgumentParser(dataclass_types, **settings, formatter_class=_HelpFormatter)
    try:
        words = None if given is None else list(given)
        parsed = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    except ValueError as error:
        parser.error(str(error))
    return parsed[0] if len(dataclass_types) == 1 else parsed


def run_script(main: Callable[[], None]) -> None:
    """Run a script's `main`. An error about its input ends it with one line and exit code 1.

    With the environment variable PRIVSEG_DEBUG=1 such an error keeps its traceback. All other errors always do.
    """
    try:
        main()
    except (ValueError, OSError, ImportError, EncryptionStateError) as error:
        if os.environ.get("PRIVSEG_DEBUG") == "1":
            raise
        raise SystemExit(f"error: {error}") from None


@dataclass(kw_only=True)
class DataArguments:
    """Options that say where images and segmentation maps come from, and how stored labels become classes."""

    dataset: str = field(metadata={"help": "Folder with images/<split> and annotations/<split>, or a Hub id."})
    image_column: str = field(default="image", metadata={"help": "Column of the images."})
    annotation_column: str = field(default="annotation", metadata={"help": "Column of the segmentation maps."})
    annotation_pattern: str | None = field(
        default=None,
        metadata={"help": "Names of a folder's segmentation maps without suffix, as in {stem}_mask. Default: {stem}."},
    )
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub data set."})
    preset: str | None = field(
        default=None,
        metadata={
            "help": "Known data set: names and colours of classes, and what the four options below leave open.",
            "choices": list(PRESETS),
        },
    )
    id2label: str | None = field(
        default=None,
        metadata={
            "help": "File with the names of the classes: JSON {id: name} or [name, ...], or text with one name a "
            "line. Default: the preset's, or the folder's classes.json."
        },
    )
    label_map: str | None = field(
        default=None,
        metadata={"help": "JSON file {stored label: class, or null for void}; all other labels are void."},
    )
    ignore_labels: list[int] | None = field(
        default=None,
        metadata={"help": "Stored labels without class. Default: the preset's, or 255 unless it is a class."},
    )
    reduce_labels: bool | None = field(
        default=None,
        metadata={
            "help": "Stored 0 is background, k is class k - 1. Default: as in the preset.",
            "nargs": "?",
            "const": True,
        },
    )

    @overload
    def load_split(self, split: str) -> "Dataset": ...

    @overload
    def load_split(self, split: str, *, streaming: bool) -> "Dataset | IterableDataset": ...

    def load_split(self, split: str, *, streaming: bool = False) -> "Dataset | IterableDataset":
        """A split with the columns `image` and `annotation`, as `load_segmentation_dataset` returns it."""
        from .data import load_segmentation_dataset

        columns = {name: getattr(self, name) for name in ("image_column", "annotation_column", "revision")}
        pattern = self.annotation_pattern
        return load_segmentation_dataset(
            self.dataset, split=split, streaming=streaming, annotation_pattern=pattern, **columns
        )

    def load_class_names(self) -> dict[int, str]:
        """{class: name}, as `class_names_of` returns it."""
        return class_names_of(self.dataset, self.id2label, self.preset)

    def load_palette(self) -> list[Colour] | None:
        """A colour for each class, as `palette_of` returns it."""
        return palette_of(self.dataset, self.id2label, self.preset)

    def load_label_map(self, num_labels: int, stored: "StoredLabels | None" = None) -> "LabelMap":
        """The `LabelMap` that turns stored labels into `num_labels` classes.

        Args:
            num_labels: number of classes.
            stored: labels of the split, which tell the form of a preset's segmentation maps; None means its usual one.

        Raises:
            ValueError: the options contradict each other, or the maps of the split hold no classes.
        """
        from .label_map import LabelMap
        from .stored_labels import form_of

        form = form_of(stored, preset_named(self.preset)) if stored and self.preset and not self.label_map else None
        return LabelMap.from_files(
            num_labels,
            self.ignore_labels,
            self.label_map,
            self.reduce_labels,
            self.preset,
            form.label_map if form else None,
        )

    def inspect_labels(
        self, split: str, rows: "Dataset | IterableDataset", names: Mapping[int, str], *, quiet: bool = False
    ) -> "tuple[LabelMap, LabelStatistics]":
        """Count the classes in a sample of a split, print their table, and warn of what looks wrong.

        Every training and every evaluation starts with it.

        Args:
            split: name of the split.
            rows: the split, with a column `annotation`.
            names: {class: name}.
            quiet: whether nothing is printed, as in all processes but the first.

        Returns:
            The label map for the split, and how often its classes occur.

        Raises:
            ValueError: no pixel has a class, a stored label has none, or the maps cannot be read.
        """
        from .label_statistics import TABLE_HEADER, LabelStatistics
        from .stored_labels import StoredLabels

        stored = StoredLabels.of(split, rows)
        label_map = self.load_label_map(len(names), stored)
        statistics = LabelStatistics.of(stored, label_map, names)
        for warning in statistics.warnings():
            if not quiet:
                warnings.warn(warning, stacklevel=2)
        if not quiet:
            title = f"Classes in {stored.describe()}"
            terminal(soft_wrap=True).print(terminal_table(title, TABLE_HEADER, statistics.rows()))
        return label_map, statistics


@dataclass(kw_only=True)
class OptimizationArguments:
    """Options of an optimisation; a script may have other defaults."""

    epochs: int = field(default=16, metadata={"help": "Passes over the training split."})
    batch_size: int = field(default=8, metadata={"help": "Images a step and process."})
    optimizer: str = field(default="adamw", metadata={"help": "adamw, or sgd (momentum 0.9) as in the SETR paper."})
    learning_rate: float = field(default=6e-5, metadata={"help": "Peak learning rate of the encoder."})
    head_lr_factor: float = field(default=10.0, metadata={"help": "Decoder and heads learn this much faster."})
    final_lr_ratio: float = field(default=0.0, metadata={"help": "Last learning rate, relative to the peak."})
    weight_decay: float = field(default=0.01, metadata={"help": "Weight decay of matrices."})
    warmup_steps: int = field(default=40, metadata={"help": "Updates of linear warm-up."})
    power: float = field(default=0.9, metadata={"help": "Power of the polynomial decay."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradient norm to clip at; 0 does not clip."})
    mixed_precision: str | None = field(default=None, metadata={"help": "no, fp16 or bf16. Default: Accelerate's."})
    checkpoint_every: int = field(default=50, metadata={"help": "Updates between checkpoints to resume from."})
    num_workers: int = field(default=1, metadata={"help": "Processes that load images, a training process."})
    cpu: bool = field(default=False, metadata={"help": "Use the CPU even where there is a GPU."})
