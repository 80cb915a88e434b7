"""What every file form of encrypted pixels has in common: it is written whole, and read within a bound."""

import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from .errors import CiphertextError
from .files import write_whole


class CiphertextFile(ABC):
    """Encrypted pixels with their public facts, which travel to a server as one file. Nothing in it is secret."""

    _max_file_bytes: ClassVar[int]

    @property
    @abstractmethod
    def suffix(self) -> str:
        """The ending of the file."""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """The content of the file."""

    @classmethod
    @abstractmethod
    def from_bytes(cls, data: bytes) -> Self:
        """What `to_bytes` returned -> the object; raises CiphertextError otherwise."""

    def to_file(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the container to `path`, which ends in `suffix`; it appears as a whole or not at all.

        Raises:
            ValueError: another ending, which would make programs treat the file as what it is not.
            FileExistsError: `path` exists and `overwrite` is False.
        """
        path = Path(path)
        if path.suffix.lower() != self.suffix:
            raise ValueError(
                f"the file form of {self!r} is a {self.suffix} file, got {path.name!r}; use "
                f"{path.with_suffix(self.suffix).name!r}"
            )
        write_whole(path, self.to_bytes(), overwrite=overwrite)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Path of a file that `to_file` wrote -> the object; the content decides, not the ending.

        Raises:
            CiphertextError: as `from_bytes`, and for a file that is too large; names the file.
            OSError: the file cannot be read.
        """
        path = Path(path)
        with path.open("rb") as file:
            data = file.read(cls._max_file_bytes + 1)
        if len(data) > cls._max_file_bytes:
            raise CiphertextError(
                f"{path.name}: expected at most {cls._max_file_bytes} bytes, got more; encrypt smaller "
                "images, or fewer at once"
            )
        try:
            return cls.from_bytes(data)
        except CiphertextError as error:
            raise CiphertextError(f"{path.name}: {error}") from error
