"""Table 2, run for real on generated images: its figures and files, killed and resumed, extended, by two processes."""

import csv
import json
import re
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import ConvNextImageProcessor, ResNetBackbone, ResNetConfig

from helpers.example_runs import run, run_here
from helpers.module_files import module_of_file
from helpers.paths import EXAMPLES
from helpers.tiny_setr import pixels, tiny_model

pytest.importorskip("accelerate", reason="the train extra is not installed")

from hf_privseg import SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.baselines import FcnForSemanticSegmentation, FfxCipher, RestrictedCipher, ShfCipher
from hf_privseg.experiments.behind_cipher import behind_cipher
from hf_privseg.experiments.plain_models import seeded_key
from hf_privseg.experiments.seed_statistics import comparison, spread
from hf_privseg.experiments.table2_cells import CELLS, CONDITIONS, Cell
from hf_privseg.training.arguments import OptimizationArguments
from hf_privseg.training.data import load_segmentation_dataset
from hf_privseg.training.loop import build_optimizer
from hf_privseg.training.metrics import MeanIoU

SETTINGS = {
    "--split": ("val",),
    "--image_size": (32, 48),
    "--scale_range": (0.8, 1.25),
    "--epochs": (3,),
    "--batch_size": (4,),
    "--optimizer": ("adamw",),
    "--learning_rate": (0.01,),
    "--warmup_steps": (1,),
    "--checkpoint_every": (3,),
    "--num_workers": (0,),
    "--cpu": (),
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resnet")
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 12, 16], depths=[1, 1, 1, 1], layer_type="basic")
    ResNetBackbone(config).save_pretrained(folder)
    ConvNextImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def given(inputs, backbone):
    settings = [part for name, values in SETTINGS.items() for part in (name, *values)]
    return ("--dataset", inputs / "data", "--backbone", backbone, *settings)


def table2(given, output, *options, processes=1):
    arguments = ("table2.py", *given, "--output_dir", output, *options)
    return run(*arguments, processes=processes) if processes > 1 else run_here(*arguments)


def results(output):
    return json.loads((output / "results.json").read_text())


@pytest.fixture(scope="module")
def first(given, tmp_path_factory):
    """Three cells with two seeds: output folder, what was printed."""
    output = tmp_path_factory.mktemp("table2")
    done = table2(given, output, "--cells", "plain", "shf-4", "ffx-16", "--seeds", 0, 1)
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done


def test_every_condition_of_every_cell_and_seed_is_there(first):
    report = results(first[0])
    assert list(report["records"]) == [
        f"{cell}: seed {seed}: {condition}"
        for seed in (0, 1)
        for cell in ("plain", "shf-4", "ffx-16")
        for condition in Cell(cell).conditions
    ]
    assert (report["num_images"], report["processes"], report["mixed_precision"]) == (3, 1, "no")
    for row in report["records"].values():
        assert (row["updates"], row["planned_updates"]) == (12, 12)
        assert 0 <= row["mean_iou"] <= 1
    for cell in ("shf-4", "ffx-16"):
        figures = [report["records"][f"{cell}: seed 0: {name}"]["per_category_iou"] for name in CONDITIONS]
        assert figures[0] != figures[1], "whether test images are encrypted makes no difference"
        assert figures[0] != figures[2], "which key test images are encrypted with makes no difference"


