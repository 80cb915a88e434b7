"""How the commands of `privseg` give their results: text for people, JSON for programs, and the names of files.

Standard output carries results alone, as text or as one JSON object. Progress, warnings and errors go to standard
error. Nothing that exists is overwritten without `--force`.
"""

import json
import os
from collections.abc import Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import numpy as np

    from ..setr.encryption_key import EncryptionKey

# An --output that ends like this means a file, which must then have the ending of what is written.
_FILE_ENDINGS = (".png", ".safetensors", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".npy")


def report(facts: Mapping[str, object], *lines: str, as_json: bool) -> None:
    """Print the result of a command: `lines` on standard output, or with `as_json` the facts there as one JSON object.

    Args:
        facts: values that JSON has, and paths.
        lines: the same for people, and what to do next. With `as_json` they go to standard error.
        as_json: whether `--json` was given.
    """
    for line in lines:
        typer.echo(line, err=as_json)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, default=str))


def output_paths(images: Sequence[Path], output: Path, ending: str) -> list[Path]:
    """Where the result of each image goes: `output` itself if it is named like a file, else `output`/NAME`ending`.

    Raises:
        ValueError: several images and one file, a file of another ending, or two images of the same name.
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
        return [output]
    paths = [output / f"{image.stem.removesuffix('.encrypted')}{ending}" for image in images]
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise ValueError(f"several images would become {twice}; give images of different names, or one at a time")
    return paths


def prepare_output(paths: Sequence[Path], *, force: bool, skip_existing: bool | None = None) -> None:
    """Make the folders of the paths, and refuse paths that exist.

    Args:
        paths: the files of the results.
        force: whether they may exist, to be overwritten.
        skip_existing: whether they may exist, to be kept; None for a command that keeps none.

    Raises:
        FileExistsError: names the first path that exists.
        typer.BadParameter: both are asked for.
    """
    if force and skip_existing:
        raise typer.BadParameter("--force makes existing results again, --skip-existing keeps them; give one of both")
    existing = [] if force or skip_existing else [path for path in paths if path.exists()]
    if existing:
        ways = "or overwrite it with --force"
        if skip_existing is not None:
            ways = "overwrite it with --force, or keep it with --skip-existing"
        raise FileExistsError(f"{existing[0]} exists; choose another --output, {ways}")
    for folder in {path.parent for path in paths}:
        folder.mkdir(parents=True, exist_ok=True)


def readable_by() -> str:
    """Who may read what was just written for its owner alone, as the system keeps it."""
    if os.name == "posix":
        return "readable by you alone"
    return "readable by whoever may open its folder, since this system has no file modes"


def write_secret(secret: "EncryptionKey", path: Path, *, force: bool) -> None:
    """Write a key or client embedding to its file; raise FileExistsError where one exists and `force` is False."""
    try:
        secret.to_file(path, overwrite=force)
    except FileExistsError:
        raise _existing_secret(path) from None


def refuse_existing_secret(path: Path, *, force: bool) -> None:
    """Raise what `write_secret` would raise, before the work whose result it is to write."""
    if path.exists() and not force:
        raise _existing_secret(path)


def _existing_secret(path: Path) -> FileExistsError:
    return FileExistsError(
        f"{path} exists, and whatever was encrypted with a key that it holds would be lost with it; choose another "
        "path, or overwrite it with --force"
    )


def wrote(paths: Sequence[Path], num_skipped: int) -> str:
    """What a job did, in a sentence or two: the path or folder of what it wrote, and how many images it skipped."""
    sentences = []
    if paths:
        name = str(paths[0]) if len(paths) == 1 else f"{len(paths)} files in {paths[0].parent}"
        sentences.append(f"Wrote {name}.")
    if num_skipped:
        what = "1 image whose result exists" if num_skipped == 1 else f"{num_skipped} images whose results exist"
        sentences.append(f"Skipped {what}.")
    return " ".join(sentences)


def free_folder(name: str) -> str:
    """A folder's name for the next command, which makes it: `name`, or with a number where that exists."""
    names = (f"{name}_{number}" for number in count(2))
    return next(each for each in chain([name], names) if not Path(each).exists())


def shares_of(counts: "np.ndarray", num_pixels: int, names: Mapping[int, str]) -> list[dict[str, int | str | float]]:
    """(num_labels,) pixels of each class -> the classes found, the largest first, with their shares of all pixels."""
    order = counts.argsort(kind="stable")[::-1]
    found = [int(index) for index in order if counts[index] > 0]
    return [{"index": index, "label": names[index], "share": float(counts[index] / num_pixels)} for index in found]


def print_shares(
    counts: "np.ndarray",
    num_pixels: int,
    names: Mapping[int, str],
    *,
    title: str,
    palette: "np.ndarray | None",
    to_stderr: bool,
) -> None:
    """Print a table of the classes found in all images together.

    Args:
        counts: (num_labels,) pixels of each class.
        num_pixels: of all images.
        names: class -> its name.
        title: of the table.
        palette: (num_labels, 3) uint8, a colour for each class; None where pictures have other colours.
        to_stderr: whether the table goes to standard error.
    """
    from rich.table import Table
    from rich.text import Text

    from ..reporting.tables import terminal

    table = Table("", "class", title=title, title_justify="left")
    table.add_column("share of pixels", justify="right")
    for each in shares_of(counts, num_pixels, names):
        index = int(each["index"])
        block = Text("") if palette is None else Text("██", style=f"#{palette[index].tobytes().hex()}")
        table.add_row(block, names[index], f"{each['share']:.1%}")
    terminal(stderr=to_stderr).print(table)
