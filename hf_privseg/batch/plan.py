"""The plan of a job: what it does to which chunks, in two files of its output folder; and which parts are done.

`chunks.arrow` lists the chunks and is written first; with `job.json`, which holds what defines the job, the plan is
complete. A part is done exactly when its file is there. The parts of a chunk are numbered, and the name of the last
one says so: a chunk is done when all its parts up to that one are there. Nothing else is kept about progress.
"""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .chunks import Chunk
from .places import filesystem_of, names_in, read_file, write_file

JOB_FILE, CHUNK_FILE, FILE_FOLDER = "job.json", "chunks.arrow", "files"
PART = re.compile(r"part-(\d+)-(\d+)(-last)?\.parquet")
FORMAT = 1

_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("folder", pa.string()),
        ("names", pa.list_(pa.string())),
        ("prefix", pa.string()),
        ("row_group", pa.int32()),
        ("first_row", pa.int64()),
        ("count", pa.int64()),
    ]
)
_GROUP = 64  # chunks that are read together
_THREADS = 16


@dataclass(frozen=True)
class Task:
    """A chunk that is to be done.

    Args:
        chunk: its number.
        done: the numbers of those of its parts that were done when the job began.
    """

    chunk: int
    done: tuple[int, ...] = ()


@dataclass(frozen=True)
class Totals:
    """How many rows there are, and how many of them have errors."""

    images: int
    errors: int

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(self.images + other.images, self.errors + other.errors)


