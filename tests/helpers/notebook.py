"""Runs a notebook. As a program, `python tests/helpers/notebook.py examples/NOTEBOOK` writes its outputs into
the file, and a link to Colab, where the project's metadata name a GitHub repository.
"""

import os
import re
import sys
import tempfile
from typing import Any

import nbclient
import nbformat

from hf_privseg.reporting.project_urls import project_urls

_BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
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


def with_badge(notebook: Any, path: str) -> Any:
    """The notebook, whose first cell ends with a link to `path` of the project's GitHub repository in Colab."""
    repositories = [re.match(r"https://github\.com/([\w.-]+/[\w-]+)", url) for url in project_urls().values()]
    found = next((match[1] for match in repositories if match), None)
    if found and _BADGE not in notebook.cells[0].source:
        address = f"https://colab.research.google.com/github/{found}/blob/main/{path}"
        notebook.cells[0].source += f"\n\n[![Open in Colab]({_BADGE})]({address})"
    return notebook


if __name__ == "__main__":
    for name in sys.argv[1:]:
        nbformat.write(with_badge(executed(nbformat.read(name, as_version=4)), name), name)
