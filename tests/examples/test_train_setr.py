"""The training script, run for real on generated images: one process, two processes, killed and resumed."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors.torch import load_file

pytest.importorskip("accelerate", reason="the train extra is not installed")

from helpers import preloaded
from helpers.example_runs import run, run_here, run_in
from helpers.paths import EXAMPLES
from hf_privseg import SecretKey, SetrForSemanticSegmentation, SetrImageProcessor

SCRIPT = EXAMPLES / "train_setr.py"
SETTINGS = {
    "--crop_size": "32",
    "--epochs": "2",
    "--batch_size": "2",
    "--checkpoint_every": "1",
    "--eval_every": "1",
    "--warmup_steps": "1",
    "--num_workers": "0",
    "--learning_rate": "1e-3",
    "--drop_path_rate": "0.5",
}


def options(inputs: Path, output: Path, *extra: str) -> list[str]:
    settings = [part for option in SETTINGS.items() for part in option]
    paths = ["--output_dir", str(output)] + ([] if "--dataset" in extra else ["--dataset", str(inputs / "data")])
    start = [] if "--checkpoint" in extra else ["--vit", str(inputs / "vit")]
    return [*paths, *start, *settings, "--cpu", *extra]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def train(inputs: Path, output: Path, *extra: str) -> subprocess.CompletedProcess:
    """Runs the script to its end in this process, which has the libraries loaded already."""
    return run_here(SCRIPT.name, *options(inputs, output, *extra))


def train_and_kill(checkpoint: str, inputs: Path, output: Path, processes: int, *extra: str) -> None:
    """Starts a run and kills all of its processes, without a warning, once it has written this checkpoint."""
    deadline = time.monotonic() + 300

    def is_written() -> bool:
        time.sleep(0.005)
        return (output / "checkpoints" / checkpoint).exists() or time.monotonic() > deadline

    given = options(inputs, output, *extra)
    killed = run(SCRIPT.name, *given, processes=processes, until=is_written)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert not (output / "training.json").exists(), "the run was killed too late to show anything"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "steps", "extra"),
    [
        (1, [8, 16], ()),
        (2, [4, 8], ()),
        (2, [4, 8, 10], ("--streaming", "--shuffle_buffer", "4", "--max_steps", "10")),
    ],
    ids=["one process", "two processes", "two processes, streaming"],
)
def test_a_killed_run_ends_as_an_uninterrupted_one(inputs, tmp_path, processes, steps, extra):
    whole = run(SCRIPT.name, *options(inputs, tmp_path / "whole", *extra), processes=processes)
    assert whole.returncode == 0, whole.stderr[-3000:]
    # two updates into the first epoch, which has 8 (or, by two processes, 4)
    train_and_kill("step_2", inputs, tmp_path / "killed", processes, *extra)
    resumed = run(SCRIPT.name, *options(inputs, tmp_path / "killed", *extra), processes=processes)
    assert resumed.returncode == 0, resumed.stderr[-3000:]

    records = [json.loads((tmp_path / name / "training.json").read_text()) for name in ("whole", "killed")]
    assert records[0]["processes"] == processes
    assert [row["step"] for row in records[0]["history"]] == steps
    assert records[0]["history"] == records[1]["history"]
    assert [len(record["runs"]) for record in records] == [1, 2]
    assert len({run["data"] for record in records for run in record["runs"]}) == 1
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed")]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--streaming",), "give --max-steps, the number of updates"),
        (("--batch_size", "17"), "train gave no batch of 17 images"),
    ],
    ids=["streaming without an end", "batch larger than the data"],
)
def test_what_could_not_end_is_refused(inputs, tmp_path, extra, message):
    run = train(inputs, tmp_path, *extra)
    assert run.returncode != 0
    assert message in run.stderr


def test_the_logged_loss_of_an_update_is_the_mean_of_its_batches(inputs, tmp_path):
    run = train(inputs, tmp_path, "--gradient_accumulation_steps", "4", "--epochs", "1", "--eval_every", "9")
    assert run.returncode == 0, run.stderr[-3000:]
    *updates, epoch = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in updates] == [1, 2]  # 8 batches, 4 an update
    assert sum(row["loss"] for row in updates) / 2 == pytest.approx(epoch["loss"], rel=1e-6)
    assert updates[0]["lr"] > updates[1]["lr"] == 0
    assert epoch == json.loads((tmp_path / "training.json").read_text())["history"][0]


def test_masks_of_0_and_255_warn_and_nothing_at_all_is_refused(inputs, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(inputs / "data", data)
    for path in data.glob("annotations/*/*.png"):
        stored = np.array(Image.open(path))
        Image.fromarray(np.where(stored == 1, 255, 0).astype(np.uint8)).save(path)
    (data / "classes.json").write_text('["rest", "thing"]')
    given = ("--dataset", str(data), "--max_steps", "1")
    with pytest.warns(UserWarning, match="of one class, rest, from which a model learns nothing"):
        run = train(inputs, tmp_path / "out", *given)
    assert run.returncode == 0, run.stderr[-3000:]
    (data / "map.json").write_text('{"0": 0, "255": 1}')
    run = train(inputs, tmp_path / "mapped", *given, "--label_map", str(data / "map.json"))
    assert run.returncode == 0, run.stderr[-3000:]
    assert "Classes in 16 images of train" in run.stdout
    shares = re.findall(r"\| (\d) \| (rest|thing) \| ([\d.]+)% \| \d+ \|", (tmp_path / "mapped/README.md").read_text())
    assert [name for _, name, _ in shares] == ["rest", "thing"]
    assert sum(float(share) for *_, share in shares) == pytest.approx(100, abs=0.02)
    run = train(inputs, tmp_path / "none", "--dataset", str(data), "--ignore_labels", "0", "255")
    assert run.returncode == 1
    assert "error: expected labelled pixels, got none in 16 images of train" in run.stderr


@pytest.mark.parametrize("num_channels", [1, 4, 5])
def test_images_of_other_channels_are_trained_on_encrypted_and_segmented(inputs, tmp_path, num_channels):
    for kind in ("images", "annotations"):
        for split in ("train", "val"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 1)):
        for index in range(count):
            labels = np.kron(rng.integers(0, 3, (3, 4)), np.ones((16, 16))).astype(np.uint8)
            pages = [Image.fromarray((labels * (20 + 5 * k)).astype(np.uint8)) for k in range(num_channels)]
            pages[0].save(tmp_path / "data/images" / split / f"{index}.tif", save_all=True, append_images=pages[1:])
            Image.fromarray(labels).save(tmp_path / "data/annotations" / split / f"{index}.png")
    (tmp_path / "data/classes.json").write_text('["a", "b", "c"]')
    given = ("--dataset", str(tmp_path / "data"), "--num_channels", str(num_channels), "--epochs", "1")
    run = train(inputs, tmp_path / "out", *given)
    assert run.returncode == 0, run.stderr[-3000:]
    model = SetrForSemanticSegmentation.from_pretrained(tmp_path / "out").eval()
    processor = SetrImageProcessor.from_pretrained(tmp_path / "out")
    assert model.config.num_channels == processor.num_channels == num_channels
    image, key = str(tmp_path / "data/images/val/0.tif"), SecretKey(bytes(range(32)), "orthogonal")
    with torch.inference_mode():
        plain = model(**processor(image, return_tensors="pt")).logits
        encrypted = model.encrypt_model(key)(**processor(image, secret_key=key, return_tensors="pt")).logits
        wrong = model(**processor(image, return_tensors="pt")).logits
    torch.testing.assert_close(encrypted, plain, atol=1e-3, rtol=1e-3)
    assert (wrong - plain).abs().max() > 20 * (encrypted - plain).abs().max()


@pytest.mark.slow
def test_the_result_loads_and_has_learnt_something(inputs, tmp_path):
    run = train(inputs, tmp_path, "--decoder", "mla", "--epochs", "3", "--checkpoint_every", "100")
    assert run.returncode == 0, run.stderr[-3000:]
    model = SetrForSemanticSegmentation.from_pretrained(tmp_path)
    processor = SetrImageProcessor.from_pretrained(tmp_path)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert model.dtype == torch.float32
    assert load_file(tmp_path / "model.safetensors")["setr.layers.0.mlp.fc1.weight"].dtype == torch.float16
    history = json.loads((tmp_path / "training.json").read_text())["history"]
    assert history[-1]["loss"] < history[0]["loss"]
    assert (tmp_path / "best" / "model.safetensors").exists()
    card = (tmp_path / "README.md").read_text()
    assert "--decoder mla" in card
    assert f"| 3 | {history[-1]['loss']:.4f} | {history[-1]['mean_iou']:.4f} |" in card
    (result,) = ModelCard(card).data.to_dict()["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "mean_iou", "value": round(history[-1]["mean_iou"], 4)}]
    assert list(tmp_path.rglob("events.out.tfevents.*"))
    outputs = model(**processor(Image.new("RGB", (64, 48)), return_tensors="pt"))
    assert outputs.logits.shape[1] == 3


CONFIGS = SCRIPT.parent / "accelerate_configs"


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_accelerate_reads_the_configurations(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(CONFIGS / name))  # refuses unknown fields
    assert config.num_processes % config.num_machines == 0
    assert f"examples/accelerate_configs/{name}" in (CONFIGS / name).read_text()


def launch(config: str, *options: str) -> list[str]:
    return ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config), *options]


# Each command of the list is one machine's; all of them run on this one, on the CPU.
DRY_RUNS = {
    "single_gpu.yaml": (1, [launch("single_gpu.yaml", "--mixed_precision", "no")]),
    "multi_gpu.yaml": (2, [launch("multi_gpu.yaml", "--num_processes", "2", "--mixed_precision", "no")]),
    "fsdp2.yaml": (2, [launch("fsdp2.yaml", "--num_processes", "2", "--mixed_precision", "no")]),
    "multi_node.yaml": (
        2,
        [
            launch(
                "multi_node.yaml", "--num_processes", "2", "--machine_rank", str(rank), "--mixed_precision", "no",
                "--main_process_ip", "127.0.0.1", "--main_process_port", "29677",
            )
            for rank in (0, 1)
        ],
    ),
}  # fmt: skip


def test_each_configuration_has_a_dry_run():
    assert set(DRY_RUNS) == {path.name for path in CONFIGS.glob("*.yaml")}


@pytest.mark.slow
@pytest.mark.parametrize("name", DRY_RUNS)
def test_a_configuration_runs_on_cpu_processes(inputs, tmp_path, name):
    """accelerate launches a script that notes its environment; then the training runs in these environments."""
    processes, launchers = DRY_RUNS[name]
    (tmp_path / "note.py").write_text(
        "import json, os, pathlib\n"
        "path = pathlib.Path(__file__).with_name('rank' + os.environ.get('RANK', '0') + '.json')\n"
        "path.write_text(json.dumps(dict(os.environ)))\n"
    )
    given = environment() | {"ACCELERATE_USE_CPU": "true"}
    machines = [preloaded.start("training", *launcher, tmp_path / "note.py", env=given) for launcher in launchers]
    assert [machine.wait(600) for machine in machines] == [0] * len(machines)
    environments = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("rank*.json"))]
    assert len(environments) == processes
    for each in environments:
        each.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # the store of the launcher, which has ended
    done = run_in(environments, SCRIPT.name, *options(inputs, tmp_path, "--epochs", "1"))
    assert done.returncode == 0, done.stderr[-4000:]
    recipe = json.loads((tmp_path / "training.json").read_text())
    assert recipe["processes"] == processes
    assert SetrForSemanticSegmentation.from_pretrained(tmp_path).config.num_labels == 3


class HubOnLoopback(ThreadingHTTPServer):
    """The four answers that an upload needs; keeps what was asked and what was committed."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubCalls)
        self.created: dict[str, Any] = {}
        self.files: dict[str, bytes] = {}


