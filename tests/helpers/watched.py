"""An operation that says which processes decode and which encrypt; in a file that workers of Ray can import."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from hf_privseg.batch.encryption import Encrypt


@dataclass(frozen=True)
class Watched(Encrypt):
    """Encryption that leaves an empty file `decode-PID` or `work-PID` for each of its processes.

    It stands still while there is a file `hold`.

    Args:
        folder: where the files go.
        pause: seconds that an image takes longer.
    """

    folder: str = ""
    pause: float = 0.0

    def decode(self, name, content):
        """Decode an image."""
        Path(self.folder, f"decode-{os.getpid()}").touch()
        return super().decode(name, content)

    def work(self):
        """Read the key."""
        Path(self.folder, f"work-{os.getpid()}").touch()
        work = super().work()

        def slow(values):
            time.sleep(self.pause * len(values))
            while Path(self.folder, "hold").exists():
                time.sleep(0.05)
            return work(values)

        return slow
