"""The log of a run: its lines, and how a run that was killed continues it."""

import json

import pytest

pytest.importorskip("accelerate", reason="the train extra is not installed")

from hf_privseg.training.log import TrainingLog

EPOCH = {"epoch": 1, "step": 2, "loss": 0.75, "mean_iou": 0.5}
ROWS = [{"step": 1, "loss": 1.0, "lr": 0.1}, {"step": 2, "loss": 0.5, "lr": 0.05}, EPOCH]


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def start(path, step=0, history=(), writes=True):
    return TrainingLog(path, {"step": step, "history": list(history)}, writes=writes)


def test_a_new_run_starts_an_empty_log_in_a_new_folder(tmp_path):
    log = start(tmp_path / "new" / "log.jsonl")
    for row in ROWS:
        log.add(row)
    assert read(tmp_path / "new" / "log.jsonl") == ROWS
    start(tmp_path / "new" / "log.jsonl")
    assert read(tmp_path / "new" / "log.jsonl") == []


@pytest.mark.parametrize(
    ("step", "history", "kept"),
    [(1, [], ROWS[:1]), (2, [], ROWS[:2]), (2, [EPOCH], ROWS)],
    ids=["in the epoch", "before its evaluation was kept", "after the epoch"],
)
def test_lines_after_the_last_checkpoint_are_removed(tmp_path, step, history, kept):
    path = tmp_path / "log.jsonl"
    log = start(path)
    for row in ROWS:
        log.add(row)
    with path.open("a") as file:
        file.write('{"step": 3, "lo')  # the kill
    start(path, step, history).add({"step": 9})
    assert read(path) == [*kept, {"step": 9}]


def test_one_process_writes(tmp_path):
    start(tmp_path / "log.jsonl", writes=False).add(ROWS[0])
    assert not (tmp_path / "log.jsonl").exists()