def test_the_figures_are_those_of_the_networks_on_images_encrypted_after_resizing(first, inputs):
    folder, records = first[0] / "models" / "shf-4_0", results(first[0])["records"]
    model, processor = FcnForSemanticSegmentation.from_pretrained(folder), SetrImageProcessor.from_pretrained(folder)
    for condition, key in zip(
        CONDITIONS, (seeded_key(0, "orthogonal"), None, seeded_key(1, "orthogonal")), strict=True
    ):
        metric = MeanIoU(3)
        for row in load_segmentation_dataset(inputs / "data", split="val"):
            seen = processor(row["image"], return_tensors="pt").pixel_values
            assert seen.shape == (1, 3, 32, 48)
            seen = seen if key is None else ShfCipher(key, block_size=4).encrypt_centred(seen)
            logits = torch.nn.functional.interpolate(model(seen).logits, size=(48, 64), mode="bilinear")
            metric.add(prediction=logits[0].argmax(0).numpy(), reference=np.array(row["annotation"]))
        # near-ties may fall otherwise in another memory layout
        assert records[f"shf-4: seed 0: {condition}"]["mean_iou"] == pytest.approx(
            metric.compute()["mean_iou"], abs=2e-3
        )


def test_networks_are_kept_and_take_what_they_were_trained_on(first):
    folder = first[0] / "models" / "ffx-16_1"
    assert not (folder / "checkpoints").exists()
    history = json.loads((folder / "training.json").read_text())["loss"]
    assert len(history) == 3
    model, processor = FcnForSemanticSegmentation.from_pretrained(folder), SetrImageProcessor.from_pretrained(folder)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert (processor.patch_size, dict(processor.size or {})) == (16, {"height": 32, "width": 48})
    weights = [load_file(first[0] / "models" / name / "model.safetensors") for name in ("ffx-16_0", "plain_0")]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_table_has_the_papers_shape_and_says_what_the_seeds_tell(first):
    output, done = first
    report, text = results(output), (output / "results.md").read_text()

    def cell(cell, condition):
        return spread([report["records"][f"{cell}: seed {seed}: {condition}"]["mean_iou"] for seed in (0, 1)])

    shf, ffx = ([cell(name, condition) for condition in CONDITIONS] for name in ("shf-4", "ffx-16"))
    columns = [f"{cipher} {condition}" for cipher in ("SHF", "NP", "FFX") for condition in CONDITIONS]
    assert f"| block size | {' | '.join(columns)} |" in text
    assert f"| 4 | {' | '.join(shf)} |" + "  |" * 6 in text
    assert f"| 16 |{'  |' * 6} {' | '.join(ffx)} |" in text
    title, _, _ = text.partition("\n")
    assert "val (images: 3)" in title
    assert "48 x 32 pixels, 3 epochs in batches of 4;" in title
    assert f"baseline {cell('plain', 'baseline')}:" in title
    figure = report["records"]["shf-4: seed 1: correct K"]["mean_iou"]
    gap = figure - report["records"]["plain: seed 1: baseline"]["mean_iou"]
    assert re.search(rf"\| shf-4 \| 1 \| 12 of 12 \| \d+\.\d \| {figure:.4f} \| {re.escape(f'{gap:+.4f}')} \|", text)
    assert len(report["comparisons"]) == 6
    for line in report["comparisons"]:
        assert line in text
        assert line in done.stdout
    with (output / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["mean_iou"]) for row in rows] == [row["mean_iou"] for row in report["records"].values()]


