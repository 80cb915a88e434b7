"""What the commands of `privseg` have in common: arguments, options, and where a secret key is read from.

A key comes from a file (`--key-file`) or the environment variable PRIVSEG_KEY, never from an argument: arguments stay
in the shell's history, and other users of the machine see them.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..setr.errors import InvalidKeyError
from ..setr.keys import FAMILIES, SecretKey

if TYPE_CHECKING:
    from ..setr.encryption_key import EncryptionKey

KEY_VARIABLE = "PRIVSEG_KEY"


def one_of(option: str, *, choices: Sequence[str], help: str) -> Any:
    """An option that takes one of these names; another one is wrong usage, and the message lists them."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in choices:
            raise typer.BadParameter(f"expected one of {', '.join(choices)}, got {value!r}")
        return value

    return typer.Option(option, metavar="|".join(choices), callback=check, help=help)


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Folder of a SETR model, Hub id (owner/name), or 'default' for the embedded one."
    ),
]
ModelFolder = Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder for the new model.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file", "-k", help=f"File with the secret key or client embedding; without it, {KEY_VARIABLE} is read."
    ),
]
Images = Annotated[
    list[Path], typer.Argument(metavar="IMAGE", exists=True, dir_okay=False, help="Files; several at once are fine.")
]
OptionalImages = Annotated[
    list[Path] | None, typer.Argument(metavar="IMAGE...", exists=True, dir_okay=False, help="Files.")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace what exists.")]
Family = Annotated[str, one_of("--family", choices=FAMILIES, help="Cipher family of the key.")]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object to standard output, and everything else to standard error."),
]


def read_key(key_file: Path | None) -> "EncryptionKey":
    """The key, or the client embedding, of the file, or else the key of the environment variable.

    Raises:
        InvalidKeyError: there is none, or it is no key; never repeats what was found.
        OSError: the file cannot be read.
    """
    if key_file is not None:
        from ..setr.encryption_key import key_from_file

        return key_from_file(key_file)
    if KEY_VARIABLE not in os.environ:
        raise InvalidKeyError(
            f"expected a key, got none; give --key-file or set {KEY_VARIABLE} (privseg keygen makes a key)"
        )
    return SecretKey.from_env(KEY_VARIABLE)
