"""Results of an experiment as CSV, Markdown, LaTeX and JSON files, each written as a whole, and on the terminal."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..reporting.provenance import provenance, provenance_in_words
from ..reporting.tables import latex_table, markdown_table, terminal, terminal_table
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

    def latex(self) -> str:
        """A table environment in the manner of booktabs."""
        return latex_table(self.title, self.header, self.rows)


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


def write_tables(
    path: Path,
    tables: Sequence[ResultTable],
    lines: Sequence[str] = (),
    *,
    runs: Sequence[dict[str, Any]] | None = None,
    forms: Sequence[str] = (".md", ".tex", ".json", ".csv"),
) -> None:
    """Write tables in several forms, with what they were made with, making the folder and overwriting the files.

    Args:
        path: of the Markdown file; the other forms lie beside it. A CSV file holds one table, so that the names of a
            second and third one end in -2.csv and -3.csv.
        lines: notes.
        runs: the `provenance` of every process that made the figures. Default: that of this one.
        forms: suffixes. LaTeX files need \\usepackage{booktabs}.
    """
    runs = [provenance()] if runs is None else runs
    notes = [*lines, *map(provenance_in_words, runs), *dict.fromkeys(f"made by: {run['command']}" for run in runs)]
    content = {
        ".md": "\n".join([*(table.markdown() for table in tables), *(f"- {note}" for note in notes), ""]),
        ".tex": "\n".join([*(table.latex() for table in tables), *(f"% {note}" for note in notes), ""]),
        ".json": json.dumps(
            {"tables": [vars(table) for table in tables], "notes": list(lines), "runs": list(runs)}, indent=1
        ),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    for form in set(forms) & set(content):
        write_whole(path.with_suffix(form), content[form].encode(), overwrite=True)
    if ".csv" in forms:
        for index, table in enumerate(tables, start=1):
            end = "" if index == 1 else f"-{index}"
            rows = [dict(zip(table.header, row, strict=True)) for row in table.rows]
            write_csv(path.with_name(f"{path.stem}{end}.csv"), table.header, rows)


def print_tables(tables: Sequence[ResultTable], heading: str, lines: Sequence[str]) -> None:
    """Print the tables, then the lines under a heading."""
    console = terminal(highlight=False, soft_wrap=True)
    for each in tables:
        console.print(terminal_table(each.title, each.header, each.rows))
    console.print(heading, *lines, sep="\n")
