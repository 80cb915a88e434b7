"""Files and folders that appear as a whole or not at all, and files that their owner alone may read.

What is written goes to a temporary file or folder beside its destination, reaches the disk, and is renamed. A process
that is killed in the middle leaves the former content in place, and at most something hidden called `.NAME.*.tmp`.
"""

import os
import secrets
import shutil
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL


def write_whole(
    path: str | os.PathLike[str], content: bytes, *, overwrite: bool, private: bool = False, loss: str = ""
) -> None:
    """Write `content` to `path`, as a whole or not at all.

    Of several writers that do not overwrite, exactly one succeeds.

    Args:
        path: the file, in a folder that exists. A symbolic link is replaced, not followed.
        content: all bytes of the file.
        overwrite: whether an existing file is replaced.
        private: whether only the owner may read the file (mode 0600 from the first moment).
        loss: what would be lost with an existing file; the error says it.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False, or `path` is a folder or a device.
        FileNotFoundError: the folder of `path` does not exist.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise FileExistsError(f"expected the path of a file, got {path}, which is a folder or a device")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"expected a path in an existing folder, got {path}; create {path.parent} first")
    temporary = _beside(path, "tmp")
    try:
        with os.fdopen(os.open(temporary, _NEW, 0o600 if private else 0o666), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, path)
        else:
            _publish_new(temporary, path)
        _sync_folder(path.parent)
    except FileExistsError:
        reason = f", and {loss}" if loss else ""
        raise FileExistsError(f"{path} exists{reason}; choose another path or pass overwrite=True") from None
    except OSError as error:
        if error.filename is None and error.errno is not None:  # of a write: the disk is full, the quota used up
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def read_private_file(path: str | os.PathLike[str], max_bytes: int, *, noun: str) -> bytes:
    """The first `max_bytes` bytes of a file. Warns the caller's caller if other users of the machine can reach it.

    Args:
        path: the file.
        max_bytes: how many bytes are read at most.
        noun: what the warning calls the file.

    Raises:
        OSError: the file cannot be read.
    """
    with Path(path).open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        content = file.read(max_bytes)
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        warnings.warn(
            f"other users can reach the {noun} {path} (mode {stat.S_IMODE(mode):04o}); run: chmod 600 {path}",
            UserWarning,
            stacklevel=3,
        )
    return content


@contextmanager
def new_folder(folder: Path, *, overwrite: bool, private: bool = False) -> Iterator[Path]:
    """A temporary folder to write into; it becomes `folder` at the end, and after an error it is removed.

    Args:
        folder: the destination. Its parents are created.
        overwrite: whether an existing folder that is not empty is replaced.
        private: whether the folder is for its owner alone (mode 0700).

    Raises:
        FileExistsError: `folder` holds something at the end and `overwrite` is False.
    """
    folder = folder.resolve()
    temporary = _beside(folder, "tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir(mode=0o700 if private else 0o777)
        yield temporary
        publish_folder(temporary, folder, overwrite=overwrite)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def publish_folder(temporary: Path, folder: Path, *, overwrite: bool) -> None:
    """Rename `temporary`, once its files have reached the disk, to `folder` on the same file system.

    A process that is killed while it replaces a folder may leave the former one under the hidden name `.NAME.*.old`.

    Raises:
        FileExistsError: `folder` holds something and `overwrite` is False.
    """
    for path in temporary.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    retired = _beside(folder, "old")
    try:
        if overwrite and folder.exists():
            folder.rename(retired)
        elif folder.is_dir():
            folder.rmdir()  # the system refuses unless it is empty
        temporary.rename(folder)  # the system refuses where somebody was faster
    except OSError as error:
        if folder.exists():
            raise FileExistsError(
                f"{folder} exists ({error.strerror}); choose another folder or pass overwrite=True"
            ) from error
        raise
    finally:
        if retired.exists() and not folder.exists():  # interrupted between the two renames
            retired.rename(folder)
        shutil.rmtree(retired, ignore_errors=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder outlive a loss of power, where the system can do that for folders."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish_new(temporary: Path, path: Path) -> None:
    """Give the content of `temporary` the name `path`; raises FileExistsError where the name is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: reserve the name, then replace the empty file
        os.close(os.open(path, _NEW, 0o600))
        os.replace(temporary, path)


def _beside(path: Path, ending: str) -> Path:
    """A hidden name that nobody else takes, in the same folder; short enough where `path` has the longest name."""
    return path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.{ending}")
