"""Checkpoints of a training run, from which the run goes on after it was killed."""

import json
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ..setr.files import publish_folder

_NAME = re.compile(r"step_(\d+)")


def save_checkpoint(accelerator: Accelerator, folder: Path, progress: dict, *, keep: int = 2) -> None:
    """Write model, optimizer, scheduler, random states and `progress` to `folder/step_<n>`, as a whole or not at all.

    Every process of the run calls this function.

    Args:
        accelerator: the one that prepared the run.
        folder: of the run's checkpoints.
        progress: JSON values; `progress["step"]` is the number of the checkpoint.
        keep: how many of the newest checkpoints stay.
    """
    # All processes write into one folder and must agree on its name; `new_folder` would draw a name in each of them.
    final = folder / f"step_{progress['step']}"
    unfinished = folder / f"unfinished_{progress['step']}"
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (unfinished / "progress.json").write_text(json.dumps(progress))
        publish_folder(unfinished, final, overwrite=True)
        for old in _checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def latest_progress(folder: Path) -> dict | None:
    """The progress of the newest checkpoint of `folder`; None if there is none."""
    checkpoints = _checkpoints(folder)
    return json.loads((checkpoints[-1] / "progress.json").read_text()) if checkpoints else None


def load_latest_checkpoint(accelerator: Accelerator, folder: Path) -> dict | None:
    """Load the newest checkpoint of `folder` into the prepared objects -> its progress; None if there is none."""
    checkpoints = _checkpoints(folder)
    if checkpoints:
        accelerator.load_state(str(checkpoints[-1]))
        accelerator.step = 0  # a checkpoint lies between two updates: the next one begins to accumulate
    return latest_progress(folder)


def check_same_options(progress: dict, options: Mapping[str, object], folder: Path) -> None:
    """Refuse to go on with a run under other options, and have `progress` hold those of a run that begins.

    Args:
        progress: of the run; one of an earlier version holds no options.
        options: JSON values of the options that make a run what it is.
        folder: of its output, for the message.

    Raises:
        ValueError: says which options differ.
    """
    known = progress.setdefault("options", dict(options))
    differing = [name for name in sorted(options) if known.get(name, options[name]) != options[name]]
    if differing:
        what = "; ".join(
            f"--{name.replace('_', '-')}: {known[name]!r:.120} there, {options[name]!r:.120} now" for name in differing
        )
        raise ValueError(
            f"{folder} holds a training with other options ({what}); go on with those, or choose another --output-dir"
        )


def check_folder_is_shared(accelerator: Accelerator, folder: Path) -> None:
    """Make sure that all processes of a run, which may be on several nodes, write into one folder, and make it.

    Raises:
        ValueError: in every process, if one of them does not see what the first one writes.
    """
    (token,) = broadcast_object_list([secrets.token_hex(8)])
    mark = folder / f".{token}.tmp"
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        mark.touch()
    accelerator.wait_for_everyone()
    sees = gather_object([mark.exists()])
    if accelerator.is_main_process:
        mark.unlink()
    if not all(sees):
        raise ValueError(
            f"expected an output folder that all nodes share, got {folder}, in which {sees.count(False)} of "
            f"{len(sees)} processes do not see the files of the first; use a folder on a file system of all nodes"
        )


def _checkpoints(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step_*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))
