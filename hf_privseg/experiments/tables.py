"""Results of an experiment as people read them: a CSV file, a Markdown file, and tables on the terminal."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from ..reporting.tables import markdown_table, terminal_table


@dataclass(frozen=True)
class ResultTable:
    """A title, the names of the columns, and rows of cells."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The title and, after an empty line, the table."""
        return f"{self.title}:\n\n{markdown_table(self.header, self.rows)}"


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """One line a row, with these columns of it; others are left out."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def write_markdown(path: Path, tables: Sequence[ResultTable], lines: Sequence[str]) -> None:
    """The tables, then the lines as a list."""
    path.write_text("\n".join([*(table.markdown() for table in tables), *(f"- {line}" for line in lines), ""]))


def print_tables(tables: Sequence[ResultTable], heading: str, lines: Sequence[str]) -> None:
    """The tables, then the lines under a heading."""
    console = Console(highlight=False, soft_wrap=True)
    for each in tables:
        console.print(terminal_table(each.title, each.header, each.rows))
    console.print(heading, *lines, sep="\n", markup=False)
