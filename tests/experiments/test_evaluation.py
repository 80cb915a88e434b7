"""`privseg evaluate`, run for real on generated images: plain models, and the paper's Table 1."""

import csv
import json
import re

import numpy as np
import pytest
import torch
import transformers as hf

from helpers.example_runs import PRIVSEG, run, run_here
from helpers.tiny_setr import tiny_model

pytest.importorskip("accelerate", reason="the train extra is not installed")

from hf_privseg import EncryptionStateError, SecretKey, SetrImageProcessor
from hf_privseg.experiments import evaluation
from hf_privseg.experiments.evaluation_arguments import EvaluationArguments, evaluation_arguments
from hf_privseg.experiments.plain_models import any_plain_models
from hf_privseg.experiments.records import Records
from tiny_vision import CASES, randomize

CONDITIONS = ("correct K", "No-Enc", "random K'")


def evaluate_plain(output, *options, processes=1):
    given = (PRIVSEG, "evaluate", *options, "--output-dir", output, "--cpu")
    return run(*given, processes=processes) if processes > 1 else run_here(*given)


def evaluate(output, *options, processes=1):
    return evaluate_plain(output, *options, "--encrypted", processes=processes)


def results(output):
    return json.loads((output / "results.json").read_text())


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for decoder in ("naive", "mla"):
        tiny_model(decoder, num_labels=3).save_pretrained(folder / decoder)
        SetrImageProcessor(patch_size=4).save_pretrained(folder / decoder)
    return folder


@pytest.fixture(scope="module")
def first(inputs, models, tmp_path_factory):
    """One model, two families: options, output folder, what was printed."""
    output = tmp_path_factory.mktemp("table1")
    options = ("--dataset", inputs / "data", "--split", "val")
    done = evaluate(output, *options, "--models", f"small={models / 'naive'}", "--families", "permutation", "matrix")
    assert done.returncode == 0, done.stderr[-3000:]
    return options, output, done


def test_a_plain_model_is_measured_and_nothing_else(inputs, models, tmp_path):
    done = evaluate_plain(tmp_path, models / "naive", "--dataset", inputs / "data", "--split", "val")
    assert done.returncode == 0, done.stderr[-3000:]
    (row,) = results(tmp_path)["records"].values()
    assert row["classes"] == ["LABEL_0", "LABEL_1", "LABEL_2"]
    text = (tmp_path / "results.md").read_text()
    figures = [f"{row[name]:.4f}" for name in ("mean_iou", "mean_accuracy", "overall_accuracy")]
    assert f"| data | naive | {' | '.join(figures)} |" in text
    assert f"| LABEL_1 | {row['per_category_iou'][1]:.4f} |" in text
    assert "No-Enc" not in text + done.stdout
    more = evaluate(tmp_path, models / "naive", "--dataset", inputs / "data", "--split", "val", "--families", "matrix")
    assert more.returncode == 0, more.stderr[-3000:]
    assert [row["condition"] for row in results(tmp_path)["records"].values()] == ["baseline", *CONDITIONS]


def test_windows_scales_and_the_mirrored_image_count_and_are_another_experiment(inputs, models, tmp_path):
    given = (models / "naive", "--dataset", inputs / "data", "--split", "val")
    views = ("--window", 32, "--stride", 16, "--scales", "0.5", "1", "--flip")
    assert evaluate_plain(tmp_path / "whole", *given).returncode == 0
    assert evaluate_plain(tmp_path / "views", *given, *views).returncode == 0
    whole, many = (results(tmp_path / name)["records"]["naive: baseline"] for name in ("whole", "views"))
    assert whole["per_category_iou"] != many["per_category_iou"]
    again = evaluate_plain(tmp_path / "whole", *given, *views)
    assert "holds another experiment (window None, not 32;" in again.stderr


