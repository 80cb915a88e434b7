"""Tables of an experiment are written in four forms, each with what made them."""

import csv
import json

from hf_privseg.experiments.tables import ResultTable, write_tables
from hf_privseg.reporting.provenance import provenance, provenance_in_words

TABLES = [ResultTable("First", ("a", "b"), [("1", "x,y"), ("2", "z")]), ResultTable("Second", ("c",), [("3",)])]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_table_is_there_in_every_form(tmp_path):
    runs = [provenance() | {"date": date, "command": f"python {date}"} for date in ("D1", "D2")]
    path = tmp_path / "new" / "found.md"
    write_tables(path, TABLES, ["a note"], runs=runs)
    words = [provenance_in_words(run) for run in runs]
    assert {each.name for each in path.parent.iterdir()} == {
        "found.md", "found.tex", "found.json", "found.csv", "found-2.csv",
    }  # fmt: skip
    notes = ["a note", *words, "made by: python D1", "made by: python D2"]
    assert path.read_text().endswith("".join(f"- {note}\n" for note in notes))
    assert path.read_text().startswith("First:\n\n| a | b |\n| --- | --- |\n| 1 | x,y |")
    latex = path.with_suffix(".tex").read_text()
    assert latex.count(r"\toprule") == 2
    assert latex.endswith("".join(f"% {note}\n" for note in notes))
    assert rows_of(path.with_suffix(".csv")) == [{"a": "1", "b": "x,y"}, {"a": "2", "b": "z"}]
    assert rows_of(path.with_name("found-2.csv")) == [{"c": "3"}]
    found = json.loads(path.with_suffix(".json").read_text())
    assert found["tables"][1] == {"title": "Second", "header": ["c"], "rows": [["3"]]}
    assert found["notes"] == ["a note"]
    assert found["runs"] == runs


def test_without_runs_it_is_this_one_and_forms_can_be_chosen(tmp_path):
    write_tables(tmp_path / "found.md", TABLES, forms=(".md",))
    assert [each.name for each in tmp_path.iterdir()] == ["found.md"]
    assert f"made by: {provenance()['command']}" in (tmp_path / "found.md").read_text()
