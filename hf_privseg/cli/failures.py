"""How a command fails: an error that is foreseen is one line on standard error, a bug keeps its traceback.

Foreseen are the errors of this package, those of the operating system, and whatever this package raises by a `raise`
statement of its own. Everything else, such as an IndexError or a ValueError from deep inside a library, is a bug, and
its traceback says where. PRIVSEG_DEBUG=1 shows the traceback of every failure. No key appears in either form.
"""

import os
import re
import traceback
from dis import opmap
from types import TracebackType

import typer

from ..setr import errors

DEBUG_VARIABLE = "PRIVSEG_DEBUG"

_PACKAGE = __name__.partition(".")[0]
_OWN_ERRORS = tuple(
    value for value in vars(errors).values() if isinstance(value, type) and value.__module__ == errors.__name__
)
_OF_MODELS = ("torch", "torchvision", "transformers", "huggingface_hub")
_EXTRAS = {
    "accelerate": "train",
    "datasets": "train",
    "fsspec": "batch",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "pyarrow": "batch",
    "ray": "ray",
}
_OF_A_LOADER = re.compile(  # as torch raises again what a process that loads data has raised
    r"Caught (\w+) in DataLoader worker process \d+\.\nOriginal .*\n(?:\w+\.)*\1: (.*)", re.DOTALL
)
_KEY_TEXT = re.compile(r"(privseg\d+\.\w+\.)[\w-]{8,}")


def is_foreseen(error: BaseException) -> bool:
    """Whether the error's message is meant for the user, so that a traceback would only hide it."""
    return isinstance(error, (OSError, *_OWN_ERRORS)) or _is_raised_on_purpose(error.__traceback__)


def show_failure(error: Exception) -> None:
    """Print the error on standard error: one line, after its traceback if it is a bug or PRIVSEG_DEBUG is set."""
    error = _naming_the_extra(error)
    foreseen = is_foreseen(error)
    if not foreseen or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0"):
        typer.echo(without_keys("".join(traceback.format_exception(error))), err=True)
    if foreseen:
        complain("error", error)
    else:
        complain(
            "error",
            f"unexpected {type(error).__name__}, which is a bug in hf-privseg or in a library; please report it with "
            "the traceback above, after a look at the file names in it",
        )


def _naming_the_extra(error: Exception) -> Exception:
    """A missing package that an extra brings -> an error that names the extra; any other error as it is."""
    if isinstance(error, ModuleNotFoundError) and error.name in _OF_MODELS:
        return OSError(
            f"this command needs {error.name}, which is not installed: pip install 'hf-privseg[models]'. Without it "
            "there are keygen, encrypt, info and segment --server"
        )
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        extra = _EXTRAS[error.name]
        return OSError(f"this command needs {error.name}, which is not installed: pip install 'hf-privseg[{extra}]'")
    return error


def complain(kind: str, message: object) -> None:
    """Print "kind: message" on standard error, as one line whatever line breaks the message has."""
    typer.echo(f"{kind}: {' '.join(without_keys(message_of(message)).split())}", err=True)


def message_of(error: object) -> str:
    """An error as a sentence; what the operating system says of a file, as in "[Errno 2] ...", is put in words."""
    if loaded := _OF_A_LOADER.fullmatch(str(error)):
        return loaded[2].strip()
    if not isinstance(error, OSError) or error.errno is None or error.filename is None:
        return str(error)
    if isinstance(error, FileNotFoundError):
        return f"expected a file or folder, but {error.filename} does not exist; check the path"
    return f"{error.filename}: {error.strerror}; check the path, and who may read and write there"


def holds_key(text: str) -> bool:
    """Whether a secret key, or a good part of one, is in the text."""
    return _KEY_TEXT.search(text) is not None


def without_keys(text: str) -> str:
    """The text with every secret key in it blotted out; the family stays."""
    return _KEY_TEXT.sub(r"\1***", text)


def _is_raised_on_purpose(trace: TracebackType | None) -> bool:
    """Whether the innermost frame belongs to this package and was left by a `raise` statement.

    A function written in C has no frame of its own: what `int("x")` raises in a file of ours is told apart by the
    instruction alone.
    """
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    is_ours = str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE
    return is_ours and trace.tb_frame.f_code.co_code[trace.tb_lasti] == opmap["RAISE_VARARGS"]