class HubCalls(BaseHTTPRequestHandler):
    server: HubOnLoopback

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        place = urlsplit(self.path).path.rpartition("/api/")[2]
        answer: dict[str, Any] = {"url": "http://127.0.0.1/owner/name", "warnings": [], "errors": []}
        if place == "repos/create":
            self.server.created = json.loads(body)
        elif "/preupload/" in place:
            answer["files"] = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
        elif "/commit/" in place:
            answer |= {"commitUrl": "http://127.0.0.1/owner/name/commit/1", "commitOid": "1"}
            values = [json.loads(line)["value"] for line in body.splitlines()]
            self.server.files = {
                value["path"]: base64.b64decode(value["content"]) for value in values if "path" in value
            }
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_what_is_published_is_private_and_is_the_final_model(inputs, tmp_path, monkeypatch):
    server = HubOnLoopback()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)
    arguments = options(inputs, tmp_path, "--max_steps", "2", "--push_to_hub", "owner/name")
    online = environment() | {"HF_HUB_OFFLINE": "0"}
    run = preloaded.run("torch", SCRIPT, *arguments, env=online)  # which has not read where the Hub is
    server.shutdown()
    assert run.returncode == 0, run.stderr[-3000:]
    assert (server.created["name"], server.created["organization"]) == ("name", "owner")
    # what it is called depends on the version of huggingface_hub
    assert server.created.get("visibility") == "private" or server.created.get("private") is True
    names = {"README.md", "config.json", "preprocessor_config.json", "model.safetensors"}
    assert set(server.files) == names
    for name in names:
        assert server.files[name] == (tmp_path / name).read_bytes()
    assert str(tmp_path) not in server.files["README.md"].decode()
