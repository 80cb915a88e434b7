"""The commands that make secrets: `privseg keygen` and `privseg make-client-embedding`."""

from pathlib import Path
from typing import Annotated

import typer

from ..setr.keys import DEFAULT_FAMILY, SecretKey
from .options import Family, Force, Json, Model
from .output import free_folder, report, write_secret


def keygen(
    path: Annotated[Path, typer.Argument(metavar="[PATH]", help="File for the key.")] = Path("secret.key"),
    family: Family = DEFAULT_FAMILY,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a secret key and write it to a file that only you can read.

    The key belongs to one key family. Its fingerprint is public: encrypted models and images carry it.
    """
    key = SecretKey.generate(family)
    write_secret(key, path, force=force)
    report(
        {"path": path, **key.facts.to_dict()},
        f"Wrote {path}: family {key.family}, fingerprint {key.fingerprint}, readable by you alone.",
        "Keep a copy in a safe place: nothing that is encrypted with this key can be used without it.",
        f"Next: privseg encrypt-model default {free_folder('encrypted_model')} --key-file {path}",
        as_json=as_json,
    )


def make_client_embedding(
    model: Model,
    output: Annotated[Path, typer.Argument(metavar="OUTPUT", help="File for the client embedding.")],
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make a client embedding for a plain model: a secret file that is used like a key file, for this model alone.

    It holds the client's part of the patch embedding. The server then sees less than with any key, and encrypted
    images are smaller where the patch embedding is narrow (half the size for the embedded model). In return the file
    has megabytes, and it holds the patch embedding up to a rotation: whoever has it and the encrypted model can invert
    all images, under this or any other key.
    """
    from ..any_vit.model_encryption import generate_client_embedding
    from ..storage.vision_models import load_any_model

    network, _ = load_any_model(model)
    embedding = generate_client_embedding(network)
    write_secret(embedding, output, force=force)
    length, rank = embedding.shape
    report(
        {"path": output, "block_length": length, "numbers_sent": rank, **embedding.facts.to_dict()},
        f"Wrote {output}: {rank} numbers for the {length} of a block, fingerprint {embedding.fingerprint}, readable "
        "by you alone.",
        f"Next: privseg encrypt-model {model} {free_folder('encrypted_model')} --key-file {output}",
        as_json=as_json,
    )
