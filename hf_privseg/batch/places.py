"""Files and folders by path or URL, through fsspec; what is written appears as a whole or not at all."""

import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ..setr.files import write_whole

# Stores in which a put is seen as a whole or not at all; elsewhere a file is written beside and renamed.
_OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "oci", "r2", "memory"})


def absolute(name: str) -> str:
    """A path or URL -> the same as a URL or absolute path, for workers in other folders."""
    return name if "://" in name else str(Path(name).absolute())


def filesystem_of(url: str) -> tuple[Any, str]:
    """A path or URL -> its file system, and its path there.

    Raises:
        ValueError: a protocol that fsspec does not know, or whose package is not installed.
    """
    if "://" not in url:  # a path, whose "::" chains nothing
        return LocalFileSystem(), str(LocalFileSystem._strip_protocol(url))
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError) as error:
        raise ValueError(f"{url} cannot be opened: {error}") from error
    return filesystem, path


def make_folder(url: str) -> None:
    """Make a folder with its parents, if it is not there."""
    filesystem, path = filesystem_of(url)
    filesystem.makedirs(path, exist_ok=True)


def names_in(url: str) -> list[str]:
    """The names of the files and folders in a folder, sorted; of one that does not exist, none."""
    filesystem, path = filesystem_of(url)
    filesystem.invalidate_cache()
    try:
        return sorted(str(name).rstrip("/").rpartition("/")[2] for name in filesystem.ls(path, detail=False))
    except FileNotFoundError:
        return []


def read_file(url: str) -> bytes:
    """The content of a file."""
    filesystem, path = filesystem_of(url)
    return bytes(filesystem.cat_file(path))


def write_file(url: str, content: bytes) -> None:
    """Write a file, as a whole or not at all; one that exists is replaced. Its folder exists."""
    filesystem, path = filesystem_of(url)
    if isinstance(filesystem, LocalFileSystem):
        write_whole(path, content, overwrite=True)
    elif _OBJECT_STORES.intersection(
        [filesystem.protocol] if isinstance(filesystem.protocol, str) else filesystem.protocol
    ):
        filesystem.pipe_file(path, content)
    else:
        folder, _, name = path.rpartition("/")
        beside = f"{folder}/.{name}.{secrets.token_hex(8)}.tmp"
        filesystem.pipe_file(beside, content)
        filesystem.mv(beside, path)


def remove_file(url: str) -> None:
    """Remove a file, if it is there."""
    filesystem, path = filesystem_of(url)
    with suppress(FileNotFoundError):
        filesystem.rm_file(path)


def remove_leftovers(url: str) -> None:
    """Remove what writers that were killed have left in a folder, which nobody may be writing to."""
    filesystem, path = filesystem_of(url)
    for name in names_in(url):
        if name.startswith(".") and name.endswith(".tmp"):
            filesystem.rm_file(f"{path}/{name}")
