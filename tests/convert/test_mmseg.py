"""mmsegmentation's checkpoints: names, sizes, classes, statistics, and what stops a conversion."""

import json
import re
from typing import Any

import pytest
import torch

from helpers.golden import GOLDEN, needs_golden
from helpers.sources import HALF, mmseg_source
from helpers.tiny_setr import DECODERS, FP32, labels, pixels
from hf_privseg.catalog.datasets import PRESETS
from hf_privseg.convert import Checkpoint, ConversionError, convert_checkpoint


def converted(weights, meta=None, **kwargs):
    settings: dict[str, Any] = {"num_attention_heads": 2, "image_mean": HALF, "image_std": HALF, **kwargs}
    return convert_checkpoint(Checkpoint(weights, meta=meta or {}), **settings)


# --------------------------------------------------------------------------------------------------- whole models


@pytest.mark.parametrize("auxiliary", [True, False], ids=["auxiliary", "alone"])
@pytest.mark.parametrize("decoder", DECODERS)
@torch.no_grad()
def test_a_state_dict_gives_the_model_that_it_came_from(decoder, auxiliary):
    model, weights = mmseg_source(decoder, use_auxiliary_head=auxiliary, auxiliary_num_stages=2)
    found = converted(weights, out_indices=model.config.out_indices).model
    # what no weight tells, for it is of no use there
    untold = set() if auxiliary and decoder != "mla" else {"auxiliary_num_stages"}
    untold |= set() if decoder == "mla" else {"mla_hidden_size"}
    expected = model.config.to_dict() | {name: getattr(found.config, name) for name in untold}
    assert found.config.to_dict() == expected
    for ours, theirs in zip(
        found(pixels(), labels=labels()).to_tuple(), model(pixels(), labels=labels()).to_tuple(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, **FP32)
    assert not found.training


def test_half_precision_becomes_float32():
    _, weights = mmseg_source()
    half = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    model = converted(half).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


ZOO = {  # name: image size, classes, stages of the auxiliary heads, first and last class
    "naive_ade20k": (512, 150, 2, "wall", "flag"),
    "naive_cityscapes": (768, 19, 1, "road", "bicycle"),
    "pup_ade20k": (512, 150, 2, "wall", "flag"),
    "pup_cityscapes": (768, 19, 2, "road", "bicycle"),
    "mla_ade20k": (512, 150, None, "wall", "flag"),
    "mla_cityscapes": (768, 19, None, "road", "bicycle"),
}


@needs_golden
@pytest.mark.parametrize("name", ZOO)
def test_every_weight_of_the_published_models_has_its_place(name):
    shapes = json.loads((GOLDEN / "zoo_keys" / f"keys_{name}.json").read_text())
    weights = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    result = convert_checkpoint(Checkpoint(weights))
    image_size, num_labels, stages, first, last = ZOO[name]
    config = result.model.config
    decoder = name.split("_")[0]
    assert (config.decoder_type, config.image_size, config.num_labels) == (decoder, image_size, num_labels)
    names = list((config.id2label or {}).values())
    assert (names[0], names[-1]) == (first, last)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (1024, 24, 16)
    assert config.out_indices == ([5, 11, 17, 23] if decoder == "mla" else [9, 14, 19, 23])
    assert stages is None or config.auxiliary_num_stages == stages
    assert set(result.provenance.unused) == ({"backbone.cls_token"} if decoder == "mla" else set())
    assert config.use_cls_token == (decoder != "mla")
    parameters = sum(value.numel() for value in weights.values())
    left_out = 2 * 1024 if decoder == "mla" else 0  # class token and its position
    assert sum(value.numel() for value in result.model.state_dict().values()) == parameters - left_out


# ------------------------------------------------------------------------------------ what a checkpoint says of itself

OLD_CONFIG = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
img_norm_cfg = dict(mean=[51.0, 102.0, 153.0], std=[25.5, 51.0, 76.5], to_rgb=True)
model = dict(
    type='EncoderDecoder',
    backbone=dict(type='VisionTransformer', num_heads=4, out_indices=(0, 1, 2, 3), with_cls_token=True,
                  norm_cfg=dict(type='LN', eps=1e-05), interpolate_mode='bicubic', drop_rate=-0.0),
    decode_head=dict(type='SETRUPHead', align_corners=False, sampler=SomeClass(1)),
    train_cfg=dict())
"""
NEW_CONFIG = """
data_preprocessor = {'type': 'SegDataPreProcessor', 'mean': [51.0, 102.0, 153.0], 'std': [25.5, 51.0, 76.5]}
model = dict(backbone=dict(num_heads=4, out_indices=[0, 1, 2, 3]), decode_head=dict(x=other))
model['neck'] = 3
"""


@pytest.mark.parametrize(("entry", "text"), [("config", OLD_CONFIG), ("cfg", NEW_CONFIG)], ids=["old", "new"])
def test_the_configuration_in_the_file_is_read(entry, text):
    _, weights = mmseg_source(out_indices=[0, 1, 2, 3])
    result = convert_checkpoint(Checkpoint(weights, meta={entry: text}))
    config = result.model.config
    assert (config.num_attention_heads, config.out_indices) == (4, [0, 1, 2, 3])
    assert config.layer_norm_eps == (1e-5 if entry == "config" else 1e-6)
    assert config.position_interpolation == ("bicubic" if entry == "config" else "bilinear")
    assert result.provenance.mean == pytest.approx((0.2, 0.4, 0.6))
    assert result.provenance.std == pytest.approx((0.1, 0.2, 0.3))
    assert result.provenance.statistics_from == "as the source's configuration says"
    assert result.processor.pad_value == pytest.approx([-0.6, -0.2, 0.2])
    assert result.processor.do_pad


def test_a_configuration_is_never_run(tmp_path):
    path = tmp_path / "ran"
    text = f"open({str(path)!r}, 'w')\nmodel = dict(backbone=open({str(path)!r}, 'w'))\nx = [i for i in range(3)]"
    _, weights = mmseg_source()
    converted(weights, meta={"cfg": text})
    assert not path.exists()
    with pytest.raises(ConversionError, match=r"configuration in the checkpoint's meta, got .*line 1"):
        converted(weights, meta={"cfg": "model = dict("})


NAMES = ["road ", "car", "tree", "sky", "dog"]
PALETTE = [[index, 2 * index, 255] for index in range(5)]


@pytest.mark.parametrize(
    "meta",
    [{"CLASSES": tuple(NAMES), "PALETTE": PALETTE}, {"dataset_meta": {"classes": NAMES, "palette": PALETTE}}],
    ids=["old", "new"],
)
def test_classes_and_palette_come_from_the_file(meta):
    _, weights = mmseg_source()
    result = converted(weights, meta)
    assert result.model.config.id2label == dict(enumerate(["road", "car", "tree", "sky", "dog"]))
    assert result.model.config.label2id["dog"] == 4
    assert result.model.config.palette == PALETTE
    assert result.provenance.classes == "as the source has them"


@pytest.mark.parametrize(("count", "name"), [(150, "ade20k"), (19, "cityscapes"), (5, None)], ids=str)
def test_otherwise_the_number_of_classes_tells_the_data_set(count, name):
    result = converted(mmseg_source(num_labels=count)[1])
    config = result.model.config
    assert config.num_labels == count
    if name is None:
        assert config.id2label[4] == "LABEL_4"
        assert "numbered" in result.provenance.classes
    else:
        assert tuple(config.id2label.values()) == PRESETS[name].class_names
        assert config.palette == [list(colour) for colour in PRESETS[name].palette]
        assert PRESETS[name].credit in result.provenance.classes
    assert result.processor.do_reduce_labels == (name == "ade20k")
    assert (dict(result.processor.size) if result.processor.size else None) == (
        {"shortest_edge": 512, "longest_edge": 2048} if name == "ade20k" else None
    )


def test_a_file_names_the_classes(tmp_path):
    (tmp_path / "names.json").write_text('{"names": ["e", "d", "c", "b", "a"]}')
    result = converted(mmseg_source(num_labels=5)[1], labels=str(tmp_path / "names.json"))
    assert result.model.config.id2label == dict(enumerate("edcba"))
    assert result.provenance.classes == "as asked for"
    (tmp_path / "names.txt").write_text("a\n\nb\n")
    with pytest.raises(ConversionError, match=r"names\.txt: expected one name a line, got an empty line 2"):
        converted(mmseg_source(num_labels=5)[1], labels=str(tmp_path / "names.txt"))


# ------------------------------------------------------------------------------------------ what stops a conversion


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"labels": "ade20k"},
            r"expected 5 class names, .* got 150; choose other labels \(--labels ade20k, cityscapes, or a",
        ),
        (
            {"labels": "coco"},
            r"expected labels \(--labels\) ade20k or cityscapes, the path of a file with .*, or none, got 'coco'",
        ),
        ({"meta": {"CLASSES": NAMES[:4]}}, r"expected 5 class names, .* got 4"),
        ({"meta": {"CLASSES": NAMES, "PALETTE": PALETTE[:3]}}, r"expected 5 colours, .* got 3"),
        ({"format": "keras"}, r"expected the format \(--format\) auto, mmseg, vit, dinov2, timm, got 'keras'"),
        ({"format": "timm"}, r"expected the names of timm's VisionTransformer, got a checkpoint with auxiliary_head"),
        ({"decoder": "pup"}, r"expected no decoder \(--decoder\) or naive, which the checkpoint has, got pup"),
        ({"image_mean": [123.675, 116.28, 103.53]}, r"image_mean .*divide them by 255\).* got \[123\.675, 116\.28"),
        ({"image_std": [0.5]}, r"expected image_std .--image-std. to be 3 numbers .* got \[0\.5\]"),
        ({"image_std": [0.5, 0, 0.5]}, r"no deviation of 0"),
        ({"out_indices": [3]}, r"out_indices of the 4 layers .* got \[3\]"),
        ({"meta": {"cfg": "model = dict(decode_head=dict(align_corners=True))"}}, "got one with align_corners=True"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_settings_that_do_not_fit_are_refused(kwargs, message):
    with pytest.raises(ConversionError, match=message):
        converted(mmseg_source(out_indices=[0, 1, 2, 3])[1], **{"out_indices": [0, 1, 2, 3]} | kwargs)


@pytest.mark.parametrize(
    ("decoder", "changes", "message"),
    [
        ("naive", {"backbone.patch_embed.projection.bias": None}, r"1 missing \(backbone\.patch_embed\.proj"),
        ("naive", {"backbone.ln1.weight": torch.ones(32)}, r"1 unexpected \(backbone\.ln1\.weight\)"),
        ("pup", {"backbone.cls_token": None}, r"1 missing \(backbone\.cls_token\)"),
        ("pup", {"decode_head.up_convs.1.0.conv.weight": torch.ones(1)}, r"misshapen \(decode_head\.up_convs\.1\.0"),
        ("pup", {"decode_head.conv_seg.weight": None}, r"expected decode_head\.conv_seg\.weight, which tells a size"),
        ("mla", {"neck.mla.feat_extract.3.bn.running_var": None}, r"missing \(neck\.mla\.feat_extract\.3\.bn\.run"),
        ("mla", {"backbone.layers.3.attn.attn.in_proj_bias": None}, r"missing \(backbone\.layers\.3\.attn\.attn"),
        ("mla", {"backbone.layers.2.ln2.bias": torch.ones(3)}, r"ln2\.bias \[3\] instead of \[32\]"),
        ("naive", {"decode_head.up_convs.0.0.conv.weight": torch.ones(4, 32, 7, 7)}, r"decoder of SETR .*decode_h"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)  # fmt: skip
def test_a_wrong_weight_stops_the_conversion_and_is_named(decoder, changes, message):
    _, weights = mmseg_source(decoder, out_indices=[0, 1, 2, 3])
    assert all(value is not None or key in weights for key, value in changes.items())
    weights = {name: value for name, value in (weights | changes).items() if value is not None}
    with pytest.raises(ConversionError, match=message):
        converted(weights, out_indices=[0, 1, 2, 3])


def test_a_checkpoint_of_no_known_format_is_named():
    with pytest.raises(ConversionError, match=re.escape("timm's VisionTransformer, got a checkpoint with a.weight,")):
        convert_checkpoint(Checkpoint({"a.weight": torch.ones(1)}))


BAD_SETTINGS = [
    ("model = 5", "model in the source's configuration to be a dictionary, got 5"),
    ("model = dict(backbone=[])", "backbone in the source's configuration to be a dictionary, got []"),
    (
        "model = dict(backbone=dict(num_heads='2'))",
        "num_heads in the source's configuration to be an int",
    ),
    ("model = dict(backbone=dict(num_heads=-2))", "num_heads in the source's configuration to be an int"),
    ("model = dict(backbone=dict(interpolate_mode='x'))", "interpolate_mode in the source's configuration to be"),
    ("model = dict(backbone=dict(norm_cfg=dict(eps='x')))", "eps in the source's configuration to be a positive"),
    ("model = dict(backbone=dict(out_indices=dict(a=1)))", "out_indices in the source's configuration to be a layer"),
    ("model = dict(backbone=dict(with_cls_token=1))", "with_cls_token in the source's configuration to be True or"),
    ("img_norm_cfg = dict(mean=[1, 'a', 3], std=[1, 1, 1])", "mean in the source's configuration to be a list of"),
    ("img_norm_cfg = dict(mean=[1, 2, 1e999], std=[1, 1, 1])", "mean in the source's configuration to be a list"),
    ("data_preprocessor = dict(mean=5, std=6)", "mean in the source's configuration to be a list of numbers"),
    ("x = 1\0", "the text of a configuration in the checkpoint's meta, got"),
    ("x = " + "-" * 100000 + "1", "the text of a configuration in the checkpoint's meta, got"),
    ("#" * 2**21, "the text of a configuration in the checkpoint's meta, got 2097152 characters"),
]


@pytest.mark.parametrize(("text", "message"), BAD_SETTINGS, ids=range(len(BAD_SETTINGS)))
def test_a_configuration_of_wrong_types_is_refused_field_by_field(text, message):
    _, weights = mmseg_source(out_indices=[0, 1, 2, 3])
    num_attention_heads = None if "num_heads" in text else 2
    out_indices = None if "out_indices" in text else [0, 1, 2, 3]
    with pytest.raises(ConversionError, match=re.escape(message)):
        convert_checkpoint(
            Checkpoint(weights, meta={"cfg": text}), num_attention_heads=num_attention_heads, out_indices=out_indices
        )


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"CLASSES": 5}, "class names to be a list of texts, got 5"),
        ({"CLASSES": [1, 2, 3, 4, 5]}, "class names to be a list of texts, got [1, 2"),
        ({"PALETTE": [[0, 0, 256]] * 5}, "three integers in 0..255, got [[0, 0, 256]"),
        ({"PALETTE": [[0, 0]] * 5}, "three integers in 0..255, got [[0, 0]"),
        ({"dataset_meta": 5}, "dataset_meta in the source's configuration to be a dictionary, got 5"),
    ],
    ids=["no list", "numbers", "level", "channels", "no dictionary"],
)
def test_classes_and_colours_of_wrong_types_are_refused(meta, message):
    with pytest.raises(ConversionError, match=re.escape(message)):
        converted(mmseg_source()[1], meta)
