"""How far a job is: one bar on standard error."""

from collections.abc import Iterable
from typing import TypeVar

_Item = TypeVar("_Item")


def shown(items: Iterable[_Item], count: int, *, wanted: bool) -> Iterable[_Item]:
    """The items, and on standard error how many of `count` have passed, where that is wanted."""
    from rich.console import Console
    from rich.progress import track

    return track(items, "Segmenting", count, console=Console(stderr=True), disable=not wanted)
