"""The command `privseg serve`: a service that segments encrypted images."""

from typing import Annotated

import typer

from ..setr.errors import EncryptionStateError
from .options import Model


def serve(
    model: Model,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 is every address of the machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 7860,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Largest encrypted image, height times width; uploads have 6 bytes a pixel.")
    ] = 2**21,
    public_demo: Annotated[
        bool, typer.Option("--public-demo", help="Serve a plain model as a demonstration in the browser.")
    ] = False,
) -> None:
    """Run a service that segments encrypted images with an encrypted model, until it is interrupted.

    The service has neither the key nor plain images; it does see the segmentation maps. Connections are not encrypted:
    put a proxy with https before it. A plain model is refused, unless --public-demo says that it only shows the
    method: anybody can invert what visitors of such a demonstration send.
    """
    from ..storage.models import load_settings

    config, _ = load_settings(model)
    if config.encryption is None and not public_demo:
        raise EncryptionStateError(
            f"expected an encrypted model, got the plain one {model}, with which nothing is protected; encrypt it "
            "(privseg encrypt-model), or show the method with it by --public-demo"
        )
    if config.encryption is not None and public_demo:
        raise EncryptionStateError(
            f"expected a plain model for --public-demo, got the encrypted one {model}; leave the option out"
        )
    try:
        from ..service import Limits
        from ..service.app import serve as run_service
    except ModuleNotFoundError as error:
        raise ImportError(
            f"a service needs {error.name}, which is not installed; pip install 'hf-privseg[space]'"
        ) from error
    if config.encryption is None:
        typer.echo(
            f"A DEMONSTRATION with the plain model {model}: anybody can invert what its visitors send.", err=True
        )
    else:
        facts = config.encryption
        typer.echo(f"Model {model}, key of fingerprint {facts['fingerprint']} ({facts['family']}).", err=True)
    typer.echo(f"Serving at http://{host}:{port}; stop with Ctrl+C.", err=True)
    typer.echo(f"Clients: privseg segment IMAGES --server http://{host}:{port} -o results -k KEY_FILE", err=True)
    run_service(model, limits=Limits(max_pixels=max_pixels), server_name=host, server_port=port, quiet=True)
