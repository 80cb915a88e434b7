"""The paper's figures, drawn for real from generated images: their numbers, what resumes, and what is refused."""

import csv
import json
import re
import runpy
import sys

import numpy as np
import pytest
from PIL import Image

from helpers.example_runs import run_here
from helpers.paths import EXAMPLES
from helpers.tiny_setr import tiny_model

pytest.importorskip("accelerate", reason="the train extra is not installed")
pytest.importorskip("matplotlib", reason="the demo extra is not installed")

from hf_privseg import InvalidImageError, SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.catalog import sample_images
from hf_privseg.experiments.figure_images import FigureImage, ImageArguments, load_images
from hf_privseg.experiments.plain_models import seeded_key
from hf_privseg.training.data import evenly_spaced


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model(num_labels=3, id2label={0: "sky", 1: "road", 2: "tree"}).save_pretrained(folder)
    SetrImageProcessor(patch_size=4).save_pretrained(folder)
    return folder


@pytest.fixture
def image_file(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "street.png")
    return tmp_path / "street.png"


def succeed(script, *options):
    done = run_here(script, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


# ------------------------------------------------------------------------------------------------------- figure 6


def figure6(inputs, model, output, *options):
    given = ("--dataset", inputs / "data", "--split", "val", "--limit", 2, "--models", f"tiny={model}", "--cpu")
    return run_here("figure6.py", *given, "--output", output, *options)


@pytest.fixture(scope="module")
def sixth(inputs, model, tmp_path_factory):
    output = tmp_path_factory.mktemp("figure6") / "figure6"
    done = figure6(inputs, model, output, "--families", "permutation", "orthogonal", "--num_keys", 2)
    assert done.returncode == 0, done.stderr[-3000:]
    return output, json.loads(output.with_suffix(".json").read_text())["records"], done


def test_figure6_has_every_key_and_correct_keys_keep_the_baseline(sixth):
    output, rows, done = sixth
    assert len(rows) == 1 + 2 * 2 * 2
    baseline = rows["tiny: baseline"]["mean_iou"]
    for row in rows.values():
        if row["panel"] == "correct":
            assert row["mean_iou"] == pytest.approx(baseline, abs=1e-3)
        if row["family"]:
            assert row["fingerprint"] == seeded_key(row["key_seed"], row["family"]).fingerprint
    assert {row["key_seed"] for row in rows.values() if row["family"]} == {1, 2}
    with output.with_suffix(".csv").open() as file:
        assert [float(row["mean_iou"]) for row in csv.DictReader(file)] == [row["mean_iou"] for row in rows.values()]
    assert Image.open(output.with_suffix(".png")).width > 1000
    assert output.with_suffix(".svg").read_text().startswith("<?xml")
    assert "orthogonal: 2 random keys" in done.stdout


def test_figure6_is_what_the_processor_and_the_loop_of_the_evaluation_give(sixth, inputs, model):
    from hf_privseg.training.data import load_segmentation_dataset
    from hf_privseg.training.evaluation import predict_maps
    from hf_privseg.training.label_map import LabelMap
    from hf_privseg.training.metrics import MeanIoU

    data = evenly_spaced(load_segmentation_dataset(inputs / "data", split="val"), 2)
    network = SetrForSemanticSegmentation.from_pretrained(model).eval().encrypt_model(seeded_key(0, "orthogonal"))
    processor, metric, label_map = SetrImageProcessor.from_pretrained(model), MeanIoU(3), LabelMap(3)
    maps = predict_maps(network, processor, data["image"], secret_key=seeded_key(2, "orthogonal"), disable=True)
    metric.add_batch(predictions=list(maps), references=[label_map(annotation) for annotation in data["annotation"]])
    assert metric.compute()["mean_iou"] == sixth[1]["tiny: orthogonal: random 2"]["mean_iou"]


def test_figure6_goes_on_with_the_missing_keys(sixth, inputs, model):
    output, rows, _ = sixth
    file = output.with_suffix(".json")
    content = json.loads(file.read_text())
    content["records"] = {
        name: row | {"mean_iou": 0.5} for name, row in rows.items() if row["family"] != "permutation"
    }
    file.write_text(json.dumps(content))
    done = figure6(inputs, model, output, "--families", "orthogonal", "--num_keys", 3)
    assert done.returncode == 0, done.stderr[-3000:]
    after = json.loads(file.read_text())["records"]
    kept = [name for name, row in after.items() if row["mean_iou"] == 0.5]
    assert set(kept) == set(content["records"])
    assert set(after) - set(kept) == {"tiny: orthogonal: random 3", "tiny: orthogonal: correct 3"}
    other = figure6(inputs, model, output, "--seed", 5)
    assert other.returncode == 1
    assert "another experiment (seed 0, not 5)" in other.stderr


def test_a_box_follows_the_papers_rule():
    from matplotlib.figure import Figure

    draw_box = runpy.run_path(str(EXAMPLES / "figure6.py"))["draw_box"]
    sample = np.array([0.0, 10, 11, 12, 13, 14, 15, 16, 22.4, 22.6])
    first, third = np.percentile(sample, [25, 75])
    low, high = first - 1.5 * (third - first), third + 1.5 * (third - first)
    axes = Figure().subplots()
    draw_box(axes, sample, 0, "matrix")
    ends = {float(y) for line in axes.lines for y in np.asarray(line.get_ydata())}
    inside = sample[(sample >= low) & (sample <= high)]
    outliers = set(sample) - set(inside)
    assert {inside.min(), inside.max(), np.median(sample)} | outliers <= ends
    assert outliers == {0.0, 22.6}


# ----------------------------------------------------------------------------------------------- figures 4 and 5


def test_figure5_of_a_data_set_has_the_truth_and_of_images_has_none(inputs, model, image_file, tmp_path):
    widths = []
    for name, given in (
        ("data", ("--dataset", inputs / "data", "--split", "val", "--limit", 1)),
        ("images", ("--images", image_file, image_file)),
    ):
        done = succeed("figure5.py", *given, "--model", model, "--cpu", "--output", tmp_path / "out" / f"{name}.png")
        assert f"Wrote {tmp_path / 'out' / name}.png" in done.stdout
        widths.append(Image.open(tmp_path / "out" / f"{name}.png").width)
    assert widths[0] - widths[1] == pytest.approx(110 * 4.4, abs=2)  # one column more


def test_figure5_says_how_good_a_map_is_and_leaves_void_untinted(image_file):
    script = runpy.run_path(str(EXAMPLES / "figure5.py"))
    picture = Image.new("RGB", (2, 1), (10, 20, 30))
    labels = np.array([[0, 255]])
    palette = np.array([[200, 0, 0], [0, 200, 0]], np.uint8)
    image = FigureImage("x", picture, labels, "", (0, 0, 1, 1))
    tinted = np.array(script["tinted"](image, labels, palette))
    assert tinted[0, 1].tolist() == [10, 20, 30]
    assert tinted[0, 0].tolist() != [10, 20, 30]
    assert script["note"](image, np.array([[0, 1]]), labels, 2) == "mIoU of this image 1.0000"
    without = FigureImage("x", picture, None, "", (0, 0, 1, 1))
    half = np.array([[0, 1]])
    assert script["note"](without, half, np.array([[0, 0]]), 2) == "as the baseline on 50.00% of pixels"
    assert script["note"](without, half, half, 2) == "plain model, plain image"


def test_figure4_shows_every_family_and_enlarges_the_detail(image_file, tmp_path):
    given = ("--images", image_file, "--patch_size", 4, "--details", "8,4,16,8", "--output", tmp_path / "four.png")
    succeed("figure4.py", *given)
    all_families = Image.open(tmp_path / "four.png").convert("RGB")
    succeed("figure4.py", *given, "--families", "matrix")
    assert all_families.width - Image.open(tmp_path / "four.png").width == pytest.approx(3 * 130 * 3.34, abs=3)
    pixels = np.array(all_families).astype(int)
    red = (pixels[..., 0] > 190) & (pixels[..., 1] < 60) & (pixels[..., 2] < 60)
    assert red.sum() > 5 * 4 * 130 * 2  # five enlarged details, framed


def test_the_enlarged_detail_is_scaled_with_the_picture():
    script = runpy.run_path(str(EXAMPLES / "figure4.py"))
    scaled = script["scaled"]((10, 20, 30, 40), Image.new("RGB", (100, 200)), Image.new("RGB", (110, 192)))
    assert scaled == pytest.approx((11, 19.2, 33, 38.4))


@pytest.mark.parametrize(
    ("details", "message"),
    [
        (["1,2,3"], r"for each image \(1 in all\), got \['1,2,3'\]"),
        (["1,2,3,4", "1,2,3,4"], r"for each image \(1 in all\), got \['1,2,3,4', '1,2,3,4'\]"),
        (["50,2,30,4"], "expected a detail inside street, which has 60 x 40 pixels, got 50,2,30,4"),
    ],
    ids=["three numbers", "two details", "outside"],
)
def test_details_that_do_not_fit_are_refused(details, message, image_file):
    done = run_here("figure4.py", "--images", image_file, "--details", *details)
    assert done.returncode == 1
    assert re.search(message, done.stderr)


# --------------------------------------------------------------------------------------------------------- leakage


def test_the_picture_of_leakage_has_a_panel_for_each_family_and_the_weights(
    model, image_file, tmp_path, small_samples
):
    given = ("--images", image_file, "--model", model, "--output", tmp_path / "leakage.png")
    heights = []
    for families in (("permutation",), ("permutation", "orthogonal")):
        done = succeed("figure_leakage.py", *given, "--families", *families)
        assert "Recovered, in the worst case: " in done.stdout
        heights.append(Image.open(tmp_path / "leakage.png").height)
    # image, upload, one panel a family and the weights: four and five panels, in two rows of at most three
    assert heights[0] == pytest.approx(heights[1], rel=0.01)
    assert heights[0] > 1.5 * 110 * 4.4 * 2 / 3


# ---------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("name", sample_images.SAMPLE_IMAGES)
def test_every_sample_image_is_installed_credited_and_holds_its_detail(name):
    pytest.importorskip("sklearn")
    pytest.importorskip("skimage")
    (image,) = load_images(ImageArguments(images=[name], max_side=320))
    assert max(image.image.size) == 320
    left, top, width, height = image.detail
    assert left + width <= image.image.width
    assert top + height <= image.image.height
    assert image.credit.startswith(f'Image: "{name}')


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(ImportError, match=r"sample image 'rocket' comes with a package .*skimage.*\[demo\]"):
        sample_images.sample_image("rocket")


def test_images_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jpg is neither a file nor one of the samples china"):
        load_images(ImageArguments(images=["nowhere.jpg"]))
    with pytest.raises(ValueError, match=r"expected a sample image among china, rocket, .*, got 'moon'"):
        sample_images.sample_image("moon")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(InvalidImageError, match=r"text\.jpg: expected an image in one of the formats"):
        load_images(ImageArguments(images=[str(tmp_path / "text.jpg")]))