def test_setr_is_trained_behind_ciphers_that_came_after_the_paper(given, inputs, tmp_path):
    cells = ("plain", "rrp-16-50", "rrp-16-75-fresh")
    options = ("--vit", inputs / "vit", "--cells", *cells, "--seeds", 0, "--epochs", 1)
    done = table2(given, tmp_path, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    report, text = results(tmp_path), (tmp_path / "results.md").read_text()
    records = report["records"]
    assert list(records) == [f"{cell}: seed 0: {name}" for cell in cells for name in Cell(cell).conditions]
    assert report["runs"][0]["machine"] in text
    assert "SETR-MLA on vit (pretrained)" in text
    assert "block size | SHF" not in text  # no cell of the paper's table
    restricted, fresh = (
        [f"{records[f'{cell}: seed 0: {name}']['mean_iou']:.4f}" for name in Cell(cell).conditions]
        for cell in cells[1:]
    )
    assert f"| RRP | 16 | 50% | one for all | {' | '.join(restricted)} |" in text
    assert f"| RRP | 16 | 75% | one an image | {' | '.join(fresh)} |" in text

    folder = tmp_path / "models" / "rrp-16-50_0"
    model, processor = SetrForSemanticSegmentation.from_pretrained(folder), SetrImageProcessor.from_pretrained(folder)
    cipher_of = Cell("rrp-16-50").cipher_of("correct K", 0)
    assert cipher_of is not None
    metric = MeanIoU(3)
    for row in load_segmentation_dataset(inputs / "data", split="val"):
        seen = processor(row["image"], return_tensors="pt").pixel_values
        cipher = cipher_of(seen[0])
        answer = torch.nn.functional.interpolate(model(cipher.encrypt_centred(seen)).logits, (32, 48), mode="bilinear")
        answer = torch.nn.functional.interpolate(cipher.put_back(answer), size=(48, 64), mode="bilinear")
        metric.add(prediction=answer[0].argmax(0).numpy(), reference=np.array(row["annotation"]))
    assert metric.compute()["mean_iou"] == pytest.approx(records["rrp-16-50: seed 0: correct K"]["mean_iou"], abs=2e-3)


def without_minutes(row):
    return {name: value for name, value in row.items() if name != "minutes"}


def test_a_training_that_was_killed_ends_as_an_uninterrupted_one(first, given, tmp_path, monkeypatch):
    script = module_of_file(EXAMPLES / "table2.py", "table2")
    save_checkpoint = script.save_checkpoint

    def save_and_die(accelerator, folder, progress):
        save_checkpoint(accelerator, folder, progress)
        if progress["step"] == 6:  # two updates into the second epoch
            raise KeyboardInterrupt

    monkeypatch.setattr(script, "save_checkpoint", save_and_die)
    options = ("--output_dir", tmp_path, "--cells", "ffx-16", "--seeds", 1)
    monkeypatch.setattr(sys, "argv", ["table2.py", *map(str, (*given, *options))])
    with pytest.raises(KeyboardInterrupt):
        script.main()
    assert (tmp_path / "models" / "ffx-16_1" / "checkpoints" / "step_6").is_dir()
    assert not (tmp_path / "models" / "ffx-16_1" / "training.json").exists()
    resumed = table2(given, tmp_path, *options[2:])
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    whole = results(first[0])["records"]
    for name, row in results(tmp_path)["records"].items():
        assert without_minutes(row) == without_minutes(whole[name])
    weights = [load_file(folder / "models" / "ffx-16_1" / "model.safetensors") for folder in (first[0], tmp_path)]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_cells_are_added_and_what_is_there_is_kept(first, given):
    output, _ = first
    before = results(output)
    before["records"]["plain: seed 0: baseline"]["mark"] = 1
    del before["records"]["shf-4: seed 0: No-Enc"], before["comparisons"]
    (output / "results.json").write_text(json.dumps(before))
    trained = {path: path.stat().st_mtime_ns for path in (output / "models").glob("*/model.safetensors")}
    done = table2(given, output, "--cells", "plain", "shf-4", "np-4", "--seeds", 0)
    assert done.returncode == 0, done.stderr[-3000:]
    after = results(output)["records"]
    assert after["plain: seed 0: baseline"]["mark"] == 1
    added = set(after) - set(before["records"])
    assert added == {"shf-4: seed 0: No-Enc"} | {f"np-4: seed 0: {name}" for name in CONDITIONS}
    assert {path: path.stat().st_mtime_ns for path in trained} == trained

    other = table2(given, output, "--epochs", 4)
    assert other.returncode != 0
    assert "holds another experiment (epochs 3, not 4); choose another output folder" in other.stderr


def test_a_training_out_of_time_ends_and_the_table_says_so(given, tmp_path):
    done = table2(given, tmp_path, "--cells", "np-4", "--seeds", 0, "--max_minutes", 1e-6)
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "results.md").read_text()
    assert "| np-4 | 0 | 1 of 12 (out of time) |" in text
    assert "3 epochs in batches of 4 or 1e-06 minutes a training" in text
    assert "baseline not evaluated" in text


