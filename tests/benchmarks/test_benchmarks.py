"""The benchmarks run from end to end on small images, go on where they stopped, and print what they found."""

import importlib
import json
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch
from PIL import Image

from helpers.example_runs import run_here
from helpers.tiny_setr import tiny_model
from hf_privseg import ClientEmbedding, SetrImageProcessor
from hf_privseg.catalog.sample_images import sample_image

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_samples")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Victims, other images, and a tiny model with patches of 8 pixels."""
    folder = tmp_path_factory.mktemp("benchmarks")
    for kind, name in (("victims", "china"), ("others", "coffee")):
        (folder / kind).mkdir()
        image = sample_image(name).resize((320, 240))
        for index in range(3):
            image.crop((32 * index, 0, 32 * index + 96, 80)).save(folder / kind / f"{index}.png")
    tiny_model(patch_size=8, image_size=64).save_pretrained(folder / "model")
    SetrImageProcessor(patch_size=8).save_pretrained(folder / "model")
    return folder


@pytest.fixture
def run(folder, monkeypatch):
    """Runs a benchmark with options in the folder, in this process, which saves its imports."""

    def run(name, *options):
        monkeypatch.chdir(folder)
        monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, options)])
        importlib.import_module(name).main()

    return run


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("leakage", ["--victims", "china=none/*", "--prior", "others/*"], "no file is called like none/*; quote"),
        ("leakage", ["--victims", "victims/*", "--prior", "others/*"], "--victims takes NAME=PATTERN, got victims/*"),
        ("patch_size", ["--victims", "victims/*", "--prior", "none/*"], "no file is called like none/*; quote"),
        (
            "private_embedding",
            ["--dataset", "data", "--vit", "vit", "--victims", "victims/*", "--prior", "others/*", "--recipes", "new"],
            "expected recipes among fine-tuned, random, random-4, random-12, whitened, got new",
        ),
        (
            "strong_attackers",
            ["--victims", "victims/*", "--prior", "others/*", "--num_prior", "5", "--num_victims", "3"],
            "expected --num_prior of 6 or more, half of which play the 3 victims, got 5",
        ),
        (
            "stolen_embedding",
            ["--dataset", "d", "--vit", "v", "--victims", "victims/*", "--models", "m=model", "--teachers", "new"],
            "expected teachers among none, labels, hints, got new",
        ),
        (
            "model_theft",
            ["--dataset", "data", "--starts", "public"],
            "--starts takes random, got public; public needs",
        ),
    ],
    ids=["no victims", "no name", "no prior", "no recipe", "few images", "no teacher", "no base"],
)
def test_options_that_cannot_work_end_a_benchmark_with_one_line(run, capsys, name, options, message):
    with pytest.raises(SystemExit) as ended:
        run(name, *options, "--output_dir", "out")
    assert ended.value.code == 2
    assert f"error: {message}" in capsys.readouterr().err


def test_leakage(run, folder):
    options = ["--victims", "china=victims/*", "--prior", "others/*", "--model", "model", "--counts", "3"]
    options += ["--families", "orthogonal", "--drifts", "0.1", "--output_dir", "out"]
    run("leakage", *options)
    assert "Wiener inversion, drift 10%" in (folder / "out/leakage.md").read_text()
    records = json.loads((folder / "out/results.json").read_text())["records"]
    chosen = records["china: orthogonal: one chosen image: no prior: 1 images"]
    assert chosen["metrics"]["psnr"] > 60
    before = (folder / "out/results.json").stat().st_mtime_ns
    run("leakage", *options)  # everything is there
    assert (folder / "out/results.json").stat().st_mtime_ns == before


def test_strong_attackers(run, folder, capsys):
    options = ["--victims", "victims/0*", "--prior", "[ov]*s/[12].png", "--model", "model", "--num_victims", "1"]
    options += ["--drifts", "0", "--num_keys", "2", "--steps", "2", "--width", "8", "--crop_in_blocks", "8"]
    run("strong_attackers", *options, "--output_dir", "strong")
    records = json.loads((folder / "strong/results.json").read_text())["records"]
    assert set(records) == {"inversion of z, r = 0.0%", "alignment, `orthogonal`, 1 ciphertexts"}
    inversion = records["inversion of z, r = 0.0%"]
    assert inversion["without"]["psnr"] > 10
    assert inversion["with"] == inversion["without"]  # two updates gain nothing
    assert not inversion["gained"]
    assert "learning_rate 0.001" in (folder / "strong/strong_attackers.md").read_text()
    capsys.readouterr()
    before = (folder / "strong/results.json").stat().st_mtime_ns
    run("strong_attackers", *options, "--output_dir", "strong")  # everything is there
    assert (folder / "strong/results.json").stat().st_mtime_ns == before
    assert "inversion" in capsys.readouterr().out


