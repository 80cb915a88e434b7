"""The command `privseg serve`: a service that segments encrypted images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..setr.errors import EncryptionStateError
from .options import Device, Dtype, Model, Stride, Window, check_window

if TYPE_CHECKING:
    from ..setr.public_facts import KeyFacts


def serve(
    model: Model,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 is every address of the machine.")
    ] = "127.0.0.1",
    device: Device = None,
    dtype: Dtype = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen at.")] = 7860,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Largest encrypted image, height times width; uploads have 6 bytes a pixel.")
    ] = 2**21,
    public_demo: Annotated[
        bool, typer.Option("--public-demo", help="Serve a plain model as a demonstration in the browser.")
    ] = False,
    embeddings: Annotated[
        Path | None,
        typer.Option(help="Folder of the tenants' encrypted patch embeddings (privseg tenant add)."),
    ] = None,
    tokens: Annotated[
        Path | None, typer.Option(help="File of access tokens (privseg token add), one of which every request needs.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let anybody who reaches the address use the service, without a token.")
    ] = False,
    page: Annotated[bool, typer.Option("--page/--no-page", help="Whether the page is shown in browsers.")] = True,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes, each with the model and a share of the cores; needs --embeddings.")
    ] = 1,
    window: Window = None,
    stride: Stride = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Images that share a forward.")] = 8,
    max_wait_ms: Annotated[int, typer.Option(min=0, help="How long an image waits for others.")] = 5,
    root_path: Annotated[str, typer.Option(help="The path under which a proxy shows the service.")] = "",
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file; with --tls-key, serves HTTPS.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file with the key of the certificate.")] = None,
) -> None:
    """Run a service that segments encrypted images with an encrypted model, until it is interrupted.

    The service has neither the key nor plain images; it does see the segmentation maps. Connections are encrypted with
    --tls-certificate and --tls-key, or by a proxy with https before the service. A plain model is refused, unless
    --public-demo says that it only shows the method: anybody can invert what visitors of such a demonstration send.
    """
    check_window(window, stride)
    key_facts = _key_facts_of(model, public_demo)
    try:
        from ..service import Limits
        from ..service.server import Settings, is_loopback
        from ..service.server import serve as run_service

        if page:
            import gradio  # noqa: F401 - the page needs it, and its absence is to be said before the model is loaded
    except ModuleNotFoundError as error:
        raise ImportError(
            f"a service needs {error.name}, which is not installed; pip install 'hf-privseg[service]', or "
            "'hf-privseg[space]' for a service with a page (without: --no-page)"
        ) from error
    if not is_loopback(host) and tokens is None and not insecure and not public_demo:
        raise typer.BadParameter(
            f"expected --tokens FILE for the address {host}, which other machines reach (privseg token add makes "
            "tokens); or say --insecure if everybody there may use the service"
        )
    settings = Settings(
        model=model, device=device, dtype=dtype, window=window, stride=stride,
        host=host, port=port, embeddings=embeddings, tokens=tokens, page=page, workers=workers,
        root_path=root_path, tls_certificate=tls_certificate, tls_key=tls_key,
        limits=Limits(max_pixels=max_pixels, max_batch=max_batch, max_wait_ms=max_wait_ms),
    )  # fmt: skip
    if key_facts is None:
        typer.echo(
            f"A DEMONSTRATION with the plain model {model}: anybody can invert what its visitors send.", err=True
        )
    else:
        typer.echo(f"Model {model}, key of fingerprint {key_facts.fingerprint} ({key_facts.family}).", err=True)
    scheme = "http" if tls_key is None else "https"
    typer.echo(f"Serving at {scheme}://{host}:{port}; stop with Ctrl+C.", err=True)
    typer.echo(f"Clients: privseg segment IMAGES --server {scheme}://{host}:{port} -o results -k KEY_FILE", err=True)
    run_service(settings)


def _key_facts_of(model: str, public_demo: bool) -> "KeyFacts | None":
    """The key of a model that may be served: an encrypted one; None for a plain one, for a demonstration."""
    from ..storage.model_files import read_setr_settings

    facts = read_setr_settings(model).key_facts
    if facts is None and not public_demo:
        raise EncryptionStateError(
            f"expected an encrypted model, got the plain one {model}, with which nothing is protected; encrypt it "
            "(privseg encrypt-model), or show the method with it by --public-demo"
        )
    if facts is not None and public_demo:
        raise EncryptionStateError(
            f"expected a plain model for --public-demo, got the encrypted one {model}; leave the option out"
        )
    return facts