@dataclass(frozen=True)
class Plan:
    """The plan of a job that exists.

    Args:
        output: URL of its folder.
        count: how many chunks it has.
    """

    output: str
    count: int

    @classmethod
    def open_or_make(cls, output: str, definition: Mapping[str, Any], chunks: Iterable[Chunk]) -> "Plan":
        """The plan in a folder, where there is one; else a new one, with these chunks.

        Args:
            output: URL of the folder, which exists.
            definition: what makes the job what it is, as JSON has it.
            chunks: are not even listed where there is a plan.

        Raises:
            ValueError: the folder has the plan of another job; says what differs.
            FileExistsError: it holds something else.
        """
        names = names_in(output)
        if JOB_FILE in names:
            _check_same(_stored(output), definition, output)
            return cls.open(output)
        foreign = [name for name in names if name != CHUNK_FILE and not name.startswith(".")]
        if foreign:
            raise FileExistsError(f"{output} holds {foreign[0]}, which is of no job; choose another --output")
        content, count = _chunks_to_bytes(chunks)
        write_file(f"{output}/{CHUNK_FILE}", content)
        listed = {"count": count, "sha256": hashlib.sha256(content).hexdigest()}
        text = json.dumps({"format": FORMAT, **definition, "chunks": listed}, indent=1) + "\n"
        write_file(f"{output}/{JOB_FILE}", text.encode())
        return cls(output, count)

    @classmethod
    def open(cls, output: str) -> "Plan":
        """The plan in a folder.

        Raises:
            ValueError: it is damaged, or of another version.
        """
        stored = _stored(output)
        digest = hashlib.sha256(read_file(f"{output}/{CHUNK_FILE}")).hexdigest()
        if stored.get("format") != FORMAT or stored["chunks"].get("sha256") != digest:
            raise ValueError(
                f"expected the plan of a job of format {FORMAT} in {output}, got another, or {CHUNK_FILE} was "
                "changed; choose another --output"
            )
        return cls(output, stored["chunks"]["count"])

    def chunk(self, number: int) -> Chunk:
        """One of the chunks."""
        row = _chunk_group(self.output, number // _GROUP)[number % _GROUP]
        return Chunk(**{**row, "names": tuple(row["names"])})

    def remaining(self, *, retry_errors: bool = False) -> Iterator[Task]:
        """What is to be done, in the order of chunks.

        Args:
            retry_errors: whether parts that have rows with errors count as not done.
        """
        done, last = self._parts(retry_errors=retry_errors)
        for number in range(self.count):
            parts = sorted(done.get(number, ()))
            if number not in last or len(parts) != last[number] + 1:
                yield Task(number, tuple(parts))

    def totals(self) -> Totals:
        """Of all parts that are there."""
        with ThreadPoolExecutor(_THREADS) as pool:
            counts = pool.map(partial(_counts, self.output), self._part_names())
            return sum(counts, start=Totals(0, 0))

    def _part_names(self) -> list[str]:
        return [name for name in names_in(self.output) if PART.fullmatch(name)]

    def _parts(self, *, retry_errors: bool) -> tuple[dict[int, set[int]], dict[int, int]]:
        """{chunk: its parts that are done} and {chunk: its last part}."""
        done: dict[int, set[int]] = {}
        last = {}
        names = self._part_names()
        if retry_errors:
            with ThreadPoolExecutor(_THREADS) as pool:
                counts = pool.map(partial(_counts, self.output), names)
                names = [name for name, count in zip(names, counts, strict=True) if not count.errors]
        for chunk, part, is_last in (match.groups() for match in map(PART.fullmatch, names) if match):
            done.setdefault(int(chunk), set()).add(int(part))
            if is_last:
                last[int(chunk)] = int(part)
        return done, last


def part_name(chunk: int, part: int, *, is_last: bool) -> str:
    """The name of a part's file."""
    return f"part-{chunk:06}-{part:04}{'-last' if is_last else ''}.parquet"


def _stored(output: str) -> dict[str, Any]:
    """What the job file holds."""
    try:
        stored = json.loads(read_file(f"{output}/{JOB_FILE}"))
    except ValueError:
        stored = None
    if not isinstance(stored, dict) or not isinstance(stored.get("chunks"), dict):
        raise ValueError(f"expected the plan of a job in {output}, got a damaged {JOB_FILE}; choose another --output")
    return stored


def _check_same(stored: Mapping[str, Any], definition: Mapping[str, Any], output: str) -> None:
    """Refuse to go on with a job that is defined otherwise."""
    known = {key: value for key, value in stored.items() if key not in ("format", "chunks")}
    differing = sorted(key for key in {*known, *definition} if known.get(key) != definition.get(key))
    if differing:
        what = "; ".join(
            f"{key}: {known.get(key)!r:.120} there, {definition.get(key)!r:.120} now" for key in differing
        )
        raise ValueError(f"{output} has the plan of another job ({what}); choose another --output")


def _chunks_to_bytes(chunks: Iterable[Chunk]) -> tuple[bytes, int]:
    """Chunks -> the content of their file, and how many there are."""
    buffer, count = io.BytesIO(), 0
    group: list[dict[str, Any]] = []
    with pa.ipc.new_file(buffer, _SCHEMA) as writer:

        def flush() -> None:
            writer.write_batch(pa.RecordBatch.from_pylist(group, _SCHEMA))
            group.clear()

        for chunk in chunks:
            group.append({**asdict(chunk), "names": list(chunk.names)})
            count += 1
            if len(group) == _GROUP:
                flush()
        if group:
            flush()
    return buffer.getvalue(), count


@lru_cache(maxsize=4)
def _chunk_group(output: str, index: int) -> list[dict[str, Any]]:
    filesystem, path = filesystem_of(f"{output}/{CHUNK_FILE}")
    with filesystem.open(path, "rb") as file:
        return list(pa.ipc.open_file(file).get_batch(index).to_pylist())


def _counts(output: str, name: str) -> Totals:
    """Of one part, from its footer."""
    filesystem, path = filesystem_of(f"{output}/{name}")
    try:
        with filesystem.open(path, "rb") as file:
            metadata = pq.read_metadata(file)
    except pa.ArrowException as error:
        raise ValueError(
            f"expected a part of a job, but {name} in {output} is damaged ({error!s:.100}); remove it, and the same "
            "command makes it again"
        ) from None
    column = metadata.schema.to_arrow_schema().names.index("error")
    groups = (metadata.row_group(index) for index in range(metadata.num_row_groups if metadata.num_rows else 0))
    return Totals(metadata.num_rows, sum(each.num_rows - each.column(column).statistics.null_count for each in groups))
