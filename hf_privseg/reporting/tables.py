"""Tables of text: one function writes them in Markdown, one draws them on the terminal."""

from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Column heads and rows of cells -> a Markdown table whose every line, the last one too, ends in a line break.

    A `|` inside a cell is escaped, and a line break in it becomes a space.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_markdown_cell, cells))} |\n" for cells in lines)


def terminal_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A title, column heads and rows of cells -> a table for `rich.print`; square brackets are shown as they are."""
    table = Table(*map(escape, header), title=escape(title), title_justify="left")
    for cells in rows:
        table.add_row(*map(escape, cells))
    return table


def _markdown_cell(text: str) -> str:
    return " ".join(text.splitlines()).replace("|", r"\|")
