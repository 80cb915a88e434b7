"""Results of an experiment as CSV, Markdown and JSON files, each written as a whole, and as tables on the terminal."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..reporting.tables import markdown_table, terminal, terminal_table
from ..setr.files import write_whole


@dataclass(frozen=True)
class ResultTable:
    """A table of texts: a title, the names of the columns, and rows of cells."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The title, an empty line, and the table."""
        return f"{self.title}:\n\n{markdown_table(self.header, self.rows)}"


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write these columns of all rows, overwriting the file."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode(), overwrite=True)


def write_json(path: Path, content: object) -> None:
    """Write a JSON value, making the folder and overwriting the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode(), overwrite=True)


def write_markdown(path: Path, tables: Sequence[ResultTable], lines: Sequence[str]) -> None:
    """Write the tables, then the lines as a list, overwriting the file."""
    text = "\n".join([*(table.markdown() for table in tables), *(f"- {line}" for line in lines), ""])
    write_whole(path, text.encode(), overwrite=True)


def print_tables(tables: Sequence[ResultTable], heading: str, lines: Sequence[str]) -> None:
    """Print the tables, then the lines under a heading."""
    console = terminal(highlight=False, soft_wrap=True)
    for each in tables:
        console.print(terminal_table(each.title, each.header, each.rows))
    console.print(heading, *lines, sep="\n")
