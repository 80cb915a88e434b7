"""A chunk: what one worker reads in one go, and the records in it.

A record is an image or an encrypted image: its id and its bytes. Reading is tried three times; what cannot be read
then becomes a record whose reading raises, so that a chunk always comes to its end.
"""

import io
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..setr.image_files import IMAGE_SUFFIXES
from .places import filesystem_of

FILES, PARQUET, TAR = "files", "parquet", "tar"
RECORD_SUFFIXES = (*IMAGE_SUFFIXES, ".safetensors")
MAX_RECORD_BYTES = 2**29
_ATTEMPTS = 3
_PAUSE = 0.5  # seconds, times the number of attempts so far
_COLUMNS = ("ciphertext", "image")  # of parquet files, the preferred one first
_ROWS_AT_A_TIME = 16


@dataclass(frozen=True)
class Record:
    """An image or encrypted image as a source has it.

    Args:
        id: its name in the job.
        name: of its file, whose ending may say its format.
        read: gives its bytes, before the next record is asked for.
    """

    id: str
    name: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Chunk:
    """Files of a folder, a row group of a parquet file, or a tar file.

    Args:
        kind: FILES, PARQUET or TAR.
        folder: URL of a folder.
        names: paths below it; of a parquet or tar file the one.
        prefix: of the ids of its records.
        row_group: of a parquet file; -1 where the file could not be read when the job was planned.
        first_row: how many rows of the file come before.
        count: how many records it has, -1 where that is not known.
    """

    kind: str
    folder: str
    names: tuple[str, ...]
    prefix: str = ""
    row_group: int = 0
    first_row: int = 0
    count: int = -1

    def records(self, column: str | None) -> Iterator[Record]:
        """Its records, in an order that is always the same.

        Args:
            column: of parquet files, the column with the images; of tar files, the ending of their names. None takes
                `ciphertext`, `image` or the only column of bytes, and every ending of an image.
        """
        if self.kind == FILES:
            yield from map(self._file, self.names)
            return
        opened = self._rows if self.kind == PARQUET else self._members
        position, attempt = 0, 1
        while True:
            try:
                for record in islice(opened(column), position, None):
                    yield record
                    position += 1
                return
            except Exception as error:  # of the store, of the container: whatever a damaged file makes a library raise
                if attempt == _ATTEMPTS or isinstance(error, FileNotFoundError):
                    name = f"{self._id(self.names[0])}#{self.first_row + position}..."
                    yield Record(name, name, partial(_raise, error))
                    return
                time.sleep(_PAUSE * attempt)
                attempt += 1

    def _id(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def _file(self, name: str) -> Record:
        return Record(self._id(name), name, partial(read_bounded, f"{self.folder}/{name}"))

    def _rows(self, column: str | None) -> Iterator[Record]:
        """The rows of a row group."""
        filesystem, path = filesystem_of(f"{self.folder}/{self.names[0]}")
        with filesystem.open(path, "rb") as opened, pq.ParquetFile(opened) as file:
            image = image_column(file.schema_arrow, column)
            wanted = [name for name in ("id", "error", image) if name in file.schema_arrow.names]
            groups = [self.row_group] if self.row_group >= 0 else None  # all, of a file that could not be read before
            batches = file.iter_batches(_ROWS_AT_A_TIME, row_groups=groups, columns=wanted)
            index = self.first_row
            for batch in batches:
                for row in batch.to_pylist():
                    own = row.get("id")
                    record_id = self._id(f"{self.names[0]}#{index}") if own is None else str(own)
                    read = partial(_value_of, row, image, self.folder)
                    yield Record(record_id, _name_of(row[image]) or record_id, read)
                    index += 1

    def _members(self, ending: str | None) -> Iterator[Record]:
        """The images of a tar file, such as a shard of webdataset: `KEY.jpg`, or `KEY.left.jpg` for `left.jpg`."""
        filesystem, path = filesystem_of(f"{self.folder}/{self.names[0]}")
        endings = RECORD_SUFFIXES if ending is None else (f".{ending.lstrip('.')}",)
        encrypted = tuple(f".encrypted{suffix}" for suffix in (".png", ".safetensors"))
        with filesystem.open(path, "rb") as opened, tarfile.open(fileobj=opened, mode="r|*") as file:
            for member in file:
                base = member.name.rpartition("/")[2]
                own = f".{base.partition('.')[2].lower()}"
                if member.isfile() and (own in endings or (ending is None and own in encrypted)):
                    yield Record(self._id(f"{self.names[0]}/{member.name}"), base, partial(_member, file, member))


def image_column(schema: pa.Schema, wanted: str | None) -> str:
    """The column of a parquet file that holds the images.

    Raises:
        ValueError: there is none, or several that may be meant; names the columns.
    """
    usable = [field.name for field in schema if _holds_images(field.type)]
    for name in (wanted,) if wanted else (*_COLUMNS, *usable[: len(usable) == 1]):
        if name in usable:
            return name
    raise ValueError(
        f"expected a column of images, {'or '.join(_COLUMNS) if wanted is None else wanted}, as bytes or as datasets "
        f"stores them, got the columns {', '.join(schema.names)!s:.300}; name it with --image-column"
    )


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _name_of(value: Any) -> str | None:
    return value.get("path") if isinstance(value, dict) else None


def _value_of(row: dict[str, Any], image: str, folder: str) -> bytes:
    value = row[image]
    if isinstance(value, dict):
        if value["bytes"] is None and value.get("path"):
            return read_bounded(f"{folder}/{value['path']}")
        value = value["bytes"]
    if value is None:
        raise ValueError(row.get("error") or "the row has no image")
    return bytes(value)


def read_bounded(url: str) -> bytes:
    """The content of a file of a record, tried three times.

    Raises:
        ValueError: it has more than MAX_RECORD_BYTES.
        OSError: it cannot be read.
    """
    filesystem, path = filesystem_of(url)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with filesystem.open(path, "rb") as file:
                return _bounded(file.read(MAX_RECORD_BYTES + 1))
        except OSError as error:
            if attempt == _ATTEMPTS or isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
                raise
            time.sleep(_PAUSE * attempt)
    raise AssertionError


def _member(file: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = file.extractfile(member)
    return _bounded((content or io.BytesIO()).read(MAX_RECORD_BYTES + 1))


def _bounded(content: bytes) -> bytes:
    if len(content) > MAX_RECORD_BYTES:
        raise ValueError(f"expected an image of at most {MAX_RECORD_BYTES} bytes, got more")
    return content


def _raise(error: Exception) -> bytes:
    raise ValueError(f"the rest of the file cannot be read ({type(error).__name__}: {error!s:.200})") from error