@pytest.mark.parametrize(
    ("words", "model", "models"),
    [
        (["m", "--dataset", "d"], "m", []),
        (["a=m", "--dataset", "d"], None, ["a=m"]),
        (["a=m", "b=n", "--dataset", "d"], None, ["a=m", "b=n"]),
        (["--dataset", "d", "--model", "m"], "m", []),
    ],
    ids=["one", "one with a name", "two", "as an option"],
)
def test_models_come_first(words, model, models):
    found = evaluation_arguments([*words, "--output-dir", "o"], "privseg evaluate")
    assert (found.model, found.models) == (model, models)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected MODEL first"),
        (
            ("m", "--window", "16", "--stride", "17"),
            "expected --stride of 1 to --window 16, which leaves no gap, got --stride 17",
        ),
        (("m", "--scales", "0.5", "0"), "expected --scales to be positive numbers, such as 0.5 1, got [0.5, 0.0]"),
        (("m", "--stride", "16"), "expected --stride together with --window, got --stride 16 alone"),
        (("m", "n"), "different names with their paths"),
    ],
    ids=["no model", "a wide stride", "a scale of 0", "a stride alone", "no names"],
)
def test_wrong_usage_is_refused(inputs, tmp_path, words, message):
    done = evaluate_plain(tmp_path, *words, "--dataset", inputs / "data")
    assert done.returncode in (1, 2)
    assert message in " ".join(done.stderr.split())


def test_the_figures_are_the_papers(first):
    report = results(first[1])
    rows = report["records"]
    assert report["num_images"] == 3
    pairs = [(family, name) for family in ("permutation", "matrix") for name in CONDITIONS]
    assert list(rows) == ["small: baseline"] + [f"small: {family}: {name}" for family, name in pairs]
    baseline = rows["small: baseline"]["mean_iou"]
    for family in ("permutation", "matrix"):
        correct = rows[f"small: {family}: correct K"]
        assert correct["equal_pixels"] > 0.999
        assert correct["mean_iou"] == pytest.approx(baseline, abs=1e-3)
        assert correct["embedding_error"] < 1e-5
        for wrong in CONDITIONS[1:]:
            assert rows[f"small: {family}: {wrong}"]["embedding_error"] > 0.1
            assert rows[f"small: {family}: {wrong}"]["equal_pixels"] < 0.99


