"""Where a worker finds the key: the path or name of it travels, the key never does."""

from dataclasses import dataclass

from ..setr.encryption_key import EncryptionKey, key_from_file
from ..setr.errors import InvalidKeyError
from ..setr.keys import SecretKey


@dataclass(frozen=True)
class KeySource:
    """The path of a key's file, or the name of an environment variable with a key's text, on every worker.

    Args:
        file: the path; None takes the variable.
        variable: the name.
    """

    file: str | None = None
    variable: str = "PRIVSEG_KEY"

    def read(self) -> EncryptionKey:
        """The key, as this process finds it.

        Raises:
            FileNotFoundError, InvalidKeyError: it is not here, or is no key. The message repeats nothing of it.
        """
        if self.file is None:
            try:
                return SecretKey.from_env(self.variable)
            except InvalidKeyError as error:
                raise InvalidKeyError(
                    f"{error}; or give --key-file. Every process that encrypts reads it, on each node of a cluster"
                ) from None
        try:
            return key_from_file(self.file)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"expected a key file, but {self.file} does not exist; every process that encrypts reads it, on each "
                "node of a cluster"
            ) from None