def test_block_ciphers(run, folder):
    options = ["--victims", "victims/*", "--prior", "others/*", "--counts", "1", "--block_sizes", "4"]
    run("block_ciphers", *options, "--output", "out/ciphers.md")
    rows = (folder / "out/ciphers.md").read_text().splitlines()
    assert [row.split(" | ")[0] for row in rows[4:7]] == ["| SHF", "| NP", "| FFX"]


def test_restricted_permutations(run, folder):
    options = ["--victims", "victims/*", "--prior", "others/*", "--counts", "1", "--num_scored", "1"]
    options += ["--image_size", "48", "64", "--cells", "rrp-8-75", "rrp-8-75-fresh", "--output_dir", "restricted"]
    run("restricted_permutations", *options)
    rows = (folder / "restricted/restricted_permutations.md").read_text().splitlines()
    assert rows[4].startswith("| RRP | 75% | one for all | 1 |")
    assert rows[5].startswith("| RRP | 75% | one an image | 1 |")


def test_client_layers(run, folder):
    options = ["--victims", "victims/*", "--prior", "others/*", "--model", "model", "--layers", "0", "1"]
    run("client_layers", *options, "--steps", "2", "--output_dir", "layers")
    records = json.loads((folder / "layers/results.json").read_text())["records"]
    assert records["1: cost"]["parameters"] > records["0: cost"]["parameters"]
    assert records["0: public, linear"]["psnr"] > records["0: nothing"]["psnr"]


