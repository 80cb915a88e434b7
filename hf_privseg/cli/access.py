"""The commands for those who operate a service: `privseg token` and `privseg tenant`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..setr.counts import counted
from .options import Json
from .output import report

if TYPE_CHECKING:
    from ..service.access import Grant

token = typer.Typer(no_args_is_help=True, help="Access tokens of a service; they work and stop working at once.")
tenant = typer.Typer(no_args_is_help=True, help="Encrypted patch embeddings of a service; they count at once.")

TokenFile = Annotated[Path, typer.Argument(metavar="FILE", help="The file that privseg serve --tokens reads.")]
Embeddings = Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of privseg serve --embeddings.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the token, for people and logs.")]


@token.command("add")
def add_token(
    file: TokenFile,
    name: Name,
    fingerprint: Annotated[
        list[str] | None, typer.Option(help="Of a key that the token is for; may be repeated. Without: every key.")
    ] = None,
    may_register: Annotated[
        bool, typer.Option("--may-register", help="The token may register, replace and revoke patch embeddings.")
    ] = False,
    requests_per_minute: Annotated[int, typer.Option(min=1, help="Requests a minute on average.")] = 600,
    max_concurrent: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
) -> None:
    """Make an access token and print it, this once: FILE keeps its hash alone."""
    from ..service import access

    grant = access.Grant(
        name, tuple(fingerprint) if fingerprint else None, may_register, requests_per_minute, max_concurrent
    )
    typer.echo(access.add_token(file, grant))


@token.command("revoke")
def revoke_token(file: TokenFile, name: Name) -> None:
    """Revoke an access token: the next request with it is refused."""
    from ..service import access

    access.revoke_token(file, name)
    typer.echo(f"Revoked the token {name}.", err=True)


@token.command("list")
def list_tokens(file: TokenFile, as_json: Json = False) -> None:
    """List what the tokens of a file allow."""
    from dataclasses import asdict

    from ..service import access

    grants = access.list_grants(file)
    text = "\n".join(map(_described, grants)) or "There are no tokens."
    report({"tokens": [asdict(grant) for grant in grants]}, text, as_json=as_json)


@tenant.command("add")
def add_tenant(
    folder: Embeddings,
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Folder of the model, encrypted with the tenant's key.")
    ],
) -> None:
    """Register the encrypted patch embedding of a model, or replace that of the same key; print its fingerprint.

    MODEL is the service's model as `privseg encrypt-model` encrypts it with the tenant's key; it differs from the
    others in this one weight.
    """
    from ..service.embedding_store import EmbeddingFolder
    from ..service.tenants import embedding_of

    embedding = embedding_of(model)
    is_new = EmbeddingFolder(folder).put(embedding)
    typer.echo(f"{'Registered' if is_new else 'Replaced'} the patch embedding of {embedding.facts}.", err=True)
    typer.echo(embedding.facts.fingerprint)


@tenant.command("remove")
def remove_tenant(
    folder: Embeddings, fingerprint: Annotated[str, typer.Argument(help="Of the tenant's key.")]
) -> None:
    """Revoke a patch embedding: the next image of its key is refused."""
    from ..service.embedding_store import EmbeddingFolder

    store = EmbeddingFolder(folder)
    if fingerprint not in store.fingerprints() or not store.remove(fingerprint):
        raise ValueError(f"expected the fingerprint of a patch embedding in {folder}, got {fingerprint!r:.40}")
    typer.echo(f"Revoked the patch embedding of the key {fingerprint}.", err=True)


@tenant.command("list")
def list_tenants(folder: Embeddings, as_json: Json = False) -> None:
    """List the fingerprints of the registered patch embeddings."""
    from ..service.embedding_store import EmbeddingFolder

    found = EmbeddingFolder(folder).fingerprints()
    report({"fingerprints": found}, "\n".join(found) or "No patch embedding is registered.", as_json=as_json)


def _described(grant: "Grant") -> str:
    keys = "every key" if grant.fingerprints is None else ", ".join(grant.fingerprints)
    extra = ", may register" if grant.may_register else ""
    limits = f"{counted(grant.requests_per_minute, 'request')} a minute, {grant.max_concurrent} at a time"
    return f"{grant.name}: {keys}; {limits}{extra}"
