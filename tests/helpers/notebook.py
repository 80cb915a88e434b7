"""Runs a notebook. As a program, `python tests/helpers/notebook.py NOTEBOOK` writes its outputs into the file."""

import os
import sys
import tempfile
from typing import Any

import nbclient
import nbformat

_QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "PYTHONWARNINGS": "ignore", "TRANSFORMERS_VERBOSITY": "error"}


def executed(notebook: Any) -> Any:
    """The notebook, run in an empty folder: its results, without progress bars, and pictures as JPEG alone."""
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            notebook, timeout=300, record_timing=False, resources={"metadata": {"path": folder}}
        )
        client.execute(env={**os.environ, **_QUIET})
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                if "image/jpeg" in output.get("data", {}):
                    output["data"].pop("image/png", None)
    notebook.metadata["language_info"] = {"name": "python"}  # not the version of this machine
    return notebook


if __name__ == "__main__":
    for name in sys.argv[1:]:
        nbformat.write(executed(nbformat.read(name, as_version=4)), name)
