"""Work on many images: each result is handed on when it is ready, and an image that fails does not stop the others."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from .failures import is_foreseen, message_of

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_NAMED_FAILURES = 5


def attempt(
    work: Callable[[int, _Item], _Result], items: Iterable[tuple[int, _Item | Exception]]
) -> Iterator[tuple[int, _Result | Exception]]:
    """Positions and items -> the same positions, each with what `work` makes of it or the foreseen error it raises.

    An item that is an error already stays what it is. A bug in `work` ends the iteration.
    """
    for index, item in items:
        outcome: _Result | Exception
        if isinstance(item, Exception):
            outcome = item
        else:
            try:
                outcome = work(index, item)
            except Exception as error:
                if not is_foreseen(error):
                    raise
                outcome = error
        yield index, outcome


class Job:
    """The images of one command, and those of them that failed.

    Args:
        images: the images.
        doing: what the progress bar says, such as "Segmenting".
        lacking: what an image that fails does not have in the end, such as "segmentation map".
    """

    def __init__(self, images: Sequence[Path], *, doing: str, lacking: str) -> None:
        self.images, self._doing, self._lacking = images, doing, lacking
        self._failures: dict[int, Exception] = {}

    def results(self, outcomes: Iterable[tuple[int, _Result | Exception]]) -> Iterator[tuple[int, _Result]]:
        """Position and result of each image that succeeds, as they are ready, behind a progress bar on standard error.

        Args:
            outcomes: position of an image, and its result or the error that it failed with. A bug is raised at once.
        """
        from rich.progress import track

        from ..reporting.tables import terminal

        count = len(self.images)
        for index, outcome in track(outcomes, self._doing, count, console=terminal(stderr=True), disable=count < 2):
            if not isinstance(outcome, Exception):
                yield index, outcome
            elif is_foreseen(outcome):
                self._failures[index] = outcome
            else:
                raise outcome

    def raise_failures(self) -> None:
        """Raise what went wrong, if anything did.

        Raises:
            Exception: the error itself, of a single image.
            ValueError: the first few images that failed, and why.
        """
        if not self._failures:
            return
        if len(self.images) == 1:
            raise self._failures[0]
        failed = sorted(self._failures)
        named = ((str(self.images[index]), message_of(self._failures[index])) for index in failed[:_NAMED_FAILURES])
        lines = [text if text.startswith(name) else f"{name}: {text}" for name, text in named]
        lines += [f"and {len(failed) - _NAMED_FAILURES} more"] * (len(failed) > _NAMED_FAILURES)
        raise ValueError(
            f"no {self._lacking} for {len(failed)} of {len(self.images)} images: " + "; ".join(lines)
        ) from self._failures[failed[0]]
