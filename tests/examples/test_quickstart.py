"""The quickstart notebook is committed with the outputs of its code, which runs as it stands and does what it says."""

import email
import re
from functools import cache

import pytest

from helpers.paths import EXAMPLES, ROOT

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")
pytest.importorskip("sklearn")

NOTEBOOK = EXAMPLES / "quickstart.ipynb"
PICTURES = [1, 1, 0, 1, 1, 0, 0, 0, 0, 1]  # of each cell


def cells_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@cache
def committed():
    return cells_of(nbformat.read(NOTEBOOK, as_version=4))


def printed(cell):
    return "".join(output["text"] for output in cell.outputs if output["output_type"] == "stream")


def without_figures(cell):
    """What a cell prints, with fingerprints and numbers blotted out: they differ from key to key."""
    return re.sub(r"[0-9a-f]{16}|\d+(\.\d+)?(e-\d+)?", "N", printed(cell))


def without_pictures(text):
    return re.sub(r'"image/jpeg": "[^"]*"', "", text)


def check_outputs(cells):
    """What the text of the notebook promises of its outputs."""
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
    shown = [sum("image/jpeg" in output.get("data", {}) for output in cell.outputs) for cell in cells]
    assert shown == PICTURES


def test_the_committed_notebook_has_been_run_from_its_first_cell_to_its_last():
    assert [cell.execution_count for cell in committed()] == list(range(1, 11))
    check_outputs(committed())
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert not re.search(r"privseg1\.\w+\.[\w-]{8}", text)
    assert str(ROOT) not in text
    assert not [path for path in ("/tmp/", "/home/", "/root/", "site-packages") if path in without_pictures(text)]
    assert len(text) < 400_000


@pytest.mark.parametrize(
    ("urls", "expected"),
    [
        ("Paper, https://doi.org/10.3390/jimaging8090233", None),
        ("Code, https://example.org/github.com/a/b", None),
        ("Code, https://github.com/someone/hf-privseg.git", "someone/hf-privseg"),
        ("Issues, https://github.com/some-one/x/issues", "some-one/x"),
    ],
)
def test_a_link_to_colab_is_there_where_the_metadata_name_a_repository(monkeypatch, urls, expected):
    from helpers.notebook import with_badge
    from hf_privseg.reporting import project_urls

    monkeypatch.setattr(project_urls, "metadata", lambda name: email.message_from_string(f"Project-URL: {urls}\n"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    before = notebook.cells[0].source
    for _ in range(2):  # once, however often it is run
        added = with_badge(notebook, "examples/quickstart.ipynb").cells[0].source.removeprefix(before)
    if expected is None:
        assert added == ""
    else:
        address = f"https://colab.research.google.com/github/{expected}/blob/main/examples/quickstart.ipynb"
        assert added == (
            f"\n\n[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({address})"
        )


@pytest.mark.slow
def test_it_runs_and_its_outputs_are_the_committed_ones_up_to_the_figures():
    from helpers.notebook import executed

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    first = cells_of(notebook)[0]
    assert '{"shortest_edge": 352}' in first.source
    first.source = first.source.replace("352", "176")  # the same in less time
    cells = cells_of(executed(notebook))
    check_outputs(cells)
    assert [without_figures(cell) for cell in cells] == [without_figures(cell) for cell in committed()]