@pytest.mark.slow
def test_two_processes_share_the_images(given, tmp_path):
    done = table2(given, tmp_path, "--cells", "shf-16", "--seeds", 0, "--batch_size", 2, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    report = results(tmp_path)
    assert report["processes"] == 2
    assert [row["updates"] for row in report["records"].values()] == [12, 12, 12]
    assert "3 epochs in batches of 4;" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--cells", "rot13-4"),
            "expected a cell: plain, one of shf|np|ffx with a block size as in shf-4, or rrp with a block size and a "
            "percentage as in rrp-16-60; and maybe -fresh after it; got 'rot13-4'",
        ),
        (("--cells", "rrp-16"), "got 'rrp-16'"),
        (("--cells", "plain-fresh"), "got 'plain-fresh'"),
        (("--cells", "rrp-16-101"), "got 'rrp-16-101'"),
        (("--cells", "shf"), "got 'shf'"),
        (("--cells", "plain", "np-7"), "to be multiples of the blocks of np-7, got [32, 48]"),
        (("--image_size", 32), "to be height and width, got [32]"),
        (("--batch_size", 17, "--cells", "plain"), "expected a batch of 17 images or more in train, got 16"),
        (("--optimizer", "lbfgs", "--cells", "plain"), "expected the optimizer adamw or sgd, got 'lbfgs'"),
    ],
    ids=["cipher", "no block size", "no share", "plain", "share", "block size", "one side", "batch", "optimizer"],
)
def test_what_cannot_be_run_is_refused(given, tmp_path, options, message):
    done = table2(given, tmp_path, *options)
    assert done.returncode != 0
    assert message in done.stderr


# --------------------------------------------------------------------------------------------- what it stands on


def test_a_cell_knows_its_conditions_and_keys():
    assert CELLS == ("plain", "shf-4", "np-4", "ffx-4", "shf-16", "np-16", "ffx-16")
    assert (Cell("plain").block_size, Cell("ffx-16").block_size) == (1, 16)
    image, cell = pixels(1, 32, 32)[0], Cell("ffx-16")
    for condition, number in (("correct K", 6), ("random K'", 7)):
        cipher_of = cell.cipher_of(condition, 3)
        assert cipher_of is not None
        expected = FfxCipher(seeded_key(number, "orthogonal"), block_size=16).encrypt_centred(image)
        assert torch.equal(cipher_of(image).encrypt_centred(image), expected)
    assert cell.cipher_of("No-Enc", 3) is None
    assert Cell("plain").cipher_of("baseline", 3) is None


def test_a_cell_of_restricted_permutations_knows_its_shares():
    image, cell = pixels(1, 32, 48)[0], Cell("rrp-16-60")
    cipher_of = cell.cipher_of("correct K", 3)
    assert cipher_of is not None
    key = seeded_key(6, "orthogonal")
    expected = RestrictedCipher(key, block_size=16, num_blocks=6, fixed_blocks=0.6, fixed_pixels=0.6)
    assert torch.equal(cipher_of(image).encrypt_centred(image), expected.encrypt_centred(image))
    assert (cell.conditions, cell.is_fresh, cell.is_of_the_paper) == (CONDITIONS, False, False)


def test_a_fresh_cell_gives_every_image_a_key_of_its_own_and_the_same_one_again():
    images, cell = pixels(2, 32, 48), Cell("rrp-16-75-fresh")
    assert (cell.fixed, cell.is_fresh, cell.conditions) == (0.75, True, ("correct K", "No-Enc"))
    assert not Cell("shf-4-fresh").is_of_the_paper
    keys = []
    for seed in (0, 1):
        cipher_of = cell.cipher_of("correct K", seed)
        assert cipher_of is not None
        keys += [cipher_of(image).fingerprint for image in (*images, *images)]
    assert keys[:2] == keys[2:4]
    assert keys[4:6] == keys[6:8]
    assert len(set(keys)) == 4


