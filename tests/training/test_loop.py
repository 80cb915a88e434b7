"""Pieces of a training loop: schedules of short runs, and what a pass that goes on leaves alone."""

import pytest
import torch

pytest.importorskip("accelerate", reason="the train extra is not installed")

from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader

from hf_privseg.training.arguments import OptimizationArguments
from hf_privseg.training.loop import WaitingTime, build_scheduler, remaining_batches


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield from ({"x": torch.full((2,), float(index))} for index in range(8))


def test_a_pass_that_goes_on_skips_batches_and_leaves_the_random_state():
    accelerator = Accelerator(cpu=True)
    loader = accelerator.prepare(DataLoader(Stream(), 2))
    whole = [batch["x"][:, 0].tolist() for batch in remaining_batches(accelerator, loader, {"epoch": 0, "batches": 0})]
    assert whole == [[0, 1], [2, 3], [4, 5], [6, 7]]
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    rest = iter(remaining_batches(accelerator, loader, {"epoch": 0, "batches": 2}))
    assert next(rest)["x"][:, 0].tolist() == [4, 5]
    assert torch.equal(torch.rand(3), expected)
    assert [batch["x"][:, 0].tolist() for batch in rest] == [[6, 7]]
    assert list(remaining_batches(accelerator, loader, {"epoch": 0, "batches": 4})) == []


class Rows(torch.utils.data.Dataset):
    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return {"x": self.epoch}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("batches", [0, 1])
def test_the_data_set_learns_of_the_epoch_in_any_number_of_processes(processes, batches):
    loader = prepare_data_loader(
        DataLoader(Rows(), 2, shuffle=True), num_processes=processes, process_index=0, use_seedable_sampler=True
    )
    found = list(remaining_batches(Accelerator(cpu=True), loader, {"epoch": 3, "batches": batches}))
    assert [batch["x"].tolist() for batch in found] == [[3, 3]] * (4 // processes - batches)


@pytest.mark.parametrize(
    ("warmup", "total", "rates"), [(1, 1, [1, 0]), (40, 3, [0, 0.5, 1, 0]), (1, 3, [0, 1, 0.5, 0])]
)
def test_a_run_that_is_shorter_than_its_warm_up_still_ends_at_zero(warmup, total, rates):
    args = OptimizationArguments(learning_rate=1.0, warmup_steps=warmup, power=1.0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_scheduler(optimizer, args, total)
    found = [scheduler.get_last_lr()[0]]
    for _ in range(total):
        optimizer.step()
        scheduler.step()
        found.append(scheduler.get_last_lr()[0])
    assert found == pytest.approx(rates, abs=1e-6)


def test_the_share_of_waiting_is_that_of_the_time_between_batches(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def batches():
        for number in range(3):
            clock[0] += 1  # until the batch is there
            yield number

    waiting, taken = WaitingTime(), []
    assert waiting.share == 0
    for number in waiting.measured(batches()):
        taken.append(number)
        if number == 1:
            assert waiting.share == (1 + 1) / (1 + 3 + 1)
        clock[0] += 3  # of work with it
    assert taken == [0, 1, 2]
    assert waiting.share == 3 / (3 + 9)
