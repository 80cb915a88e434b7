"""`privseg train`: its command line, the command on the model card, random weights, and two processes."""

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("accelerate", reason="the train extra is not installed")

from helpers.paths import ROOT
from hf_privseg import InvalidImageError, SetrForSemanticSegmentation
from hf_privseg.cli.failures import message_of
from hf_privseg.training.arguments import parse_arguments
from hf_privseg.training.checkpoints import check_same_options
from hf_privseg.training.train_arguments import TrainArguments
from hf_privseg.training.trained_model import command_of

BUDGET = ["--crop-size", "32", "--max-steps", "1", "--batch-size", "2", "--num-workers", "0", "--cpu"]
PAGE = ROOT / "docs/how-to/train.md"
CLASSES = re.findall(r"```json\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
COMMANDS = re.search(r"## Your own classes.*?```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


class Damaged(torch.utils.data.Dataset):
    """A data set none of whose images can be read."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise InvalidImageError(f"image {index} cannot be read\nat all") from OSError("why")


def test_an_image_that_a_loading_process_cannot_read_is_one_sentence():
    with pytest.raises(InvalidImageError, match="DataLoader worker") as raised:
        next(iter(torch.utils.data.DataLoader(Damaged(), num_workers=1)))
    assert message_of(raised.value) == "image 0 cannot be read\nat all"


def test_a_run_goes_on_with_its_own_options_alone(tmp_path):
    given = ("--dataset", "data", "--vit", "vit", "--output-dir", "out")
    progress: dict[str, object] = {}
    check_same_options(progress, parsed(*given).definition(), tmp_path)
    progress = json.loads(json.dumps(progress))
    free = ("--cpu", "--num-workers", "3", "--checkpoint-every", "9", "--eval-every", "1", "--hub-private", "False")
    check_same_options(progress, parsed(*given, *free).definition(), tmp_path)
    message = (
        r"holds a training with other options \(--batch-size: 8 there, 3 now; --epochs: 16 there, 2 now; --seed: 0 "
        r"there, 1 now\); go on with those, or choose another --output-dir"
    )
    with pytest.raises(ValueError, match=message):
        check_same_options(
            progress, parsed(*given, "--epochs", "2", "--seed", "1", "--batch-size", "3").definition(), tmp_path
        )
    check_same_options({"step": 1, "options": {}}, parsed(*given).definition(), tmp_path)  # of an earlier version


def parsed(*words):
    return parse_arguments(TrainArguments, description=None, given=words)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The folder of the worked example, with small images of random rectangles."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, names in (("train", ("0001", "0002")), ("val", ("0003",))):
        for kind in ("images", "annotations"):
            Path("data/mine", kind, split).mkdir(parents=True)
        for name in names:
            labels = np.kron(rng.integers(0, 3, (3, 4)), np.ones((16, 16))).astype(np.uint8)
            labels[:4] = 255
            Image.fromarray(np.stack([labels * 90] * 3, axis=-1)).save(f"data/mine/images/{split}/{name}.jpg")
            Image.fromarray(labels).save(f"data/mine/annotations/{split}/{name}.png")
    Path("data/mine/classes.json").write_text(CLASSES)
    return Path("data/mine")


@pytest.mark.parametrize(
    ("extra", "kept"),
    [
        (("--vit", "owner/vit", "--ignore-labels", "11", "12", "--scale-range", "0.75", "1.5"), "owner/vit"),
        (("--checkpoint", "my models/setr", "--no-half-weights", "--streaming", "--max-steps", "7"), "my models"),
        (("--vit", "vit", "--use-cls-token", "False", "--reduce-labels", "False", "--learning-rate", "2e-5"), "2e-05"),
        (("--from-scratch", "tiny", "--annotation-pattern=-{stem}; rm -rf ~", "--no-hub-private"), "rm -rf"),
    ],
    ids=["lists", "spaces and switches", "switches without default", "a hostile name"],
)
def test_the_command_of_a_card_gives_the_same_options(extra, kept):
    args = parsed("--dataset", "data/mine", "--output-dir", "outputs/x", *extra)
    words = shlex.split(command_of(args))
    assert words[:2] == ["privseg", "train"]
    assert any(kept in word for word in words)
    assert parsed(*words[2:]) == args


def test_the_command_of_a_card_keeps_private_folders_to_itself():
    args = parsed("--dataset", "/home/alice/clinic/scans", "--output-dir", "out", "--vit", "/models/my vit")
    words = shlex.split(command_of(args, num_processes=2))
    launcher = ["torchrun", "--standalone", "--nproc_per_node", "2", "-m", "hf_privseg.cli", "train"]
    assert words == [*launcher, "--dataset", "scans", "--output-dir", "out", "--vit", "my vit"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ((), "got none of them"),
        (("--vit", "a", "--from-scratch", "tiny"), "got --vit and --from-scratch"),
        (("--from-scratch", "tiny", "--fresh-layers", "2"), "which draws all layers"),
        (("--from-scratch", "giant"), "invalid choice: 'giant'"),
        (("--vit", "a", "--streaming"), "give --max-steps, the number of updates"),
    ],
    ids=["no start", "two starts", "fresh layers of none", "no such size", "streaming without an end"],
)
def test_wrong_usage_ends_with_2_and_a_line(place, extra, message):
    found = place.fail("train", "--dataset", place.folder, "--output-dir", place.folder / "out", *extra, code=2)
    assert message in found
    assert not (place.folder / "out").exists()


def test_a_model_from_scratch_is_random_and_has_the_colours_of_the_classes(place, mine):
    given = ("train", "--dataset", mine, "--from-scratch", "tiny", *BUDGET)
    place.succeed(*given, "--output-dir", "one")
    config = SetrForSemanticSegmentation.from_pretrained("one").config
    assert (config.hidden_size, config.num_hidden_layers, config.image_size) == (192, 12, 32)
    assert [tuple(colour) for colour in config.palette] == [(128, 64, 128), (107, 142, 35), (70, 70, 70)]
    card = Path("one/README.md").read_text()
    (command,) = re.findall(r"## Training.*?```sh\n(.*?)\n```", card, re.DOTALL)
    recipe = json.loads(Path("one/training.json").read_text())["arguments"]
    assert vars(parsed(*shlex.split(command)[2:])) == recipe


@pytest.mark.parametrize(
    ("asked", "decoder"), [((), "mla"), (("--decoder", "pup"), "pup")], ids=["its own", "another"]
)
def test_a_checkpoint_keeps_its_decoder_unless_another_is_asked_for(place, mine, asked, decoder):
    given = ("train", "--dataset", mine, *BUDGET)
    place.succeed(*given, "--from-scratch", "tiny", "--decoder", "mla", "--output-dir", "one")
    place.succeed(*given, "--checkpoint", "one", *asked, "--output-dir", "two")
    assert SetrForSemanticSegmentation.from_pretrained("two").config.decoder_type == decoder


def png_of(label):
    content = io.BytesIO()
    Image.new("L", (64, 48), label).save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), r"no segmentation map for 1 of 2 images .* expected 0002 with one of"),
        (
            lambda path: Image.new("L", (64, 48), 9).save(path),
            r"train.0002\.png: expected labels 0 \.\. 2, .* got \[9\]",
        ),
        (lambda path: Image.new("L", (9, 9), 0).save(path), r"64 x 48 in .*0002\.jpg and 9 x 9 in .*0002\.png"),
        (lambda path: path.write_bytes(b"no picture"), r"0002\.png cannot be read"),
        (
            lambda path: [each.write_bytes(png_of(255)) for each in path.parent.iterdir()],
            r"expected labelled pixels, got none in 2 images of train, for example .*0001\.png",
        ),
    ],
    ids=["no map", "no class", "another size", "damaged", "all void"],
)
def test_what_makes_no_sense_stops_with_the_file(place, mine, spoil, message):
    spoil(mine / "annotations/train/0002.png")
    found = place.fail("train", "--dataset", mine, "--from-scratch", "tiny", "--output-dir", "out", *BUDGET)
    assert re.search(message, found), found


def test_one_map_without_labels_is_a_warning_with_the_file(place, mine):
    Image.new("L", (64, 48), 255).save(mine / "annotations/train/0002.png")
    code, _, err = place.run("train", "--dataset", mine, "--from-scratch", "tiny", "--output-dir", "out", *BUDGET)
    assert code == 0, err
    assert re.search(r"1 segmentation map in 2 images of train without a labelled pixel.*0002\.png", err)


@pytest.mark.slow
def test_the_worked_example_runs_as_it_stands(place, mine):
    assert COMMANDS is not None
    place.key_file.unlink()
    lines = [shlex.split(line) for line in COMMANDS[1].splitlines()]
    assert [words[1] for words in lines] == ["train", "segment", "keygen", "encrypt-model", "segment"]
    for words in lines:
        place.succeed(*words[1:], *(BUDGET if words[1] == "train" else []))
    maps = [np.array(Image.open(f"outputs/{name}/0003.segmentation.png")) for name in ("maps", "same")]
    assert (maps[0] == maps[1]).mean() > 0.999


LAUNCHERS = {
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"],
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_starts_the_command_in_two_processes(inputs, tmp_path, launcher):
    given = ["-m", "hf_privseg.cli", "train", "--dataset", inputs / "data", "--vit", inputs / "vit", *BUDGET]
    command = [sys.executable, "-m", *LAUNCHERS[launcher], *map(str, given), "--output-dir", str(tmp_path / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "out/training.json").read_text())["processes"] == 2
    card = (tmp_path / "out/README.md").read_text()
    assert "torchrun --standalone --nproc_per_node 2 -m hf_privseg.cli train" in card
