"""Configuration files of mmsegmentation, in the forms that 0.x and 1.x write, and what is refused with its line."""

import pytest

from helpers.sources import mmseg_source
from hf_privseg.convert import Checkpoint, ConversionError, convert_checkpoint
from hf_privseg.convert.mmseg import windows_of
from hf_privseg.convert.mmseg_config import read_config_file

MODEL = """
# model settings
backbone_norm_cfg = dict(type='LN', eps=1e-6, requires_grad=True)
norm_cfg = dict(type='SyncBN', requires_grad=True)
{preprocessor}
model = dict(
    type='EncoderDecoder',
    {use_preprocessor}
    pretrained='pretrain/jx_vit_large_p16_384-b3be5167.pth',
    backbone=dict(
        type='VisionTransformer', img_size=(768, 768), patch_size=16, in_channels=3, embed_dims=32, num_layers=4,
        num_heads=4, out_indices=(0, 1, 2, 3), drop_rate=0.1, norm_cfg=backbone_norm_cfg, with_cls_token=True,
        interpolate_mode='bilinear'),
    decode_head=dict(
        type='SETRUPHead', in_channels=32, channels=256, num_classes=19, norm_cfg=norm_cfg, num_convs=1, up_scale=4,
        kernel_size=1, align_corners=False, loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0)),
    auxiliary_head=[
        dict(type='SETRUPHead', in_index=0, num_classes=19, norm_cfg=norm_cfg),
        dict(type='SETRUPHead', in_index=1, num_classes=19, norm_cfg=norm_cfg)],
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
"""
PREPROCESSOR = """data_preprocessor = dict(
    type='SegDataPreProcessor', mean=[127.5, 127.5, 127.5], std=[51, 51, 51], bgr_to_rgb=True, pad_val=0,
    seg_pad_val=255)"""
NEW = {
    "_base_/models/setr.py": MODEL.format(
        preprocessor=PREPROCESSOR, use_preprocessor="data_preprocessor=data_preprocessor,"
    ),
    "_base_/datasets/mine.py": """
dataset_type = 'BaseSegDataset'
data_root = 'data/mine/'
crop_size = (512, 512)
metainfo = dict(classes=('a', 'b', 'c', 'd', 'e'), palette=[[0, 0, 0], [1, 1, 1], [2, 2, 2], [3, 3, 3], [4, 4, 4]])
img_ratios = [0.5, 0.75, 1.0]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResize', scale=(2048, 1024), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75)]
tta_pipeline = [
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale_factor=r, keep_ratio=True) for r in img_ratios],
        [dict(type='RandomFlip', prob=0.), dict(type='RandomFlip', prob=1.)]])]
train_dataloader = dict(
    batch_size=4, num_workers=4, sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, ann_file=f'{data_root}train.txt', metainfo=metainfo,
                 pipeline=train_pipeline))
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator
""",
    "setr/mine.py": """
_base_ = ['../_base_/models/setr.py', '../_base_/datasets/mine.py']
crop_size = (512, 512)
data_preprocessor = dict(size=crop_size)
num_stages = 1 + 1
model = dict(
    data_preprocessor=data_preprocessor,
    pretrained=None,
    backbone=dict(img_size=(512, 512), drop_rate=0., norm_cfg=dict(eps=1e-5),
                  init_cfg=dict(type='Pretrained', checkpoint='pretrain/vit_large_p16.pth')),
    decode_head=dict(num_classes=5, num_convs=num_stages),
    auxiliary_head=[dict(type='SETRUPHead', in_index=0, num_classes=5)],
    test_cfg=dict(_delete_=True, mode='slide', crop_size=(512, 512), stride=(341, 341)))
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(lr=0.001, weight_decay=0.0),
    paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=10.)}))
""",
}
OLD = {
    "_base_/models/setr.py": MODEL.format(preprocessor="", use_preprocessor=""),
    "_base_/datasets/mine.py": """
dataset_type = 'CustomDataset'
img_norm_cfg = dict(mean=[127.5, 127.5, 127.5], std=[51, 51, 51], to_rgb=True)
test_pipeline = [
    dict(type='MultiScaleFlipAug', img_scale=(2048, 512), flip=False, transforms=[
        dict(type='Normalize', **img_norm_cfg), dict(type='Collect', keys=['img'])])]
data = dict(
    samples_per_gpu=4,
    train=dict(type=dataset_type, classes=['a', 'b', 'c', 'd', 'e'], pipeline=test_pipeline))
""",
    "setr/mine.py": """
_base_ = ['../_base_/models/setr.py', '../_base_/datasets/mine.py']
model = dict(
    backbone=dict(norm_cfg=dict(eps=1e-5)),
    decode_head=dict(num_classes=5),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)))
test_pipeline = {{_base_.test_pipeline}}
optimizer = dict(lr=0.001, weight_decay=-0.0, paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=10.)}))
""",
}


