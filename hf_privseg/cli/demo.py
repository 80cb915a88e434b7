"""The command `privseg demo`: the whole method on one image."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..setr.keys import DEFAULT_FAMILY
from .options import Family, Json
from .output import report


def demo(
    image: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="An image of your own.")] = None,
    family: Family = DEFAULT_FAMILY,
    output_dir: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("demo_output"),
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="A plain model: folder, Hub id or 'default'.")
    ] = "default",
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite the results of a former demo.")] = False,
    as_json: Json = False,
) -> None:
    """Show the whole method on one image: key, encrypted model, encrypted image, segmentation without the key.

    The picture that it draws compares what an encrypted model makes of the encrypted image, of the plain image and of
    an image under a wrong key.
    """
    from .demo_run import run_demo

    measured = run_demo(
        image=image, family=family, output_dir=output_dir, model=model, overwrite=force, print_to_stderr=as_json
    )
    report({"path": output_dir, "family": family, **asdict(measured)}, as_json=as_json)
