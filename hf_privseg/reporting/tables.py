"""Tables of text, in Markdown, in LaTeX and on the terminal, and the terminal itself."""

import re
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table


def terminal(*, stderr: bool = False, highlight: bool = True, soft_wrap: bool = False) -> Console:
    """A console of rich that prints text as it is: `[attacks]` is no markup, and `:key:` no picture.

    Args:
        stderr: standard error instead of standard output.
        highlight: whether numbers and names in lines of text are coloured.
        soft_wrap: whether long lines are left to the terminal.
    """
    return Console(markup=False, emoji=False, stderr=stderr, highlight=highlight, soft_wrap=soft_wrap)


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Column heads and rows of cells -> a Markdown table whose every line, the last one too, ends in a line break.

    A `|` inside a cell is escaped, and a line break in it becomes a space.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(_markdown_cell, cells))} |\n" for cells in lines)


def latex_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A title, column heads and rows of cells -> a LaTeX table in the manner of booktabs, every character escaped."""
    lines = [
        r"\begin{table}",
        rf"\caption{{{_latex_text(title)}}}",
        rf"\begin{{tabular}}{{{'l' * len(header)}}}",
        r"\toprule",
        _latex_row(header),
        r"\midrule",
        *map(_latex_row, rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "".join(f"{line}\n" for line in lines)


def terminal_table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A title, column heads and rows of cells -> a table for `terminal`, which shows square brackets as they are."""
    table = Table(*header, title=title, title_justify="left")
    for cells in rows:
        table.add_row(*cells)
    return table


def _markdown_cell(text: str) -> str:
    return " ".join(text.splitlines()).replace("|", r"\|")


# Code between backticks in Markdown is set in a typewriter's letters.
_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # fmt: skip


def _latex_text(text: str) -> str:
    escaped = "".join(_LATEX.get(character, character) for character in " ".join(text.splitlines()))
    return re.sub(r"`([^`]*)`", r"\\texttt{\1}", escaped)


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex_text, cells)) + r" \\"
