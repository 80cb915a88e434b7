"""The log of a training run, log.jsonl: a line of JSON for each update and for each epoch."""

import json
from pathlib import Path
from typing import Any

from ..setr.files import write_whole

Row = dict[str, Any]  # JSON values


class TrainingLog:
    """A file of JSON lines that a run which goes on after a kill continues as if there had been none.

    The line of an update has its `step`, the line of an epoch has an `epoch` as well.

    Args:
        path: of the file; its folder is made.
        progress: of the run. Lines that are newer, which the killed run wrote after its last checkpoint, are removed.
        writes: whether this process writes.
    """

    def __init__(self, path: Path, progress: Row, *, writes: bool) -> None:
        self.path, self.writes = path, writes
        if not writes:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in _rows(path) if _is_known(row, progress)]
        write_whole(path, "".join(map(_line, kept)).encode(), overwrite=True)

    def add(self, row: Row) -> None:
        """Append a row of JSON values."""
        if self.writes:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(row))


def _is_known(row: Row, progress: Row) -> bool:
    return row in progress["history"] if "epoch" in row else row["step"] <= progress["step"]


def _rows(path: Path) -> list[Row]:
    """The rows of a log; a last line that was not written to its end is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _line(row: Row) -> str:
    return json.dumps(row) + "\n"