def test_a_network_behind_a_cipher_sees_moved_blocks_and_labels_and_its_answer_is_put_back():
    seen, model = [], tiny_model()
    cipher_of = Cell("rrp-16-0").cipher_of("correct K", 0)
    assert cipher_of is not None
    images, labels = pixels(2, 64, 64), torch.randint(0, 5, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    cipher = cipher_of(images[0])
    handle = model.setr.register_forward_pre_hook(
        lambda _, args, inputs: seen.append((args, inputs)), with_kwargs=True
    )
    with behind_cipher(model, cipher_of), torch.no_grad():
        answer = model(pixel_values=images, labels=labels)
    handle.remove()
    encrypted = torch.stack([cipher.encrypt_centred(image) for image in images])
    given = [value for args, inputs in seen for value in (*args, *inputs.values()) if isinstance(value, torch.Tensor)]
    assert any(torch.equal(value, encrypted) for value in given)
    with torch.no_grad():
        expected = model(pixel_values=encrypted, labels=cipher.move(labels))
    torch.testing.assert_close(answer.loss, expected.loss)
    whole = torch.nn.functional.interpolate(expected.logits, size=(64, 64), mode="bilinear")
    torch.testing.assert_close(answer.logits, cipher.put_back(whole))
    assert not torch.allclose(answer.logits, whole)

    with behind_cipher(model, Cell("shf-16").cipher_of("correct K", 0)), torch.no_grad():
        answer = model(pixel_values=images)
    assert answer.logits.shape == expected.logits.shape  # blocks stay, so that nothing is resized
    with torch.no_grad():
        assert not torch.allclose(model(pixel_values=images).logits, answer.logits)  # and nothing remains afterwards


def test_figures_of_seeds():
    assert spread([]) == ""
    assert spread([0.5]) == "0.5000"
    assert spread([0.5, 0.25]) == "0.3750 (0.2500 to 0.5000)"


@pytest.mark.parametrize(
    ("values", "others", "ending"),
    [
        ([0.5, 0.6, 0.55], [0.1, 0.2, 0.3], "a 0.5500, b 0.2000: higher, ranges apart (by chance: 0.10)"),
        ([0.1, 0.2], [0.3, 0.4], "lower, ranges apart (by chance: 0.33)"),
        ([0.1, 0.3], [0.2, 0.4], "within the seeds' ranges, no order"),
        ([0.1], [0.2, 0.4], "no order can be told from one seed"),
    ],
    ids=["higher", "lower", "within", "one seed"],
)
def test_an_order_needs_ranges_that_are_apart(values, others, ending):
    assert comparison("a", values, "b", others).endswith(ending)


def test_the_optimizer_tells_encoder_from_heads_and_matrices_from_vectors():
    model = tiny_model()
    args = OptimizationArguments(learning_rate=0.1, head_lr_factor=10.0, weight_decay=0.01)
    groups: dict[str, tuple[float, float]] = {}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in build_optimizer(model, args, fresh=["setr.layers.1.mlp.fc1.weight"]).param_groups:
        groups |= {names[id(p)]: (group["lr"], group["weight_decay"]) for p in group["params"]}
    assert len(groups) == len(names)
    assert groups["setr.layers.0.mlp.fc1.weight"] == (0.1, 0.01)
    assert groups["setr.layers.1.mlp.fc1.weight"] == (1.0, 0.01)  # drawn anew, so it learns as the heads do
    assert groups["setr.embeddings.position_embeddings"] == (0.1, 0.0)
    assert groups["decode_head.conv_seg.weight"] == (1.0, 0.01)
    assert groups["decode_head.conv_seg.bias"] == (1.0, 0.0)
