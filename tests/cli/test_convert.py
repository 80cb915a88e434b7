"""`privseg convert`: what it writes, says and refuses, and the card of a converted model."""

import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from safetensors.torch import save_file
from transformers import ViTModel

from helpers import preloaded
from helpers.sources import mmseg_source, source_model
from helpers.tiny_setr import FP32, pixels
from hf_privseg import SetrConfig, SetrForSemanticSegmentation, SetrImageProcessor, convert
from hf_privseg.cli.app import app, main
from hf_privseg.cli.convert import DECODERS, FORMATS, LABELS
from hf_privseg.convert import ConversionError, convert_checkpoint
from hf_privseg.convert.labels import classes_for


@pytest.fixture(autouse=True)
def _forked_readers(monkeypatch):
    """Have pickles read in a process that is forked, and so need not import torch anew."""

    def forked(command, cwd, **_):
        done = preloaded.run("torch", *command[2:], cwd=cwd)
        return subprocess.CompletedProcess(command, done.returncode, done.stdout.encode(), done.stderr.encode())

    monkeypatch.setattr("hf_privseg.convert.loading.subprocess.run", forked)


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Runs `privseg` in a folder of its own -> exit code, stdout, stderr, each on one line."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return ended.value.code or 0, " ".join(out.split()), " ".join(err.split())

    return run


CENTRED = ("--image-mean", "0.5,0.5,0.5", "--image-std", "0.5,0.5,0.5")


@pytest.fixture
def mmseg_file(tmp_path):
    """(our tiny model, its weights in a file as mmsegmentation writes it)"""
    model, weights = mmseg_source(out_indices=[0, 1, 2, 3])
    config = "model = dict(backbone=dict(num_heads=2, out_indices=(0, 1, 2, 3)))"
    names = ("sky", "road", "tree", "car", "dog")
    content = {"meta": {"config": config, "CLASSES": names}, "state_dict": weights}
    torch.save(content, tmp_path / "setr.pth")
    return model, tmp_path / "setr.pth"


def test_a_segmenter_becomes_a_folder_that_is_used_as_any_other(run, mmseg_file, tmp_path):
    model, file = mmseg_file
    code, out, err = run("convert", "setr.pth", "converted", *CENTRED)
    assert code == 0, err
    assert "Wrote converted: mmsegmentation's SETR, decoder naive, 5 classes." in out
    assert "mean (0.5, 0.5, 0.5) and standard deviation (0.5, 0.5, 0.5), as given, into the patch embedding" in out
    assert "UNTRAINED" not in out
    loaded = SetrForSemanticSegmentation.from_pretrained("converted").eval()
    assert loaded.config.id2label[4] == "dog"
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels()).logits, model(pixels()).logits, **FP32)
    assert SetrImageProcessor.from_pretrained("converted").do_pad
    card = (tmp_path / "converted" / "README.md").read_text(encoding="utf-8")
    assert f"| `setr.pth` | `{hashlib.sha256(file.read_bytes()).hexdigest()}` |" in card
    assert "Converted from `setr.pth`, mmsegmentation's SETR." in card
    assert "Names of the classes: as the source has them." in card
    assert "untrained" not in card

    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save("image.png")
    for arguments in (
        ("keygen", "secret.key"),
        ("encrypt-model", "converted", "encrypted", "-k", "secret.key"),
        ("encrypt", "image.png", "--model", "encrypted", "-o", "image.encrypted.safetensors", "-k", "secret.key"),
        ("segment", "image.encrypted.safetensors", "--model", "encrypted", "-o", "map.png"),
    ):
        code, _, err = run(*arguments)
        assert code == 0, err
    with Image.open("map.png") as picture:
        assert picture.size == (30, 20)


def test_saving_again_keeps_where_the_weights_came_from(mmseg_file, tmp_path):
    _, file = mmseg_file
    converted = convert_checkpoint(file)
    converted.save_pretrained(tmp_path / "converted")
    converted.model.save_pretrained(tmp_path / "converted")
    card = (tmp_path / "converted" / "README.md").read_text(encoding="utf-8")
    assert card.count("## Where the weights come from") == 1
    assert "ImageNet's, assumed since the source names none" in card
    assert "Weights of the source that are not used:\nnone\n" in card


def test_an_encoder_gets_a_decoder_to_be_trained_and_the_licence_goes_with_it(run, tmp_path):
    source_model(ViTModel).save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "LICENSE").write_text("terms")
    code, out, err = run("convert", "vit", "setr", "--decoder", "pup", "--labels", "cityscapes")
    assert code == 0, err
    assert "Wrote setr: a Hugging Face ViT or DeiT, decoder pup, 19 classes." in out
    assert "ImageNet's, assumed since the source names none" in out
    assert (
        "Not used: `pooler.dense.bias`, `pooler.dense.weight`: SETR reads the patch tokens, not a pooled one." in out
    )
    assert "the decoder is UNTRAINED" in out
    assert "Next: privseg train --checkpoint setr --decoder pup" in out
    card = (tmp_path / "setr" / "README.md").read_text(encoding="utf-8")
    assert "**The decoder is untrained**" in card
    assert "- `pooler.dense.bias`, `pooler.dense.weight`: SETR reads the patch tokens" in card
    assert (tmp_path / "setr" / "LICENSE").read_text() == "terms"
    config = SetrForSemanticSegmentation.from_pretrained("setr").config
    assert (config.decoder_type, config.id2label[18]) == ("pup", "bicycle")


