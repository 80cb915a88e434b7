"""The commands that have to do with a service: `privseg serve`, and `privseg segment --server`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..setr.errors import EncryptionStateError, PartialFailureError
from .options import Model, read_key
from .output import named, output_paths, print_shares, refuse_existing, report, shares_of

if TYPE_CHECKING:
    import numpy as np

    from ..client.segmentation_client import ServiceInfo

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Let the service at this address segment the images; there is no MODEL then. Photos are encrypted here, "
        "which needs the key, and only ciphertexts are sent.",
    ),
]
PatchSize = Annotated[
    int, typer.Option(min=1, help="With --server: patch size of the model, as its owner says. Smaller ones show more.")
]
Timeout = Annotated[float, typer.Option(min=1, help="With --server: seconds for one image, attempts and all.")]


def serve(
    model: Model,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 is every one of the machine.")
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

    It has neither the key nor plain images; it does see the label maps. Connections are not encrypted: put a proxy
    with https before it. A plain model is refused, unless the method is to be shown with a public one: anybody can
    invert what visitors of such a demonstration send.
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
    typer.echo(f"Clients: privseg segment --server http://{host}:{port} PHOTOS -o results -k KEY_FILE", err=True)
    run_service(model, limits=Limits(max_pixels=max_pixels), server_name=host, server_port=port, quiet=True)


def segment_by_service(
    server: str,
    images: Sequence[Path],
    output: Path,
    key_file: Path | None,
    *,
    patch_size: int,
    timeout: float,
    overlay: bool,
    force: bool,
    as_json: bool,
) -> None:
    """What `privseg segment --server` does; the arguments are those of the command, `images` being all of them.

    Raises:
        PartialFailureError: some images have no label map; the others' are written.
        As `SegmentationClient`, and as files that exist or cannot be read.
    """
    from ..client.segmentation_client import SegmentationClient
    from ..inference import pictures as visualization
    from ..inference.segmentation import plain_image
    from ..storage.images import is_ciphertext, save_picture

    missing = next((image for image in images if not image.is_file()), None)
    if missing is not None:
        raise typer.BadParameter(f"expected image files, as --server takes no MODEL; there is no file {missing}")
    paths = output_paths(images, output, ".segmentation.png", force=force)
    overlays = [path.with_name(f"{path.stem.removesuffix('.segmentation')}.overlay.png") for path in paths]
    if overlay:
        refuse_existing(overlays, force)
    needs_key = key_file is not None or overlay or not all(map(is_ciphertext, images))
    key = read_key(key_file) if needs_key else None
    failure: PartialFailureError | None = None
    with SegmentationClient(server, patch_size=patch_size, timeout=timeout) as client:
        try:
            maps: list[np.ndarray | None] = list(client.segment_batch(images, key, progress=len(images) > 1))
        except PartialFailureError as error:
            maps, failure = error.segmentation_maps, error
        info, processor = client.info, client.processor
    each = zip(images, paths, overlays, maps, strict=True)
    found = [(image, path, overlay_path, one) for image, path, overlay_path, one in each if one is not None]
    for image, path, overlay_path, label_map in found:
        if overlay:
            photo = plain_image(image, processor, key)
            save_picture(visualization.overlay(photo, label_map, info.palette), overlay_path, overwrite=force)
        save_picture(visualization.segmentation_map_to_picture(label_map, info.palette), path, overwrite=force)
    if found:
        _report_found(server, info, found, overlay=overlay, as_json=as_json)
    if failure is not None:
        raise failure


def _report_found(
    server: str,
    info: "ServiceInfo",
    found: Sequence[tuple[Path, Path, Path, "np.ndarray"]],
    *,
    overlay: bool,
    as_json: bool,
) -> None:
    """The result of the images that have one: (image, segmentation, overlay, label map) each."""
    names = dict(enumerate(info.labels))
    results = [
        {"image": image, "segmentation": path, "overlay": overlay_path if overlay else None}
        | {"height": len(label_map), "width": len(label_map[0]), "shares": shares_of([label_map], names)}
        for image, path, overlay_path, label_map in found
    ]
    written = [item[1] for item in found] + [item[2] for item in found] * overlay
    print_shares([label_map for *_, label_map in found], names, info.palette, to_stderr=as_json)
    facts = {"server": server, "encryption": info.key_facts.to_dict(), "images": results}
    report(facts, f"Wrote {named(written)}.", as_json=as_json)
