"""The Space: hf_privseg's service with the embedded public model, or with the one that PRIVSEG_MODEL names.

Beside this file lies the package as a wheel, where `make space` assembled the folder; a Space installs only what
requirements.txt names, so that the wheel is unpacked here. In a checkout the installed package is used.
"""

import os
import sys
import tempfile
import zipfile
from pathlib import Path

for wheel in Path(__file__).parent.glob("hf_privseg-*.whl"):
    unpacked = tempfile.TemporaryDirectory(prefix="hf_privseg-")  # removed when the process ends
    zipfile.ZipFile(wheel).extractall(unpacked.name)
    sys.path.insert(0, unpacked.name)

from hf_privseg.service.server import Settings, serve  # noqa: E402 - it may be in the wheel

if __name__ == "__main__":
    serve(
        Settings(
            model=os.environ.get("PRIVSEG_MODEL", "default"),
            host=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"),
            port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
        )
    )
