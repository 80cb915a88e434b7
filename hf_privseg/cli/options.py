"""The arguments and options that several commands of `privseg` share, and where a secret key is read from.

A key comes from a file (`--key-file`), standard input or the environment variable PRIVSEG_KEY, never from an argument:
arguments stay in the shell's history, and other users of the machine see them.
"""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer.models import OptionInfo

from ..setr.errors import InvalidKeyError
from ..setr.keys import FAMILIES, SecretKey

if TYPE_CHECKING:
    from ..setr.encryption_key import EncryptionKey

STANDARD_INPUT = Path("-")
KEY_VARIABLE, TOKEN_VARIABLE = "PRIVSEG_KEY", "PRIVSEG_TOKEN"


def one_of(option: str, *, choices: Sequence[str], help: str) -> OptionInfo:
    """An option that takes one of these names. Another name is wrong usage; the message lists the names."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in choices:
            close = get_close_matches(value, choices, n=1)
            question = f"; did you mean {close[0]!r}?" if close else ""
            raise typer.BadParameter(f"expected one of {', '.join(choices)}, got {value!r}{question}")
        return value

    return typer.Option(option, metavar="|".join(choices), callback=check, help=help)


def _only_8(value: int | None) -> int | None:
    if value not in (None, 8):
        raise typer.BadParameter(f"expected 8, or no --bits for the usual form, got {value}")
    return value


Model = Annotated[
    str,
    typer.Argument(metavar="MODEL", help="Folder of a model, Hub id (owner/name), or 'default' for the embedded one."),
]
ModelFolder = Annotated[Path, typer.Argument(metavar="OUTPUT", help="Folder for the new model.")]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key-file",
        "-k",
        help="File with the secret key or client embedding, or - for one from standard input; without it, "
        f"{KEY_VARIABLE} is read.",
    ),
]
Images = Annotated[
    list[Path], typer.Argument(metavar="IMAGES...", exists=True, dir_okay=False, help="Image files, one or more.")
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite what exists.")]
SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing",
        help="Go on with a job that stopped: an image is skipped if its result exists under its name and is whole.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        "--device", help="Device of torch that runs the model, such as cpu or cuda:1.  [default: the accelerator]"
    ),
]
Dtype = Annotated[
    str | None,
    one_of(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="Numbers that the model computes with.  [default: those of its weights]",
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        "--window",
        min=1,
        help="Segment by sliding windows of this side in pixels of the resized image, a multiple of the patch size.  "
        "[default: the whole image]",
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride",
        min=1,
        help="With --window: pixels from one window to the next; a multiple of the patch size where images are "
        "encrypted.  [default: two thirds of the window]",
    ),
]
Family = Annotated[str, one_of("--family", choices=FAMILIES, help="Key family of the key.")]
Source = Annotated[
    str,
    typer.Argument(metavar="SOURCE", help="Folder or Hub id of a data set with segmentation maps, as in training."),
]
Preset = Annotated[str | None, typer.Option(help="Known data set: its classes, and how its labels mean them.")]
ClassFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="Names of the classes.  [default: SOURCE's classes.json]")
]
LabelMapFile = Annotated[
    str | None, typer.Option(metavar="FILE", help="JSON file {stored label: class, or null for void}.")
]
IgnoreLabels = Annotated[
    list[int] | None, typer.Option("--ignore-labels", help="Stored label without class; may be repeated.")
]
ReduceLabels = Annotated[
    bool | None, typer.Option("--reduce-labels", help="Stored 0 is background, k is class k - 1.")
]
ImageColumn = Annotated[str, typer.Option(help="Column of the images.")]
AnnotationColumn = Annotated[str, typer.Option(help="Column of the segmentation maps.")]
AnnotationPattern = Annotated[
    str | None, typer.Option(help="Names of a folder's segmentation maps without suffix, as in {stem}_mask.")
]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub data set.")]
Bits = Annotated[
    int | None,
    typer.Option(
        "--bits",
        metavar="8",
        callback=_only_8,
        help="Send 8 bits a number in place of 16, half the bytes: exactness is given up. The permutation families "
        "have 8 bits anyway, exactly.",
    ),
]
BitsPerBlock = Annotated[
    float | None,
    typer.Option(
        "--bits-per-block",
        min=0,
        help="Round what is sent to about so many bits a block, for small uploads: exactness is given up. It needs a "
        "client embedding of privseg fit-transform-code, which prints what its rates cost.",
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON object to standard output, and everything else to standard error."),
]


def read_key(key_file: Path | None) -> "EncryptionKey":
    """The key or client embedding in the file; without a file, the key in the environment variable.

    Raises:
        InvalidKeyError: there is none, or it is no key. The message never repeats what was found.
        OSError: the file cannot be read.
    """
    if key_file == STANDARD_INPUT:
        return key_from_standard_input()
    if key_file is not None:
        if not key_file.exists():  # said before the imports, which take seconds
            raise FileNotFoundError(
                f"expected a key file, but {key_file} does not exist; check the path, or make a key with "
                f"privseg keygen {key_file}"
            )
        if key_file.is_dir():
            raise IsADirectoryError(f"expected a key file, got the folder {key_file}; give the file in it")
        from ..setr.encryption_key import key_from_file

        return key_from_file(key_file)
    if KEY_VARIABLE not in os.environ:
        raise InvalidKeyError(
            f"expected a key, got none; give --key-file or set {KEY_VARIABLE} (privseg keygen makes a key)"
        )
    return SecretKey.from_env(KEY_VARIABLE)


@cache
def key_from_standard_input() -> "EncryptionKey":
    """The key that another program hands over, such as a key store: read once a command.

    Raises:
        InvalidKeyError: something else came; the message never repeats it.
    """
    from ..setr.client_embedding import ClientEmbedding
    from ..setr.encryption_key import key_from_bytes

    try:
        return key_from_bytes(sys.stdin.buffer.read(ClientEmbedding._max_file_bytes))
    except InvalidKeyError as error:
        raise InvalidKeyError(f"standard input: {error}") from None


def check_window(window: int | None, stride: int | None) -> None:
    """Refuse a stride without windows, and one that leaves gaps between them, as wrong usage."""
    if stride is not None and window is None:
        raise typer.BadParameter(f"expected --stride together with --window, got --stride {stride} alone")
    if stride is not None and window is not None and stride > window:
        raise typer.BadParameter(f"expected --stride of at most --window {window}, which leaves no gap, got {stride}")


def has_key(key_file: Path | None) -> bool:
    """Whether a key was given, in a file or in the environment variable."""
    return key_file is not None or KEY_VARIABLE in os.environ
