"""The work on a chunk, in three steps that an engine may spread over processes: read, compute, write."""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .chunks import Chunk, Record
from .operations import Operation, Work
from .places import make_folder, remove_file, write_file
from .plan import FILE_FOLDER, Plan, Task, Totals, part_name

_ATTEMPTS, _PAUSE = 3, 1.0
_STORED = pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])  # as `datasets` stores images


@dataclass(frozen=True)
class Job:
    """What a worker has to know of a job.

    Args:
        operation: what is done.
        plan: the plan.
        part_size: how many images a part has at most.
        column: of images in parquet files, or the ending of names in tar files; None finds it.
        as_files: whether results are files of their own, which parts name, in place of bytes in the parts.
        retry_errors: whether parts that are there are made again, as those with errors are.
    """

    operation: Operation
    plan: Plan
    part_size: int
    column: str | None = None
    as_files: bool = False
    retry_errors: bool = False


@dataclass
class Item:
    """A record that was read: its decoded value, or what went wrong."""

    id: str
    value: Any = None
    error: str | None = None
    seconds: float = 0.0


@dataclass
class Part:
    """The items that become one part of the output."""

    chunk: int
    number: int
    is_last: bool
    items: list[Item]


def read_parts(job: Job, task: Task) -> Iterator[Part]:
    """Read and decode a chunk -> its parts, but for those that are done."""
    items: list[Item] = []
    number, done = 0, frozenset(task.done)
    for record in job.plan.chunk(task.chunk).records(job.column):
        if len(items) == job.part_size:
            if number not in done:
                yield Part(task.chunk, number, False, items)
            items, number = [], number + 1
        items.append(Item(record.id) if number in done else _decoded(job.operation, record))
    if number not in done:
        yield Part(task.chunk, number, True, items)


def compute(operation: Operation, work: Work, part: Part) -> pa.Table:
    """A part of decoded items -> its rows: id, error, the fields of the operation, and the seconds of each image."""
    sound = [item for item in part.items if item.error is None]
    start = time.perf_counter()
    outcomes = work([item.value for item in sound])
    share = (time.perf_counter() - start) / max(len(sound), 1)
    rows: dict[int, dict[str, Any]] = {}
    for item, outcome in zip(sound, outcomes, strict=True):
        item.seconds += share
        if isinstance(outcome, Exception):
            item.error = described(outcome)
        else:
            rows[id(item)] = dict(outcome)
    columns = [("id", pa.string()), ("error", pa.string()), *operation.fields.items(), ("seconds", pa.float64())]
    return pa.Table.from_pylist(
        [
            {"id": item.id, "error": item.error, **rows.get(id(item), {}), "seconds": item.seconds}
            for item in part.items
        ],
        schema=pa.schema(columns),
    )


def write_part(job: Job, chunk: int, number: int, is_last: bool, table: pa.Table) -> Totals:
    """Write the rows of a part, tried three times -> how many there are."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            _write(job, chunk, number, is_last, table)
            break
        except (FileNotFoundError, PermissionError, NotADirectoryError):
            raise
        except OSError:
            if attempt == _ATTEMPTS:
                raise
            time.sleep(_PAUSE * attempt)
    return Totals(len(table), len(table) - table["error"].null_count)


def run_task(job: Job, work: Work, task: Task) -> Totals:
    """All three steps in this process, a part at a time."""
    totals = Totals(0, 0)
    for part in read_parts(job, task):
        table = compute(job.operation, work, part)
        totals += write_part(job, part.chunk, part.number, part.is_last, table)
    return totals


def check_first(operation: Operation, chunk: Chunk, column: str | None) -> None:
    """Refuse a job by the first image of a chunk, where it can be read.

    Raises:
        ValueError, RuntimeError: as the operation's `check`.
    """
    for record in chunk.records(column):
        try:
            value = operation.decode(record.name, record.read())
        except Exception:  # it becomes a row
            return
        operation.check(value)
        return


def described(error: Exception) -> str:
    """An error as a row has it."""
    return re.sub(r" object at 0x[0-9a-f]+", "", f"{type(error).__name__}: {error!s:.500}")  # the same in every run


def _decoded(operation: Operation, record: Record) -> Item:
    start, item = time.perf_counter(), Item(record.id)
    try:
        item.value = operation.decode(record.name, record.read())
    except Exception as error:  # of the store, or whatever a damaged file makes a decoder raise
        item.error = described(error)
    item.seconds = time.perf_counter() - start
    return item


def _write(job: Job, chunk: int, number: int, is_last: bool, table: pa.Table) -> None:
    name = part_name(chunk, number, is_last=is_last)
    if job.as_files:
        table = _with_files(job, name.partition(".")[0].removesuffix("-last"), table)
    if job.retry_errors and not is_last:  # it may have been the last one of a file that could be read no further
        remove_file(f"{job.plan.output}/{part_name(chunk, number, is_last=True)}")
    buffer = pa.BufferOutputStream()
    pq.write_table(table, buffer, compression="none", use_dictionary=False)
    write_file(f"{job.plan.output}/{name}", buffer.getvalue().to_pybytes())


def _with_files(job: Job, folder: str, table: pa.Table) -> pa.Table:
    """Write the result of each row to a file -> the rows, with the paths of the files in place of their contents."""
    operation, place = job.operation, f"{FILE_FOLDER}/{folder}"
    make_folder(f"{job.plan.output}/{place}")
    stored: list[dict[str, str | None] | None] = []
    for index, (record_id, content) in enumerate(zip(table["id"], table[operation.content], strict=True)):
        if not content.is_valid:
            stored.append(None)
            continue
        data = content.as_py()
        stem = re.sub(r"[^\w.-]", "_", PurePosixPath(record_id.as_py()).stem).encode()[:80].decode(errors="ignore")
        suffix = ".png" if data[:4] == b"\x89PNG" else ".safetensors"
        path = f"{place}/{index:04}-{stem}{operation.ending}{suffix}"
        write_file(f"{job.plan.output}/{path}", data)
        stored.append({"bytes": None, "path": path})
    position = table.schema.get_field_index(operation.content)
    return table.set_column(position, operation.content, pa.array(stored, _STORED))
