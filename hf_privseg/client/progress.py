"""How far a job is: one bar on standard error."""

from collections.abc import Iterable
from typing import TypeVar

_Item = TypeVar("_Item")


def shown(items: Iterable[_Item], count: int, *, wanted: bool) -> Iterable[_Item]:
    """The items, and on standard error how many of `count` have passed, where that is wanted."""
    from rich.progress import track

    from ..reporting.tables import terminal

    return track(items, "Segmenting", count, console=terminal(stderr=True), disable=not wanted)
