"""Checkpoints of a training run: written as a whole or not at all, so that a run may be killed at any moment."""

import json
import re
import shutil
from pathlib import Path

from accelerate import Accelerator

_NAME = re.compile(r"step_(\d+)")


def save_checkpoint(accelerator: Accelerator, folder: Path, progress: dict, *, keep: int = 2) -> None:
    """Writes model, optimizer, scheduler, random states and `progress` to `folder/step_<n>`; keeps the newest `keep`.

    Args:
        accelerator: what the run was prepared with. Every process calls this.
        folder: the run's checkpoints.
        progress: JSON-serialisable; `progress["step"]` numbers the checkpoint.
        keep: how many checkpoints stay.
    """
    final = folder / f"step_{progress['step']}"
    unfinished = folder / f"unfinished_{progress['step']}"
    if accelerator.is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(unfinished))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (unfinished / "progress.json").write_text(json.dumps(progress))
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)
        for old in _checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def load_latest_checkpoint(accelerator: Accelerator, folder: Path) -> dict | None:
    """Restores the newest checkpoint in `folder` into what was prepared; returns its progress, or None without one."""
    checkpoints = _checkpoints(folder)
    if not checkpoints:
        return None
    accelerator.load_state(str(checkpoints[-1]))
    return json.loads((checkpoints[-1] / "progress.json").read_text())


def _checkpoints(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step_*") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")))