def test_table_and_details_are_written_and_the_checks_say_what_failed(first):
    _, output, done = first
    rows = results(output)["records"]
    cells = [
        f"{rows[f'small: {name}']['mean_iou']:.4f}" for name in ("baseline", *(f"matrix: {n}" for n in CONDITIONS))
    ]
    text = (output / "results.md").read_text()
    assert "| data set | decoder | family | baseline | correct K | No-Enc | random K' |" in text
    assert f"| data | naive (small) | matrix | {' | '.join(cells)} |" in text
    assert "| model | family | condition | equal pixels | embedding error (first image) |" in text
    with (output / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [float(row["mean_iou"]) for row in table] == [row["mean_iou"] for row in rows.values()]
    # a model that was never trained has a baseline near chance, so that "useless" must be answered with no
    found = results(output)["checks"]
    assert len(found) == 6
    baseline = rows["small: baseline"]["mean_iou"]
    for line, row in zip(found, list(rows.values())[1:], strict=True):
        passed = line.startswith("yes")
        assert passed == (
            f"{row['mean_iou']:.4f}" == f"{baseline:.4f}"
            if row["condition"] == "correct K"
            else row["mean_iou"] < baseline / 3
        )
        assert line in text
        assert line in done.stdout
    assert any(line.startswith("NO ") for line in found)


@pytest.mark.slow
def test_a_second_run_keeps_what_is_there_and_two_processes_add_the_rest(first, models):
    options, output, _ = first
    before = results(output)
    del before["checks"]
    whole = {name: row for name, row in before["records"].items() if name != "small: matrix: No-Enc"}
    marked = whole | {"small: baseline": whole["small: baseline"] | {"mark": 1}}
    (output / "results.json").write_text(json.dumps(before | {"records": marked}))
    given = ("--models", f"small={models / 'naive'}", f"mla={models / 'mla'}", "--families", "matrix")
    done = evaluate(output, *options, *given, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    report = results(output)
    assert report["records"]["small: baseline"]["mark"] == 1
    assert report["records"]["small: matrix: No-Enc"] == before["records"]["small: matrix: No-Enc"]
    assert len(report["records"]) == 7 + 4
    assert "small: matrix: No-Enc (5 conditions to go)" in done.stderr
    assert not list((output / "unfinished").iterdir())

    alone = evaluate(output / "alone", *options, "--model", models / "mla", "--families", "matrix")
    assert alone.returncode == 0, alone.stderr[-3000:]
    for name, row in results(output / "alone")["records"].items():
        assert row == report["records"][name]  # the same keys, the same counts, by one process or two


def test_another_experiment_is_not_mixed_into_it(first, models):
    options, output, _ = first
    other = evaluate(output, *options, "--models", f"small={models / 'naive'}", "--seed", 1)
    assert other.returncode != 0
    assert "holds another experiment (seed 0, not 1); choose another output folder" in other.stderr


# --------------------------------------------------------------------------- models of other classes

OTHERS = {
    "upernet_on_swin": hf.SegformerImageProcessor(size={"height": 64, "width": 62}),  # the model pads the width
    "dpt": hf.DPTImageProcessor(size={"height": 32, "width": 32}),
    "eomt": hf.EomtImageProcessor(size={"shortest_edge": 32, "longest_edge": 32}, do_pad=True),
    "mask2former_on_swin": hf.Mask2FormerImageProcessor(size={"height": 64, "width": 64}, size_divisor=1),
}

SEEDS = {"upernet_on_swin": 8, "dpt": 10, "eomt": 8, "mask2former_on_swin": 9}  # give maps of several classes


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    for name, processor in OTHERS.items():
        torch.manual_seed(0)  # for the few numbers that `randomize` leaves
        randomize(CASES[name]().model, SEEDS[name]).save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return folder


@pytest.mark.filterwarnings("ignore:the blocks of:UserWarning")
def test_models_of_other_classes_give_the_same_table(inputs, others, tmp_path):
    models = [f"{name}={others / name}" for name in OTHERS]
    options = ("--dataset", inputs / "data", "--split", "val", "--ignore_labels", 2, "--families", "orthogonal")
    done = evaluate(tmp_path, *options, "--models", *models)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = results(tmp_path)["records"]
    assert len(rows) == 4 * len(OTHERS)
    for name in OTHERS:
        baseline, correct, *wrong = (
            rows[f"{name}: {condition}"] for condition in ("baseline", *(f"orthogonal: {each}" for each in CONDITIONS))
        )
        assert 0 < baseline["mean_iou"] < 1
        assert correct["equal_pixels"] > 0.995  # random models are undecided in places
        assert correct["mean_iou"] == pytest.approx(baseline["mean_iou"], abs=5e-3)
        assert correct["embedding_error"] < 1e-4
        for row in wrong:
            assert row["embedding_error"] > 0.1
            assert row["equal_pixels"] < 0.97
    assert "| data | DPTForSemanticSegmentation (dpt) | orthogonal |" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("dpt", ("--window", 32), "windows, scales and mirrored images are for SETR alone"),
        ("vit", (), "expected a model for semantic segmentation, got .*vit, whose ViTImageProcessor.* has no method"),
    ],
    ids=["windows", "no segmentation"],
)
def test_what_another_model_cannot_do_is_refused(inputs, others, tmp_path, name, option, message):
    randomize(CASES["vit"]().model).save_pretrained(others / "vit")
    hf.ViTImageProcessor().save_pretrained(others / "vit")
    options = ("--dataset", inputs / "data", "--split", "val", "--ignore_labels", 2, *option)
    done = evaluate(tmp_path, *options, "--model", others / name)
    assert done.returncode != 0
    assert re.search(message, done.stderr)


# --------------------------------------------------------------------------- what it stands on, in this process


