"""What has in common whatever lives in a private file: secret keys, client embeddings and rekey updates."""

import os
import re
from abc import ABC, abstractmethod
from typing import ClassVar, NoReturn, Self, TypeGuard

from .errors import InvalidKeyError
from .files import read_private_file, write_whole


class PrivateFile(ABC):
    """An object that leaves its process as one file, readable by its owner alone; it is neither pickled nor copied."""

    __slots__ = ()

    _privseg_kind: ClassVar[str]  # what the object is: for messages, and to recognise its class in another copy
    _loss: ClassVar[str]  # what would be lost with an existing file
    _max_file_bytes: ClassVar[int]

    @abstractmethod
    def _file_content(self) -> bytes:
        """All bytes of the file. They are confidential: never log them."""

    @classmethod
    @abstractmethod
    def _from_file_content(cls, content: bytes) -> Self:
        """What `_file_content` returned -> the object; raises ValueError, which repeats nothing of it, otherwise."""

    def to_file(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the file, readable by its owner alone (mode 0600) from the first moment, as a whole or not at all.

        Raises:
            FileExistsError: `path` exists and `overwrite` is False.
        """
        write_whole(path, self._file_content(), overwrite=overwrite, private=True, loss=self._loss)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """Path of a file that `to_file` wrote -> the object. Warns if other users of the machine can read the file.

        Raises:
            ValueError: the file holds something else; names the file. For keys it is an InvalidKeyError.
            InvalidKeyError: `path` is the text of a key.
            OSError: the file cannot be read.
        """
        refuse_key_text(path, f"{cls.__name__}.from_file")
        content = read_private_file(path, cls._max_file_bytes, noun=f"{cls._privseg_kind} file")
        try:
            return cls._from_file_content(content)
        except ValueError as error:
            raise type(error)(f"{cls._privseg_kind} file {path}: {error}") from None

    @classmethod
    def _recognises(cls, value: object) -> TypeGuard[Self]:
        """Whether `value` is an object of this class, as this or another copy of its module defines it.

        With remote code each file may be loaded as a module of its own, and then `isinstance` is False.
        """
        return getattr(type(value), "_privseg_kind", None) == cls._privseg_kind

    def __getstate__(self) -> NoReturn:
        """Refuse pickle, copy and deepcopy, which all ask for the state here."""
        raise TypeError(
            f"a {type(self).__name__} is neither pickled nor copied, so that no cache and no other process gets it; "
            f"pass the path of a {self._privseg_kind} file and read it with {type(self).__name__}.from_file where it "
            "is used"
        )


def refuse_key_text(path: str | os.PathLike[str], caller: str) -> None:
    """Refuse the text of a key in place of a path, before an error of the system repeats it.

    Raises:
        InvalidKeyError: names the `caller`.
    """
    if re.match(r"\s*privseg\d+\.", str(path)):
        raise InvalidKeyError(f"{caller} expects a path, got a key's text; use SecretKey.from_text")