def test_options_reach_the_conversion(run, tmp_path):
    _, weights = mmseg_source("mla")
    save_file(weights, tmp_path / "mla.safetensors")
    arguments = ("convert", "mla.safetensors", "setr", "--format", "mmseg", "--num-attention-heads", "4")
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "Not used: `backbone.cls_token`: this encoder drops the class token before its first layer." in out
    assert SetrForSemanticSegmentation.from_pretrained("setr").config.num_attention_heads == 4
    assert run(*arguments)[2].startswith("error: setr exists")
    assert run(*arguments, "--force")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("absent.pth", "out"), "error: expected a checkpoint's file or folder, got absent.pth, which does not exist"),
        (("setr.pth", "out", "--format", "timm"), "error: expected the names of timm's VisionTransformer, got"),
        (("setr.pth", "out", "--labels", "ade20k"), "error: expected 5 class names"),
    ],
    ids=["absent", "format", "labels"],
)  # fmt: skip
def test_errors_are_one_line_and_nothing_is_written(run, mmseg_file, tmp_path, arguments, message):
    before = sorted(tmp_path.iterdir())
    code, _, err = run("convert", *arguments)
    assert code == 1
    assert err.startswith(message)
    assert "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        (
            "--image-mean",
            "a,b",
            "expected --image-mean to be numbers separated by commas, such as 0.5,0.5,0.5, got 'a,b'",
        ),
        ("--out-indices", "1,x", "expected --out-indices to be layer numbers separated by commas, such as 9,14,19,23"),
        ("--format", "onnx", f"expected one of {', '.join(FORMATS)}, got 'onnx'"),
        ("--decoder", "fcn", "expected one of naive, pup, mla, got 'fcn'"),
    ],
    ids=["numbers", "layers", "format", "decoder"],
)
def test_options_that_mean_nothing_are_wrong_usage(run, mmseg_file, option, value, message):
    code, _, err = run("convert", "setr.pth", "out", option, value)
    assert code == 2
    assert message in " ".join(err.replace("│", "").split())


def test_the_choices_are_what_the_conversion_knows():
    assert set(FORMATS) == {"auto", *convert.FORMATS}
    assert get_args(SetrConfig.__annotations__["decoder_type"]) == DECODERS
    for labels in LABELS:
        assert classes_for(None, labels, None, None).fields["id2label"]
    with pytest.raises(
        ConversionError,
        match=rf"expected labels \(--labels\) {' or '.join(LABELS)}, .*, got 'coco'",
    ):
        classes_for(None, "coco", None, None)


def test_json_says_what_became_of_the_source(capsys, mmseg_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["convert", "setr.pth", "converted", *CENTRED, "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["path"] == "converted"
    assert (facts["decoder_type"], facts["num_labels"], facts["decoder_is_trained"]) == ("naive", 5, True)
    assert "as given, into the patch embedding" in facts["folded"][0]


CONFIG = """
model = dict(
    backbone=dict(type='VisionTransformer', num_heads=4, out_indices=(1, 2, 3)),
    decode_head=dict(type='SETRUPHead'),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
"""


def test_a_configuration_is_read_beside_a_state_dict_and_out_indices_win(run, tmp_path):
    _, weights = mmseg_source(out_indices=[1, 2, 3])
    save_file(weights, tmp_path / "setr.safetensors")
    (tmp_path / "config.py").write_text(CONFIG)
    code, out, err = run("convert", "setr.safetensors", "one", "--config", "config.py")
    assert code == 0, err
    assert "Its configuration evaluates it by windows: --window 512 --stride 341." in out
    assert SetrForSemanticSegmentation.from_pretrained("one").config.out_indices == [1, 2, 3]
    given = ("convert", "setr.safetensors", "two", "--config", "config.py", "--out-indices", "0,2,3")
    assert run(*given)[0] == 0
    assert SetrForSemanticSegmentation.from_pretrained("two").config.out_indices == [0, 2, 3]
    code, _, err = run("convert", "setr.safetensors", "three", "--num-attention-heads", "4", "--out-indices", "3")
    assert code == 1
    assert "expected out_indices of the 3 layers" in err
    assert "(--config CONFIG.py)" in err


def test_a_configuration_that_is_no_data_names_its_line(run, mmseg_file, tmp_path):
    (tmp_path / "config.py").write_text("import os\n")
    code, _, err = run("convert", "setr.pth", "out", "--config", "config.py")
    assert code == 1
    assert err.startswith("error: config.py, line 1: expected an assignment to a name")


def test_a_configuration_for_an_encoder_is_refused(run, tmp_path):
    source_model(ViTModel).save_pretrained(tmp_path / "vit")
    (tmp_path / "config.py").write_text(CONFIG)
    code, _, err = run("convert", "vit", "setr", "--config", "config.py")
    assert code == 1
    assert "expected a configuration (--config) for a checkpoint of mmsegmentation alone" in err


def test_every_option_that_an_error_names_exists():
    root: Any = typer.main.get_command(app)
    known = {name for parameter in root.commands["convert"].params for name in parameter.opts}
    texts = [path.read_text(encoding="utf-8") for path in Path(convert.__file__).parent.glob("*.py")]
    named = {option for text in texts for option in re.findall(r"--[a-z][a-z-]+", text)}
    others = {"--local-dir"}  # of `hf download`
    assert {"--out-indices", "--config", "--labels"} <= named - others <= known