def test_a_condition_that_was_killed_goes_on_where_it_was(inputs, models, tmp_path):
    from accelerate import Accelerator

    arguments = EvaluationArguments(
        dataset=str(inputs / "data"), split="val", model=str(models / "naive"), output_dir=str(tmp_path), cpu=True
    )
    records = Records(tmp_path / "results.json", {}, writes=True)
    experiment = evaluation.Run(arguments, arguments.load_split("val"), records, Accelerator(cpu=True))
    (plain,) = any_plain_models(arguments, "cpu")
    store, known = experiment.store("x"), np.full((48, 64), 2)
    store[1] = known
    seen = []
    plain.model.register_forward_hook(lambda *_: seen.append(1))
    evaluation.predict(evaluation.Condition("", "baseline", plain.model, None), plain, experiment, store)
    assert len(seen) == 2
    assert np.array_equal(store[1], known)
    assert store[0].shape == (48, 64)


def test_encrypted_models_and_other_classes_are_refused(inputs, models, tmp_path):
    from hf_privseg import SetrForSemanticSegmentation
    from hf_privseg.experiments.arguments import ExperimentArguments
    from hf_privseg.experiments.plain_models import plain_models

    model = SetrForSemanticSegmentation.from_pretrained(models / "naive")
    model.encrypt_model(SecretKey.generate()).save_pretrained(tmp_path)
    arguments = ExperimentArguments(dataset=str(inputs / "data"), model=str(tmp_path))
    with pytest.raises(EncryptionStateError, match=f"expected a plain model, .* got {tmp_path}, which is encrypted"):
        next(plain_models(arguments, "cpu"))
    names = inputs / "data" / "classes.json"
    arguments = ExperimentArguments(dataset="", model=str(models / "naive"), id2label=str(names))
    with pytest.raises(ValueError, match=r"the classes of .*classes.json, got .*naive with .*LABEL_0"):
        next(plain_models(arguments, "cpu"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "a", "models": ["x=b"]}, "either --model or --models, got both"),
        ({"models": ["a"]}, r"different names with their paths.* got \['a'\]"),
        ({"models": ["x=a", "x=b"]}, r"got \['x=a', 'x=b'\]"),
    ],
    ids=["both", "no name", "one name twice"],
)
def test_models_that_cannot_be_told_apart_are_refused(options, message):
    from hf_privseg.experiments.arguments import ExperimentArguments, model_sources

    with pytest.raises(ValueError, match=message):
        model_sources(ExperimentArguments(dataset="", **options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": ["rot13"]}, r"expected --families among .*orthogonal.*, got rot13"),
        ({"limit": 0}, "at least 1, got 0"),
    ],
    ids=["family", "limit"],
)
def test_options_out_of_range_are_refused(options, message):
    from hf_privseg.experiments.arguments import ExperimentArguments

    with pytest.raises(ValueError, match=message):
        ExperimentArguments(dataset="", **options)


def test_the_file_tells_every_run_that_added_figures_and_none_that_added_nothing(tmp_path):
    def run(*names):
        records = Records(tmp_path / "results.json", {}, writes=True)
        records._run = {"date": f"2026-01-0{len(names)}"}  # two real runs of one second are alike
        for name in names:
            records.add(name, {})
        records.write()
        return json.loads((tmp_path / "results.json").read_text())["runs"]

    assert run("a", "b") == [{"date": "2026-01-02"}]
    assert run() == [{"date": "2026-01-02"}]
    assert run("c") == [{"date": "2026-01-02"}, {"date": "2026-01-01"}]


def test_results_of_other_weights_under_one_name_are_refused(models, tmp_path):
    from hf_privseg.experiments.arguments import ExperimentArguments
    from hf_privseg.experiments.plain_models import plain_models

    (plain,) = plain_models(ExperimentArguments(dataset="", model=str(models / "naive")), "cpu")
    records = Records(tmp_path / "results.json", {"seed": 0}, writes=True)
    records.bind(plain)
    records.add("row", {"mean_iou": float("nan")})
    assert json.loads((tmp_path / "results.json").read_text())["records"] == {"row": {"mean_iou": None}}
    again = Records(tmp_path / "results.json", {"seed": 0}, writes=False)
    again.bind(plain)
    assert again.rows == records.rows
    assert again.runs == records.runs
    plain.model.get_parameter("decode_head.conv_seg.bias").data += 1
    with pytest.raises(ValueError, match=r"another experiment .model naive: weights_sha256 '[0-9a-f]{64}', not '"):
        again.bind(plain)
