"""The command line `privseg`: make a key, encrypt a model, encrypt images, segment what is encrypted without a key.

Keys come from files (`--key-file`) or the environment variable PRIVSEG_KEY, never from an argument. Results go to
standard output, as one JSON object with `--json`; everything else goes to standard error. Exit codes: 0 done, 1 error
(failures.py says what is printed), 2 wrong usage, 130 interrupted. Nothing that exists is overwritten without
`--force`, and a file or a model's folder is written as a whole or not at all.

Each group of commands has a file of its own. What needs torch is imported inside the commands.
"""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from .access import tenant, token
from .audit import audit
from .batch import batch
from .convert import convert
from .datasets import encrypt_dataset
from .demo import demo
from .export import export
from .failures import DEBUG_VARIABLE, complain, holds_key, show_failure
from .images import encrypt
from .info import info
from .keys import fit_transform_code, keygen, make_client_embedding
from .models import apply_rekey_update, decrypt_model, encrypt_model, make_rekey_update, rekey
from .options import KEY_VARIABLE, key_from_standard_input
from .segment import segment
from .service import serve
from .training import PASSED_ON, evaluate, train

_COMMANDS: dict[Callable[..., None], str] = {
    keygen: "privseg keygen secret.key",
    make_client_embedding: "privseg make-client-embedding default client.embedding",
    fit_transform_code: "privseg fit-transform-code default data/camvid client.embedding --preset camvid",
    encrypt_model: "privseg encrypt-model default encrypted_model --key-file secret.key",
    encrypt: "privseg encrypt *.jpg --model encrypted_model -o encrypted -k secret.key",
    encrypt_dataset: "privseg encrypt-dataset data/mine data/encrypted --split train --flips -k secret.key",
    segment: "privseg segment encrypted/* --model encrypted_model --output results"
    "\n\nprivseg segment image.jpg --server URL --output results --key-file secret.key",
    decrypt_model: "privseg decrypt-model encrypted_model model --key-file secret.key",
    rekey: "privseg rekey encrypted_model new_model -k secret.key --new-key-file new.key",
    make_rekey_update: "privseg make-rekey-update next.rekey -k secret.key --new-key-file new.key",
    apply_rekey_update: "privseg apply-rekey-update encrypted_model next.rekey new_model",
    info: "privseg info encrypted_model",
    serve: "privseg serve encrypted_model --port 7860",
    audit: "privseg audit my_model images --public-base the_vit_it_came_from",
    export: "privseg export encrypted_model exported --format onnx",
    convert: "privseg convert setr_pup_ade20k.pth setr_pup --labels ade20k",
    demo: "privseg demo --image street.jpg",
}

app = typer.Typer(
    name="privseg",
    help="Semantic segmentation of visually protected images: a model and its images encrypted with one secret key.",
    epilog=f"Start with: privseg demo. Keys are read from --key-file or from the environment variable {KEY_VARIABLE}. "
    f"Exit codes: 0 done, 1 error, 2 wrong usage, 130 interrupted. {DEBUG_VARIABLE}=1 shows tracebacks of all errors.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,  # failures.py prints tracebacks, without keys
)
for _command, _example in _COMMANDS.items():
    app.command(epilog=f"Example:\n\n{_example}")(_command)
for _command in (train, evaluate):
    app.command(context_settings=PASSED_ON, add_help_option=False)(_command)
app.add_typer(batch, name="batch", epilog="Example:\n\nprivseg batch encrypt images -o encrypted -k secret.key")
app.add_typer(token, name="token", epilog="Example:\n\nprivseg token add tokens.json clinic-a")
app.add_typer(tenant, name="tenant", epilog="Example:\n\nprivseg tenant add embeddings encrypted_for_clinic_a")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hf-privseg {version('hf-privseg')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    """The options of the program itself."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends in SystemExit with an exit code that the top of this file explains."""
    key_from_standard_input.cache_clear()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _silence_transformers()
    warnings.showwarning = lambda message, *_, **__: complain("warning", message)
    if any(map(holds_key, arguments)):
        complain(
            "error",
            "a key is among the arguments, where the shell's history and other users' process lists show it; "
            f"make a new one (privseg keygen) and give it with --key-file or in {KEY_VARIABLE}",
        )
        raise SystemExit(2)
    try:
        app(arguments, prog_name="privseg")
    except Exception as error:
        show_failure(error)
        raise SystemExit(1) from None


def _silence_transformers() -> None:
    """Leave out progress bars and the library's own warnings: what is wrong with a checkpoint is an error of ours.

    Environment variables do it, since an import of transformers here would make `privseg --help` wait for seconds. The
    user's own values stay.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging = sys.modules.get("transformers.utils.logging")
    if logging is not None:  # a program that calls `main` has imported it, so that it has read its variables
        logging.set_verbosity_error()
        logging.disable_progress_bar()
