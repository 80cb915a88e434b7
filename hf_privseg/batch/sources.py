"""Where the images of a job lie: folders, parquet files, tar files, data sets of the Hub, and URLs of such."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .chunks import FILES, PARQUET, RECORD_SUFFIXES, TAR, Chunk
from .places import absolute, filesystem_of, names_in
from .plan import JOB_FILE, PART, Plan

_THREADS = 16


def source_urls(sources: Sequence[str]) -> list[str]:
    """What a user gives -> absolute paths and URLs. A name as owner/name that is no path is a data set of the Hub.

    Raises:
        ValueError: two sources have one name, so that ids of their images could agree.
    """
    urls = [
        f"hf://datasets/{source}"
        if source.count("/") == 1 and source[0] not in "./~" and not Path(source).exists() and "*" not in source
        else absolute(source)
        for source in sources
    ]
    names = [url.rstrip("/").rpartition("/")[2] for url in urls]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(
            f"expected sources of different names, which the ids of their images begin with, got {twice} twice; make "
            "two jobs of them, or name the folder above"
        )
    return urls


def chunks_of(urls: Sequence[str], part_size: int) -> Iterator[Chunk]:
    """Sources -> their chunks, in the order of sources and names.

    Args:
        urls: of `source_urls`.
        part_size: how many files of a folder make a chunk.

    Raises:
        FileNotFoundError: a source does not exist, or has no images.
        ValueError: the name of a file is no text, which ids are.
    """
    for url in urls:
        prefix = "" if len(urls) == 1 else f"{url.rstrip('/').rpartition('/')[2]}/"
        folder, names = _listed(url)
        images = [name for name in names if name.lower().endswith(RECORD_SUFFIXES)]
        tables = [name for name in names if name.lower().endswith(".parquet")]
        tars = [name for name in names if name.lower().endswith(".tar")]
        _check_are_text(names)
        if not images and not tables and not tars:
            raise FileNotFoundError(
                f"expected images ({', '.join(RECORD_SUFFIXES)}), .parquet or .tar files in {url}, found none"
            )
        for first in range(0, len(images), part_size):
            group = tuple(images[first : first + part_size])
            yield Chunk(FILES, folder, group, prefix, count=len(group))
        with ThreadPoolExecutor(_THREADS) as pool:
            for name, sizes in zip(
                tables, pool.map(_row_groups, [f"{folder}/{name}" for name in tables]), strict=True
            ):
                if sizes is None:
                    yield Chunk(PARQUET, folder, (name,), prefix, row_group=-1)
                for index, size in enumerate(sizes or ()):
                    first = sum((sizes or ())[:index])
                    yield Chunk(PARQUET, folder, (name,), prefix, index, first, size)
        for name in tars:
            yield Chunk(TAR, folder, (name,), prefix)


def _listed(url: str) -> tuple[str, list[str]]:
    """A folder, a file or a pattern -> the URL of a folder, and the sorted paths of files below it; none is hidden."""
    filesystem, path = filesystem_of(url)
    path = path.rstrip("/")
    filesystem.invalidate_cache()
    if filesystem.isdir(path):
        folder, paths = path, filesystem.find(path)
        if JOB_FILE in names_in(url):
            _check_is_whole(url)
            paths = [each for each in paths if PART.fullmatch(each.rpartition("/")[2])]
    elif filesystem.exists(path):
        folder, paths = path.rpartition("/")[0], [path]
    else:
        folder = path.partition("*")[0].rpartition("/")[0]
        paths = filesystem.glob(path) if "*" in path else []
    if not paths:
        raise FileNotFoundError(
            f"expected a folder, a file or a pattern with *, but {url} does not exist, or is empty"
        )
    names = (str(each)[len(folder) :].lstrip("/") for each in paths)
    visible = sorted(name for name in names if not any(part.startswith(".") for part in name.split("/")))
    return _url_of(filesystem, folder), visible


def _check_are_text(names: Sequence[str]) -> None:
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"expected names of files in UTF-8, got {name!a:.200}; rename the file") from None


def _url_of(filesystem: Any, path: str) -> str:
    url = str(filesystem.unstrip_protocol(path))
    return url.removeprefix("file://") if url.startswith("file:///") else url


def _check_is_whole(url: str) -> None:
    """Refuse the output of a job that is not complete."""
    if any(True for _ in Plan.open(url).remaining()):
        raise FileNotFoundError(
            f"expected a finished job in {url}, but parts of it are missing; give the command of that job once more"
        )


def _row_groups(url: str) -> list[int] | None:
    """How many rows each row group of a parquet file has; None where the file is damaged."""
    filesystem, path = filesystem_of(url)
    try:
        with filesystem.open(path, "rb") as file:
            metadata = pq.read_metadata(file)
    except pa.ArrowException:
        return None
    return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
