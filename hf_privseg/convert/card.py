"""The section of a converted model's card that says where the weights came from and what was done to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from ..setr.files import write_whole

_UNTRAINED = (
    "**The decoder is untrained**: the source is an encoder alone, and decoder and auxiliary heads hold random "
    "numbers. The model segments nothing before it has been trained."
)
_PUBLIC = (
    "If the source is public, then so is this patch embedding, and whoever has it can invert what it encrypts. "
    "Protection needs a patch embedding that was trained further in private."
)


@dataclass(frozen=True)
class Provenance:
    """Where the weights of a converted model came from.

    Args:
        source: name of the file or folder.
        files: (name, SHA-256) of each file with weights.
        format: its title.
        mean, std: the statistics of the source, for pixels in [0, 1].
        statistics_from: who said so.
        notes: what was done to the weights besides renaming them.
        unused: {key of the source: why SETR has no place for it}.
        classes: where the names of the classes come from.
        is_trained: whether the source has a decoder.
    """

    source: str
    files: Sequence[tuple[str, str]]
    format: str
    mean: Sequence[float]
    std: Sequence[float]
    statistics_from: str
    notes: Sequence[str]
    unused: Mapping[str, str]
    classes: str
    is_trained: bool

    def folded(self) -> list[str]:
        """What was done to the weights, one line each."""
        mean, std = (", ".join(f"{value:.6g}" for value in values) for values in (self.mean, self.std))
        return [
            f"mean ({mean}) and standard deviation ({std}), {self.statistics_from}, into the patch embedding, which "
            "now takes pixels in [-1, 1]",
            *self.notes,
        ]

    def dropped(self) -> list[str]:
        """Which weights of the source are not used and why, one line for each reason."""
        by_reason = sorted((reason, key) for key, reason in self.unused.items())
        lines = []
        for reason, items in groupby(by_reason, itemgetter(0)):
            lines.append(f"{', '.join(f'`{key}`' for _, key in items)}: {reason}")
        return lines

    def section(self) -> str:
        """The section, in Markdown."""
        listed = ["- " + line for line in self.dropped()] or ["none"]
        lines = [
            "## Where the weights come from",
            "",
            f"Converted from `{self.source}`, {self.format}. Its licence and terms of use apply to these weights too.",
            "",
            *(["| file | SHA-256 |", "|---|---|"] if self.files else []),
            *(f"| `{name}` | `{digest}` |" for name, digest in self.files),
            "",
            *([] if self.is_trained else [_UNTRAINED, ""]),
            "Folded into the weights, or added:",
            *("- " + line for line in self.folded()),
            "",
            "Weights of the source that are not used:",
            *listed,
            "",
            f"Names of the classes: {self.classes}.",
            "",
            _PUBLIC,
        ]
        return "\n".join(lines) + "\n"

    def append_to(self, folder: Path) -> None:
        """Put the section at the end of the model card of a folder, outside of the part that is written anew."""
        path = folder / "README.md"
        text = path.read_text(encoding="utf-8")
        write_whole(path, f"{text.rstrip()}\n\n{self.section()}".encode(), overwrite=True)