def written(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / list(files)[-1]


@pytest.mark.parametrize("files", [OLD, NEW], ids=["0.x", "1.x"])
def test_a_configuration_and_its_bases_say_what_no_shape_tells(tmp_path, files):
    _, weights = mmseg_source(out_indices=[0, 1, 2, 3])
    found = convert_checkpoint(Checkpoint(weights), config_file=written(tmp_path, files))
    config = found.model.config
    assert (config.num_attention_heads, config.out_indices, config.layer_norm_eps) == (4, [0, 1, 2, 3], 1e-5)
    assert config.id2label == dict(enumerate("abcde"))
    assert found.provenance.mean == (0.5, 0.5, 0.5)
    assert found.provenance.std == (0.2, 0.2, 0.2)
    assert found.windows == (512, 341)


def test_bases_merge_as_mmengine_merges_them(tmp_path):
    found = read_config_file(written(tmp_path, NEW))
    assert found["model"]["pretrained"] is None
    assert found["model"]["backbone"]["norm_cfg"] == {"type": "LN", "eps": 1e-5, "requires_grad": True}
    assert found["model"]["test_cfg"] == {"mode": "slide", "crop_size": [512, 512], "stride": [341, 341]}
    assert len(found["model"]["auxiliary_head"]) == 1
    assert found["model"]["decode_head"]["num_convs"] == 2
    assert found["train_dataloader"]["dataset"]["ann_file"] == "data/mine/train.txt"
    scales = [each["scale_factor"] for each in found["tta_pipeline"][0]["transforms"][0]]
    assert scales == [0.5, 0.75, 1.0]
    assert windows_of(found | {"model": {"test_cfg": {"mode": "whole"}}}) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import os", r"line 1: expected an assignment .* got 'import os'; give the merged file"),
        ("a = 1\nb = open('x')", r"line 2: expected dict\(name=value, \.\.\.\), .* got \"open\('x'\)\""),
        ("a = __import__('os').system('true')", "line 1"),
        ("a = dict.fromkeys([1])", "line 1"),
        ("a = (1).__class__", r"line 1: expected _base_\.name"),
        ("if True:\n    a = 1", "line 1: expected an assignment"),
        ("with read_base():\n    from .x import *", "line 1: expected an assignment"),
        ("a = dict(x=1)\na['x'] = 2", "line 2: expected an assignment to a name"),
        ("a = b", "line 1: expected a name that was assigned before"),
        ("a = lambda: 1", "line 1: expected a plain value"),
        ("a = [x for x in [1] if x]", "line 1"),
        ("a = 'x' * 10**9", "line 1: expected a sum or product of numbers"),
        ("a = 2 ** 10", "line 1: expected a sum or product of numbers"),
        ("a = 9\n" + "a = a * a\n" * 60, "a number of ordinary size"),
        ("a = 1 / 0", r"line 1: .*\(division by zero\)"),
        ("a = [1]\nb = a[3]", r"line 2: .*\(list index out of range\)"),
        ("a = (", "line 1: expected Python"),
        ("_base_ = 'absent.py'", r"line 1: expected the file .*absent\.py, .* but it does not exist"),
        ("_base_ = 'mmseg::_base_/models/setr_mla.py'", "line 1: expected _base_ to be paths of .py files"),
        ("_base_ = '/etc/passwd'", "line 1: expected _base_ to be paths of .py files"),
        ("_base_ = 'config.py'", "not based on themselves"),
        ("a = " + "[" * 5000 + "]" * 5000, "config.py"),
        ("a = ['x']\n" + "a = [a, a, a, a, a, a, a, a]\n" * 9, "does not end"),
        ("b = ['x']\n" + "b = [[a, a, a, a] for a in [b]]\n" * 20, "does not end"),
        ("c = '" + "x" * 2**16 + "'\nc = [" + "c, " * 99 + "]", "does not end"),
        ("a = [0]\n" + "\n".join(f"a = [a for x in {[0] * 99}]" for _ in range(20000)), "config.py|does not end"),
    ],
    ids=lambda value: value[:20].split("\n")[0],
)
def test_what_is_no_setting_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "config.py"
    path.write_text(text)
    with pytest.raises((ConversionError, FileNotFoundError), match=message):
        read_config_file(path)


def test_bases_that_double_what_they_are_based_on_are_refused(tmp_path):
    files = {"0.py": "x = ['x']"}
    files |= {f"{n}.py": f"_base_ = '{n - 1}.py'\nx = [{{{{_base_.x}}}}, _base_.x, _base_.x]" for n in range(1, 20)}
    with pytest.raises(ConversionError, match="does not end"):
        read_config_file(written(tmp_path, files))


def test_two_bases_with_one_name_and_a_dictionary_in_place_of_a_number_are_refused(tmp_path):
    files = {"a.py": "x = 1", "b.py": "x = 2", "both.py": "_base_ = ['a.py', 'b.py']"}
    with pytest.raises(ConversionError, match=r"names of their own, got x in b\.py"):
        read_config_file(written(tmp_path, files))
    files = {"a.py": "x = 1", "child.py": "_base_ = 'a.py'\nx = dict(y=1)"}
    with pytest.raises(ConversionError, match="expected x to be no dictionary"):
        read_config_file(written(tmp_path, files))


def test_a_model_of_bgr_images_is_refused(tmp_path):
    changed = {name: text.replace("to_rgb=True", "to_rgb=False") for name, text in OLD.items()}
    _, weights = mmseg_source(out_indices=[0, 1, 2, 3])
    with pytest.raises(ConversionError, match="expected a model of RGB images"):
        convert_checkpoint(Checkpoint(weights), config_file=written(tmp_path, changed))
