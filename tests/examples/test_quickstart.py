"""The quickstart notebook runs as it stands, and its figures say what its text says."""

import ast
import re

import pytest

from helpers import preloaded
from helpers.paths import EXAMPLES

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
pytest.importorskip("sklearn")

NOTEBOOK = EXAMPLES / "quickstart.ipynb"


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def printed(cell):
    return "".join(output["text"] for output in cell.outputs if output["output_type"] == "stream")


def test_it_is_ten_cells_without_outputs():
    cells = [cell for cell in read().cells if cell.cell_type == "code"]
    assert len(cells) == 10
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)
    for cell in cells:
        ast.parse(cell.source)


@pytest.mark.slow
def test_it_runs_and_holds_what_it_promises(tmp_path, monkeypatch):
    def launch(command, env, cwd=None, **_):
        return preloaded.start("hf_privseg", *command[1:], env=env, cwd=cwd)

    monkeypatch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", launch)
    notebook = read()
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert '{"shortest_edge": 352}' in first.source
    first.source = first.source.replace("352", "176")  # the same in less time
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    texts = [printed(cell) for cell in cells]
    assert "danielbuechele" in texts[0]
    for number in (5, 7, 8):  # ties may fall the other way
        (share,) = re.findall(r"([\d.]+)% of the pixels", texts[number - 1])
        assert float(share) > 99
    without_key = [float(share) for share in re.findall(r"([\d.]+)% of the pixels", texts[5])]
    assert len(without_key) == 2
    assert max(without_key) < 90
    assert "KeyMismatchError: the secret key" in texts[5]
    assert float(texts[8].rpartition(" ")[2]) < 1e-6
    (decibels,) = re.findall(r"without the key at ([\d.]+) dB", texts[9])
    assert float(decibels) > 15
    pictures = [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in cells]
    assert pictures == [1, 1, 0, 1, 1, 0, 0, 0, 0, 1]
    assert not re.search(r"privseg1\.\w+\.[\w-]{8}", nbformat.writes(notebook))
