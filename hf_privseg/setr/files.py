"""Files that their owner alone may read: written with mode 0600, as a whole or not at all; read with a warning."""

import os
import secrets
import shutil
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_private_file(path: str | os.PathLike[str], content: bytes, *, overwrite: bool, loss: str) -> None:
    """Write `content` to `path`, readable by its owner alone (mode 0600) from the first moment.

    The content appears as a whole or not at all: it is written beside `path` and then renamed.

    Args:
        path: of the file.
        content: its bytes.
        overwrite: whether an existing file is replaced.
        loss: what would be lost with an existing file, for the error.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.
    """
    path = Path(path)
    private = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with os.fdopen(os.open(temporary, private, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if not overwrite:  # reserve the name: of two writers exactly one succeeds
            os.close(os.open(path, private, 0o600))
        os.replace(temporary, path)
    except FileExistsError:
        raise FileExistsError(f"{path} exists, and {loss}; choose another path or pass overwrite=True") from None
    finally:
        temporary.unlink(missing_ok=True)


def read_private_file(path: str | os.PathLike[str], max_bytes: int, *, noun: str) -> bytes:
    """The first `max_bytes` bytes of the file; warns the caller's caller if other users of the machine can reach it.

    Args:
        path: of the file.
        max_bytes: what is beyond is not read.
        noun: what the file is called in the warning.

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
def new_folder(folder: Path, *, private: bool = False) -> Iterator[Path]:
    """A folder beside `folder` to write into; it becomes `folder`, as a whole or (after an error) not at all.

    Args:
        folder: checked beforehand, as by `check_model_folder`; what is there is replaced.
        private: whether the folder is for its owner alone (mode 0700).
    """
    folder = folder.resolve()
    temporary, retired = (folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.{end}") for end in ("tmp", "old"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir(mode=0o700 if private else 0o777)
        yield temporary
        if folder.exists():
            folder.rename(retired)
        temporary.rename(folder)
    finally:
        if retired.exists() and not folder.exists():  # interrupted between the two
            retired.rename(folder)
        for left in (temporary, retired):
            shutil.rmtree(left, ignore_errors=True)