@pytest.fixture(scope="module")
def labelled(folder):
    """The victims with segmentation maps, as a data set of two splits."""
    for split in ("train", "test"):
        for kind in ("images", "annotations"):
            (folder / "data" / kind / split).mkdir(parents=True)
        for path in sorted((folder / "victims").glob("*.png")):
            image = Image.open(path)
            image.save(folder / "data/images" / split / path.name)
            image.convert("L").point(lambda level: level // 52).save(folder / "data/annotations" / split / path.name)
    (folder / "data/classes.json").write_text(json.dumps({"classes": list("abcde")}))


@pytest.mark.usefixtures("labelled")
def test_fewer_bits(run, folder):
    options = ["--dataset", "data", "--model", "model", "--limit", "2", "--num_prior", "2", "--qualities", "50", "5"]
    with pytest.raises(ValueError, match="expected bits_per_block from"):
        run("fewer_bits", *options, "--bits", "1e6", "--output_dir", "fewer")
    code = ClientEmbedding.from_file(folder / "fewer/client.embedding").code
    assert code is not None
    bits = code.bits
    run("fewer_bits", *options, "--bits", bits[1], bits[-2], "--output_dir", "fewer")
    records = json.loads((folder / "fewer/results.json").read_text())["records"]
    assert len(records) == 2 * 5
    fine, coarse = (records[f"{number:g} bits: 0"] for number in (bits[1], bits[-2]))
    assert fine["hp"] > coarse["hp"]
    assert fine["bits"] > coarse["bits"]
    assert records["JPEG 50: 0"]["bits"] > 1.2 * records["JPEG 5: 0"]["bits"] > 24
    assert records["JPEG 50: 0"]["hp"] > records["JPEG 5: 0"]["hp"]
    assert "| JPEG 5 | " in (folder / "fewer/fewer_bits.md").read_text()
    assert Image.open(folder / "fewer/fewer_bits.png").size == (900, 600)


@pytest.mark.usefixtures("labelled")
def test_uploads(run, folder):
    options = ["--dataset", "data", "--model", "model", "--limit", "2", "--rounds", "1", "--output_dir", "uploads"]
    options += ["--num_calibration", "2", "--bits"]
    with pytest.raises(ValueError, match="expected bits_per_block from"):
        run("uploads", *options, "1e6", "--output_dir", "unknown_bits")
    code = ClientEmbedding.from_file(folder / "unknown_bits/client.embedding").code
    assert code is not None
    shutil.copytree(folder / "unknown_bits", folder / "uploads", ignore=shutil.ignore_patterns("results.json"))
    options += [code.bits[1]]
    run("uploads", *options, "--times_only", "true")
    records = json.loads((folder / "uploads/results.json").read_text())["records"]
    assert list(records) == ["times: 0", "times: 1"]
    sizes = records["times: 0"]["bytes"]
    assert sizes["orthogonal: 8 bits"] < 0.7 * sizes["orthogonal: as it is"]
    run("uploads", *options)
    records = json.loads((folder / "uploads/results.json").read_text())["records"]
    assert records["permutation: as it is: 1"]["equal"] == 1
    assert 10 * records["orthogonal: as it is: 1"]["z"] < records["orthogonal: 8 bits: 1"]["z"] < 0.03
    few = f"embedding: {code.bits[1]:g} bits per block"
    assert sizes[few] < 0.5 * sizes["embedding: 8 bits"]
    assert records[f"{few}: 1"]["z"] > records["embedding: 8 bits: 1"]["z"]
    assert f"| {few} | " in (folder / "uploads/uploads.md").read_text()
    assert "| orthogonal: 8 bits | " in (folder / "uploads/uploads.md").read_text()


def test_client_path(run, folder):
    run("client_path", "--output", "client_path.md", "--sizes", "64x48", "--rounds", "1")
    text = (folder / "client_path.md").read_text()
    assert "| 64x48 | orthogonal, 8 bits | " in text
    assert "| 64x48 | signed_permutation | Pillow, level 1 | " in text


@pytest.mark.usefixtures("labelled")
def test_model_theft(run, folder):
    options = ["--dataset", "data", "--model", "model", "--counts", "2", "--steps", "2", "--limit", "2"]
    options += ["--starts", "random"]
    run("model_theft", *options, "--precision", "fp32", "--output_dir", "theft")
    records = json.loads((folder / "theft/results.json").read_text())["records"]
    assert set(records) == {"plain model", "encrypted model, plain images", "random start, 2 images"}


@pytest.fixture
def trained_here(monkeypatch):
    """Has a benchmark train in this process, which has the libraries loaded and may have trained in other numbers."""
    from accelerate.state import AcceleratorState

    run = subprocess.run

    def run_training(command, **options):
        if not any(part.endswith("train_setr.py") for part in command):
            return run(command, **options)
        AcceleratorState._reset_state(reset_partial_state=True)
        ended = run_here("train_setr.py", *command[2:], "--num_workers", "0")
        assert options == {"check": True}
        assert ended.returncode == 0, ended.stderr
        return ended

    monkeypatch.setattr("subprocess.run", run_training)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.usefixtures("trained_here")
def test_train_encrypted(run, folder, inputs):
    options = ["--dataset", inputs / "data", "--vit", inputs / "vit", "--split", "val", "--families", "permutation"]
    options += ["--crop_size", "32", "--steps", "2", "--batch_size", "2", "--decoder", "naive", "--precision", "no"]
    run("train_encrypted", *options, "--output_dir", "ciphertexts")
    records = json.loads((folder / "ciphertexts/results.json").read_text())["records"]
    assert set(records) == {"plain, the same few", "ciphertexts, permutation", "plain, all augmentations"}
    few, encrypted = records["plain, the same few"], records["ciphertexts, permutation"]
    assert few["encrypted_images"] is None
    assert encrypted["encrypted_images"] == pytest.approx(few["plain_images"], abs=1e-3)
    assert encrypted["plain_images"] == pytest.approx(few["plain_images"], abs=1e-3)
    before = (folder / "ciphertexts/results.json").stat().st_mtime_ns
    run("train_encrypted", *options, "--output_dir", "ciphertexts")  # everything is there
    assert (folder / "ciphertexts/results.json").stat().st_mtime_ns == before


@pytest.mark.usefixtures("trained_here")
def test_private_embedding(run, folder, inputs, monkeypatch):
    from hf_privseg.audit import attacks_with_a_base

    few = replace(attacks_with_a_base.THEFT_BUDGET, steps=5)
    monkeypatch.setattr(attacks_with_a_base, "THEFT_BUDGET", few)
    options = ["--dataset", inputs / "data", "--vit", inputs / "vit", "--victims", "victims/*", "--prior", "others/*"]
    options += ["--recipes", "fine-tuned", "whitened", "--max_steps", "1", "--counts", "1", "3", "--cpu"]
    run("private_embedding", *options, "--output_dir", "private")
    records = json.loads((folder / "private/results.json").read_text())["records"]
    assert records["fine-tuned: drift"]["drift"] < 0.1
    assert records["whitened: drift"]["drift"] > 0.8
    assert "hp" in records["whitened: stolen embedding: 3"]["metrics"]
    table = (folder / "private/private_embedding.md").read_text()
    assert "| whitened" in table
    assert "z alone, 3" in table


@pytest.mark.usefixtures("labelled")
def test_input_size(run, folder):
    options = ["--dataset", "data", "--model", "model", "--victims", "victims/*", "--prior", "others/*"]
    options += ["--heights", "40", "80", "--counts", "1", "3", "--families", "orthogonal", "--limit", "2"]
    run("input_size", *options, "--output_dir", "sizes")
    records = json.loads((folder / "sizes/results.json").read_text())["records"]
    assert records["40: mIoU"]["mean_iou"] != records["80: mIoU"]["mean_iou"]
    assert "hp" in records["80: any: alignment of z by classes: in-domain prior: 3"]["metrics"]
    assert "orthogonal, 3" in (folder / "sizes/input_size.md").read_text()


def test_stolen_embedding(run, folder, inputs):
    """One model has the public embedding, which is found at once, and another one an embedding of its own."""
    from hf_privseg import SetrForSemanticSegmentation

    public = SetrForSemanticSegmentation.from_vit(inputs / "vit", decoder_type="naive", num_labels=3)
    public.save_pretrained(folder / "near")
    torch.nn.init.normal_(public.patch_projection.weight, generator=torch.Generator().manual_seed(1))
    public.save_pretrained(folder / "far")
    options = ["--dataset", inputs / "data", "--vit", inputs / "vit", "--models", "near=near", "far=far", "--counts"]
    options += ["4", "1000", "--victims", inputs / "data/images/val/*", "--num_scored", "2", "--crop_in_blocks", "2"]
    options += ["--steps", "3", "--hint_layers", "1", "2", "--output_dir", "stolen"]
    run("stolen_embedding", *options)
    records = json.loads((folder / "stolen/results.json").read_text())["records"]
    assert len(records) == 2 * 3 * 2
    assert records["near: hints: 1000"]["images"] == 16
    assert records["near: none: 4"]["likeness"] == pytest.approx(1)
    # the layers of both are the public network's: hints lead to the public embedding, whatever the model's own
    assert records["near: hints: 4"]["losses"][0] < 0.01
    assert records["far: hints: 4"]["losses"][0] < 0.01
    assert abs(records["far: hints: 4"]["likeness"]) < 0.5
    assert len(records["far: labels: 1000"]["losses"]) == 3
    before = (folder / "stolen/results.json").stat().st_mtime_ns
    run("stolen_embedding", *options)  # everything is there
    assert (folder / "stolen/results.json").stat().st_mtime_ns == before


def test_patch_size(run, folder):
    options = ["--victims", "victims/*", "--prior", "others/*", "--patch_sizes", "4", "8", "--counts", "1", "3"]
    run("patch_size", *options, "--families", "permutation", "orthogonal", "--output_dir", "patches")
    records = json.loads((folder / "patches/results.json").read_text())["records"]
    assert len(records) == 2 * (1 + 2 * 2 * 2)
    means = [records[f"{size}: any: block means: no prior: 0"]["metrics"]["hp"] for size in (4, 8)]
    assert means[0] > means[1]  # larger blocks show less
    assert "permutation, 3" in (folder / "patches/patch_size.md").read_text()


def test_encryptable_models():
    from encryptable_models import refusal_of, row_of

    from tiny_vision import CASES, randomize

    case = CASES["upernet_on_convnext"]()
    randomize(case.model)
    name, backbone, projection, block, channels, error, remark = row_of(case)
    assert (name, backbone, block, channels) == ("UperNetForSemanticSegmentation", "convnext", "4", "3")
    assert projection == "`backbone.embeddings.patch_embeddings` (Conv2d)"
    assert float(error) < 1e-5
    assert remark.startswith("blocks so small")
    assert refusal_of("resnet") == ["ResNetModel", "embedder.embedder.convolution = Conv2d(3, 8, kernel_size=(7, 7), "
                                    "stride=(2, 2), padding=(3, 3), bias=False)"]  # fmt: skip


def test_exported_census(run, folder):
    options = ["--output_dir", "census", "--relatives", "false", "--models"]
    run("exported_census", *options, "vit", "vit_mae")
    records = json.loads((folder / "census/results.json").read_text())["records"]
    assert list(sorted(records)) == ["ViTForImageClassification", "ViTMAEModel"]
    for result in records["ViTForImageClassification"].values():
        assert result["varies"] == "batch"
        assert 0 < result["error"] < 1e-5
    assert "draws random numbers" in records["ViTMAEModel"]["torch"]["reason"]
    assert "1 of 2 classes" in (folder / "census/exported_census.md").read_text()
    run("exported_census", *options, "dinov2", "--seconds", "0.01", "--output_dir", "late")
    records = json.loads((folder / "late/results.json").read_text())["records"]
    late = {"reason": "the export took longer than 0.01 s"}
    assert records == {"Dinov2Model": {"onnx": late, "torch": late}}
