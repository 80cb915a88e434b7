"""The benchmarks of speed run from end to end on tiny models, and print what they found."""

import importlib

import pytest
import torch
from costs import flops_of, peak_bytes
from interleaved import interleaved, ratio

from helpers.paths import ROOT

PEER = ROOT / "build/mmseg/bin/python"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a benchmark with options -> the table that it wrote, as lines of cells."""

    def run(name, *options):
        output = tmp_path / "out" / "table.md"
        monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, options), "--output", str(output)])
        importlib.import_module(name).main()
        text = output.read_text()
        return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")], text

    return run


def test_what_is_compared_runs_in_turns_and_a_first_turn_does_not_count():
    order = []

    def taking(name, *seconds):
        left = iter(seconds)

        def run():
            order.append(name)
            return next(left)

        return run

    found = interleaved({"a": taking("a", 9.0, 1.0, 2.0, 4.0), "b": taking("b", 9.0, 2.0, 6.0, 8.0)}, 3)
    assert order == ["a", "b", "b", "a"] * 2
    assert found == {"a": [1.0, 2.0, 4.0], "b": [2.0, 6.0, 8.0]}
    assert ratio(found["a"], found["b"]) == 2.0


@pytest.mark.slow
def test_without_mmsegmentation_ours_is_timed_alone_and_each_means_by_itself(run):
    rows, text = run("mmseg", "--encoders", "tiny", "--size", 64, "--rounds", 1, "--peer", "nowhere/python", "--means")
    assert "mmsegmentation is skipped: there is no nowhere/python" in text
    times = [row for row in rows if row[0] == "tiny" and len(row) == 12]
    assert [row[1] for row in times] == ["naive", "pup", "mla"]
    assert all(row[2] == row[4] == "-" and float(row[3]) > 0 for row in times)
    means = [row for row in rows if row[0] == "tiny" and len(row) == 10]
    assert len(means) == 6
    assert all(float(cell) > 0 for row in means for cell in row[3:])


@pytest.mark.slow
@pytest.mark.skipif(not PEER.exists(), reason="benchmarks/mmseg.py says how to make build/mmseg")
def test_mmsegmentation_gives_the_same_logits(run):
    rows, text = run("mmseg", "--encoders", "tiny", "--size", 64, "--rounds", 1, "--peer", PEER)
    assert "mmseg 1.2.2" in text
    assert all(float(row[10]) < 2e-5 for row in rows if row[0] == "tiny")


def test_peak_memory_and_operations_are_those_of_what_runs():
    ones = torch.ones(256, 128)

    def run():
        (ones + 1).relu_().sum()
        return ones @ ones.T

    assert flops_of(run) == 2 * 256 * 128 * 256
    assert 256 * 256 * 4 <= peak_bytes(run) < 256 * 256 * 4 + 1024


@pytest.mark.slow
def test_overhead_of_encryption(run):
    rows, _ = run("overhead", "--encoder", "tiny", "--size", 64, "--rounds", 2, "--families", "orthogonal", "matrix")
    assert [row[:2] for row in rows[2:]] == [
        [decoder, family] for decoder in ("naive", "pup", "mla") for family in ("orthogonal", "matrix")
    ]
    assert all(0.2 < float(row[-1]) < 5 for row in rows[2:])
