"""Training over two nodes: the losses of one node, and what happens when a process or a node is killed."""

import json
import os
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

pytest.importorskip("accelerate", reason="the train extra is not installed")

from helpers import preloaded
from helpers.example_runs import PRIVSEG, run
from helpers.namespaces import Node, two_nodes
from helpers.paths import ROOT
from hf_privseg.training.loop import keep_images_per_update

UPDATES = 20
STATIC = ["accelerate.commands.launch", "--multi_gpu", "--num_machines", "2", "--num_processes", "2"]
ELASTIC = ["torch.distributed.run", "--nproc_per_node", "1", "--max-restarts", "3", "--rdzv-backend", "c10d"]
QUICK = "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=3"  # to notice what happens


@pytest.fixture(scope="module")
def nodes():
    with two_nodes() as found:
        yield found


def options(inputs, output, *extra):
    settings = ["--crop-size", 32, "--batch-size", 2, "--num-workers", 0, "--epochs", 5, "--checkpoint-every", 1]
    settings += ["--eval-every", 9, "--learning-rate", 1e-3, "--drop-path-rate", 0, "--cpu"]
    paths = ["--dataset", inputs / "data", "--vit", inputs / "vit", "--output-dir", output]
    return list(map(str, ["train", *paths, *settings, *extra]))


def launched(node: Node, log, *words):
    """A launcher as a node starts it; what it says goes to the end of the file `log`."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}
    environment |= {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": node.interface}
    environment |= {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # or a node that comes later waits in vain
    with log.open("a") as file:
        command = [*node.prefix, sys.executable, "-m", *words]
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return str(probe.getsockname()[1])


def rows(output):
    return [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]


def losses(output):
    return {row["step"]: row["loss"] for row in rows(output) if "epoch" not in row}


@pytest.fixture(scope="module")
def one_node(inputs, tmp_path_factory):
    """The output of one node's two processes that nobody kills."""
    output = tmp_path_factory.mktemp("one") / "out"
    done = run(PRIVSEG, *options(inputs, output), processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(losses(output)) == UPDATES
    return output


@pytest.mark.slow
def test_two_nodes_have_the_losses_of_one(nodes, inputs, one_node, tmp_path):
    place = ["--main_process_ip", nodes[0].address, "--main_process_port", free_port()]
    given = ["-m", "hf_privseg.cli", *options(inputs, tmp_path / "out")]
    machines = [
        launched(node, tmp_path / f"{rank}.log", *STATIC, "--machine_rank", str(rank), *place, *given)
        for rank, node in enumerate(nodes)
    ]
    assert [machine.wait(200) for machine in machines] == [0, 0], (tmp_path / "0.log").read_text()[-3000:]
    assert losses(tmp_path / "out") == pytest.approx(losses(one_node), rel=1e-6)
    expected, found = (load_file(folder / "model.safetensors") for folder in (one_node, tmp_path / "out"))
    assert all((found[name] - value).abs().max() < 1e-3 for name, value in expected.items())


def children(process):
    """The processes that a launcher has started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return list(map(int, found.stdout.split()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "what"),
    [("2", "process"), ("2", "node, replaced"), ("1:2", "node")],
    ids=["process", "node", "lost node"],
)
def test_a_killed_process_or_node_costs_no_update(nodes, inputs, one_node, tmp_path, number, what):
    """A lost node's part is done by the one that stays, with the gradients of twice as many batches."""
    port, output = free_port(), tmp_path / "out"

    def start(index):
        node = nodes[index]
        place = ["--rdzv-endpoint", f"{nodes[0].address}:{port}", "--local-addr", node.address, "--nnodes", number]
        place += ["--rdzv-conf", f"{QUICK},is_host={index == 0}"]
        given = ["-m", "hf_privseg.cli", *options(inputs, output)]
        return launched(node, tmp_path / f"{index}.log", *ELASTIC, *place, *given)

    machines = [start(0), start(1)]
    deadline = time.monotonic() + 200
    while not list(output.glob("checkpoints/step_*")):
        assert time.monotonic() < deadline, (tmp_path / "0.log").read_text()[-3000:]
        time.sleep(0.01)
    workers = children(machines[1])
    assert len(workers) == 1
    if what != "process":
        machines[1].kill()
    for worker in workers:
        os.kill(worker, 9)
    assert not (output / "training.json").exists(), "the kill was too late to show anything"
    if what == "node, replaced":
        machines[1].wait()
        machines[1] = start(1)
    ended = [machine.wait(200) for machine in machines]
    assert ended == [0, -9 if what == "node" else 0], (tmp_path / "0.log").read_text()[-3000:]
    assert losses(output) == pytest.approx(losses(one_node), rel=1e-3)
    assert json.loads((output / "training.json").read_text())["processes"] == (1 if what == "node" else 2)


@pytest.mark.slow
def test_processes_that_share_no_folder_are_told(inputs, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    logs = [tmp_path / f"{rank}.log" for rank in (0, 1)]
    started = []
    for rank, log in enumerate(logs):
        with log.open("w") as file:
            words = ["-m", "hf_privseg.cli", *options(inputs, tmp_path / f"out{rank}")]
            given = environment | {"RANK": str(rank)}
            started.append(preloaded.start("training", *words, env=given, stdout=file, stderr=file))
    assert [process.wait(200) for process in started] == [1, 1]
    for log in logs:
        assert "expected an output folder that all nodes share" in log.read_text()
        assert "1 of 2 processes do not see" in log.read_text()


def test_fewer_processes_accumulate_more_batches():
    progress = {"processes": 4, "last_processes": 4, "batches": 6, "loss_sum": 9.0}
    pair = SimpleNamespace(num_processes=2, gradient_accumulation_steps=3)
    keep_images_per_update(pair, progress)
    assert pair.gradient_accumulation_steps == 6
    assert progress == {"processes": 4, "last_processes": 2, "batches": 12, "loss_sum": 18.0}
    again = SimpleNamespace(num_processes=4, gradient_accumulation_steps=3)
    keep_images_per_update(again, progress)
    assert again.gradient_accumulation_steps == 3
    assert progress == {"processes": 4, "last_processes": 4, "batches": 6, "loss_sum": 9.0}
    with pytest.raises(ValueError, match=r"divides 12, the batches of each update .* got 5; go on with 4"):
        keep_images_per_update(SimpleNamespace(num_processes=5, gradient_accumulation_steps=3), progress)
