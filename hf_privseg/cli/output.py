"""How the commands of `privseg` give their results: to people or to programs, and in files that replace none unasked.

Standard output carries results alone: text for people, or one JSON object. Progress, warnings and errors go to
standard error.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    import numpy as np

    from ..setr.encryption_key import EncryptionKey

# A name with one of these is meant as a file's, and must then have the ending of what is written.
_FILE_ENDINGS = (".png", ".safetensors", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_Item = TypeVar("_Item")


def report(facts: Mapping[str, Any], *lines: str, as_json: bool) -> None:
    """The result of a command: `lines` on stdout, or `facts` there as one JSON object and the lines on stderr.

    Args:
        facts: of values that JSON knows, and paths.
        lines: the same for people, with what to do next.
        as_json: whether a program asked.
    """
    for line in lines:
        typer.echo(line, err=as_json)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, default=str))


def complain(kind: str, message: object) -> None:
    """One line on stderr, whatever line breaks the message has."""
    typer.echo(f"{kind}: {' '.join(str(message).split())}", err=True)


def output_paths(images: Sequence[Path], output: Path, ending: str, *, force: bool) -> list[Path]:
    """Where the result of each image goes: `output` itself if it is named like a file, else `output`/NAME`ending`.

    Raises:
        ValueError: several images and one file, a file of another ending, or two images of the same name.
        FileExistsError: a result exists and `force` is False.
    """
    suffix = Path(ending).suffix
    if output.suffix.lower() in _FILE_ENDINGS and not output.is_dir():
        if len(images) > 1:
            raise ValueError(f"expected a folder as --output for {len(images)} images, got the file {output}")
        if output.suffix.lower() != suffix:
            raise ValueError(
                f"expected a folder or a {suffix} file as --output, got {output}; "
                f"use {output.with_suffix(suffix).name!r}"
            )
        paths = [output]
    else:
        paths = [output / f"{image.stem.removesuffix('.encrypted')}{ending}" for image in images]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"several images would become {twice}; give images of different names, or one at a time")
    refuse_existing(paths, force)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    return paths


def refuse_existing(paths: Iterable[Path], force: bool) -> None:
    """Raises FileExistsError, which names the first path that exists, unless `force` is True."""
    existing = [] if force else [path for path in paths if path.exists()]
    if existing:
        raise FileExistsError(f"{existing[0]} exists; choose another --output, or replace it with --force")


def write_secret(secret: "EncryptionKey", path: Path, *, force: bool) -> None:
    """A key or client embedding -> its file; raises FileExistsError where one exists and `force` is False."""
    try:
        secret.to_file(path, overwrite=force)
    except FileExistsError:
        raise FileExistsError(
            f"{path} exists, and whatever was encrypted with a key that it holds would be lost with it; choose "
            "another path, or replace it with --force"
        ) from None


def progress(items: list[_Item], description: str) -> Iterable[_Item]:
    """The items, behind a progress bar on stderr if there are several."""
    from rich.console import Console
    from rich.progress import track

    return track(items, description, console=Console(stderr=True), disable=len(items) < 2)


def named(paths: Sequence[Path]) -> str:
    """The path, or how many there are and in which folder."""
    return str(paths[0]) if len(paths) == 1 else f"{len(paths)} files in {paths[0].parent}"


def shares_of(label_maps: Sequence["np.ndarray"], names: Mapping[int, str]) -> list[dict[str, Any]]:
    """The classes found, the largest first, each with its share of the pixels of all maps together."""
    from ..inference.pictures import class_shares

    shares = class_shares(label_maps, len(names))
    found = [int(index) for index in shares.argsort()[::-1] if shares[index] > 0]
    return [{"index": index, "label": names[index], "share": float(shares[index])} for index in found]


def print_shares(
    label_maps: Sequence["np.ndarray"], names: Mapping[int, str], palette: "np.ndarray", *, to_stderr: bool
) -> None:
    """A table of the classes found."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "class", title=f"{len(label_maps)} image{'s' * (len(label_maps) > 1)}", title_justify="left")
    table.add_column("share of pixels", justify="right")
    for found in shares_of(label_maps, names):
        colour = "#" + palette[found["index"]].tobytes().hex()
        table.add_row(Text("██", style=colour), Text(found["label"]), f"{found['share']:.1%}")
    Console(stderr=to_stderr).print(table)
