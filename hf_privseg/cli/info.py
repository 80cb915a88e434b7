"""The command `privseg info`: the public facts about a model, an encrypted image, a key file or a rekey update."""

from typing import Annotated

import typer

from .options import Json
from .output import report

_NOTES = {
    "model": "Keep a plain model private: it opens whatever is encrypted for it. An encrypted model goes to a server.",
    "client embedding": "Keep this file secret: with the encrypted model it opens every image.",
    "secret key": "Keep this file secret: it opens images and models. Its family and fingerprint are public.",
    "encrypted image": "The image is undamaged. It can be sent to a server whose model has the same key fingerprint.",
    "encrypted inputs": "The inputs are undamaged. They can be sent to a server whose model has the same fingerprint.",
    "rekey update": "Keep this file between owner and server: with one of the keys it opens what the other encrypts.",
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
    """Show what a model or a file is: its kind, key family and fingerprint, sizes, classes. It shows no secret.

    Things with the same key fingerprint belong together. Encrypted images and rekey updates are read in full, so that
    damage is found.
    """
    from ..storage.inspection import inspect

    facts = inspect(thing)
    width = max(map(len, facts))
    lines = [f"{name.replace('_', ' '):<{width}}  {_shown(value)}" for name, value in facts.items()]
    report(facts, *lines, _NOTES[str(facts["kind"])], as_json=as_json)


def _shown(value: object) -> str:
    """A fact as text for people."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {entry}" for name, entry in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, int):
        return f"{value:,}"
    return "none" if value is None else str(value)
