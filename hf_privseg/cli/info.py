"""The command `privseg info`: what a model, an encrypted image, a key file or a rekey update is, and no secret."""

from typing import Annotated, Any

import typer

from .options import Json
from .output import report

_NOTES = {
    "model": "A plain model opens whatever is encrypted for it: keep it private. An encrypted one goes to a server.",
    "client embedding": "The file is secret: with the encrypted model it gives away every image.",
    "secret key": "Family and fingerprint are public; what else is in the file opens images and models: keep it.",
    "encrypted image": "It is undamaged, and goes to a server whose model has the same key fingerprint.",
    "rekey update": "Confidential between owner and server: with one of the keys it opens what the other encrypts.",
}


def info(
    thing: Annotated[
        str,
        typer.Argument(
            metavar="THING",
            help="A model (folder, Hub id, 'default'), an encrypted image, a key file, a client embedding or a rekey "
            "update.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Show what a model or a file is: kind, key family and fingerprint, sizes, labels. Shows no secret.

    Things with the same key fingerprint belong together. Encrypted images and updates are read in full, so that damage
    is found.
    """
    from ..storage.inspection import inspect

    facts = inspect(thing)
    width = max(map(len, facts))
    lines = [f"{name.replace('_', ' '):<{width}}  {_shown(value)}" for name, value in facts.items()]
    report(facts, *lines, _NOTES[facts["kind"]], as_json=as_json)


def _shown(value: Any) -> str:
    """A fact for people."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {entry}" for name, entry in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int):
        return f"{value:,}"
    return "none" if value is None else str(value)
