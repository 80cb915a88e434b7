"""An operation that kills its process; in a file without heavy imports, since every worker imports it."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from hf_privseg.batch.encryption import Encrypt


@dataclass(frozen=True)
class Deadly(Encrypt):
    """Encryption whose process dies at one image: once, while the file `until` exists, or always.

    Args:
        image: what the image's name begins with.
        until: path of the file.
    """

    image: str = "005"
    until: str | None = None

    def decode(self, name, content):
        """Decode an image, or die."""
        if name.startswith(self.image) and (self.until is None or Path(self.until).exists()):
            if self.until is not None:
                Path(self.until).unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().decode(name, content)
