"""Deletes uploads and answers in time, whether anybody fetched them or not.

Gradio can delete the files of an app by itself (`delete_cache`), but walks through its sets of them while uploads add
to them, ends for good when that fails, leaves their folders, and never forgets a file that somebody else deleted.
"""

import os
import threading
import time
from pathlib import Path
from typing import Any

from gradio.utils import get_upload_folder


def delete_old_files(app: Any, seconds_kept: float) -> None:
    """Deletes what a Gradio app (`gr.Blocks`) has stored for so long, and the folders that this leaves empty."""
    oldest = time.time() - seconds_kept
    for files in app.temp_file_sets:
        for name in list(files):  # a copy: requests add to the set meanwhile
            file = Path(name)
            try:
                if _last_change(file) > oldest:
                    continue
                file.unlink(missing_ok=True)
            except OSError:  # cannot be deleted now: the others are not to wait for it
                continue
            _remove_empty_folders(file)
            files.discard(name)


class Cleanup(threading.Thread):
    """Calls `delete_old_files` again and again, from `start()` until the app is closed.

    Args:
        app: not launched yet.
        seconds_kept: how long files stay.
        interval: seconds between two calls.
    """

    def __init__(self, app: Any, *, seconds_kept: float, interval: float) -> None:
        super().__init__(name="privseg-cleanup", daemon=True)
        self._app, self._seconds_kept, self._interval = app, seconds_kept, interval

    def run(self) -> None:
        """What `start` does, in a thread."""
        was_running = False
        while self._app.is_running or not was_running:
            was_running = was_running or self._app.is_running
            time.sleep(self._interval)
            delete_old_files(self._app, self._seconds_kept)


def _last_change(file: Path) -> float:
    """Of a file or, where it was deleted, of its folder; 0 where that is gone as well."""
    for path in (file, file.parent):
        try:
            return os.lstat(path).st_ctime
        except FileNotFoundError:
            continue
    return 0.0


def _remove_empty_folders(file: Path) -> None:
    """The folders of a deleted file, below that of all uploads."""
    root = Path(get_upload_folder()).resolve()
    for folder in file.resolve().parents:
        if root not in folder.parents:
            return
        try:
            folder.rmdir()
        except OSError:  # something is in it, or somebody was faster
            return
