"""The FCN: its dilated backbone against the ResNet that it is made of, its loss, and pretrained weights."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import ConvNextImageProcessor, ResNetBackbone, ResNetConfig, ResNetForImageClassification

from helpers.tiny_setr import labels, pixels, randomize
from hf_privseg.baselines import RESNETS, FcnConfig, FcnForSemanticSegmentation
from hf_privseg.baselines.fcn import dilate
from hf_privseg.setr.modeling_setr import segmentation_loss

TINY: dict[str, object] = {"embedding_size": 8, "depths": [1, 2, 2, 1]}
KINDS = {
    "basic": TINY | {"layer_type": "basic", "hidden_sizes": [8, 8, 12, 16]},
    "bottleneck": TINY | {"layer_type": "bottleneck", "hidden_sizes": [8, 12, 16, 20]},
    "bottleneck, stride first": TINY
    | {"layer_type": "bottleneck", "hidden_sizes": [8, 12, 16, 20], "downsample_in_bottleneck": True},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def tiny_fcn(kind="basic", **kwargs):
    return randomize(FcnForSemanticSegmentation(FcnConfig(backbone_config=KINDS[kind], num_labels=5, **kwargs)))


@each_kind
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_dilation_refines_the_feature_maps_of_the_resnet_and_changes_nothing_else(kind, output_stride):
    config = ResNetConfig.from_dict(KINDS[kind] | {"out_features": ["stage1", "stage2", "stage3", "stage4"]})
    plain = randomize(ResNetBackbone(config))
    dilated = randomize(ResNetBackbone(config))
    dilate(dilated, output_stride)
    image = pixels(1, 48, 80)  # 3 x 5 at stride 16, and a size that stride 32 does not divide
    for fine, coarse, stride in zip(
        dilated(image).feature_maps, plain(image).feature_maps, (4, 8, 16, 32), strict=True
    ):
        step = max(stride // output_stride, 1)
        assert fine.shape[-2:] == tuple(-(-side // min(stride, output_stride)) for side in (48, 80))
        torch.testing.assert_close(fine[..., ::step, ::step], coarse, rtol=1e-4, atol=1e-4)


def test_the_default_is_fcn_r50_and_resnet_18_is_smaller():
    with torch.device("meta"):
        sizes = [
            sum(parameter.numel() for parameter in FcnForSemanticSegmentation(config).parameters())
            for config in (
                FcnConfig(num_labels=21),
                FcnConfig(num_labels=21, backbone_config=RESNETS["resnet-50"]),
                FcnConfig(num_labels=21, backbone_config=RESNETS["resnet-18"], use_auxiliary_head=False),
            )
        ]
    # torchvision's fcn_resnet50 with auxiliary head, and its resnet18 without classifier plus a head of 512 channels
    assert sizes == [35_322_218, 35_322_218, 11_176_512 + 512 * 128 * 9 + 2 * 128 + 128 * 21 + 21]


@each_kind
def test_logits_loss_and_gradients(kind):
    model = tiny_fcn(kind)
    image, target = pixels(2, 32, 48), labels(2, 32, 48)
    logits = model(image).logits
    assert logits.shape == (2, 5, 4, 6)
    outputs = model(image, labels=target)
    assert torch.equal(outputs.logits, logits)
    inner, _ = model.backbone(image).feature_maps
    expected = segmentation_loss(logits, target) + 0.4 * segmentation_loss(model.auxiliary_head(inner), target)
    torch.testing.assert_close(outputs.loss, expected)
    outputs.loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    without_auxiliary = tiny_fcn(kind, use_auxiliary_head=False)
    assert without_auxiliary(image, labels=target).loss != outputs.loss


def test_the_loss_leaves_ignored_pixels_out():
    model, image = tiny_fcn(use_auxiliary_head=False), pixels(1, 32, 32)
    target = torch.full((1, 32, 32), 255)
    assert model(image, labels=target).loss == 0
    target[0, 3, 4] = 2
    logits = torch.nn.functional.interpolate(model(image).logits, size=(32, 32), mode="bilinear")
    torch.testing.assert_close(model(image, labels=target).loss, -logits.log_softmax(1)[0, 2, 3, 4])


def test_a_fresh_model_learns_and_comes_back_from_disk(tmp_path):
    torch.manual_seed(0)
    model = FcnForSemanticSegmentation(FcnConfig(backbone_config=KINDS["basic"], num_labels=3)).train()
    image = pixels(4, 4, 4).repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    target = (image[:, 0] > 0).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = model(image, labels=target).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    model.eval().save_pretrained(tmp_path)
    again = FcnForSemanticSegmentation.from_pretrained(tmp_path)
    assert torch.equal(again(image).logits, model(image).logits)
    convolution = again.backbone.get_submodule("encoder.stages.3.layers.0.layer.1.convolution")
    assert isinstance(convolution, nn.Conv2d)
    assert convolution.dilation == (4, 4)


@pytest.fixture
def pretrained(tmp_path):
    resnet = randomize(ResNetForImageClassification(ResNetConfig.from_dict(KINDS["bottleneck"])))
    resnet.save_pretrained(tmp_path)
    ConvNextImageProcessor(image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.25, 0.3]).save_pretrained(tmp_path)
    return tmp_path, resnet


def test_a_pretrained_classifier_gives_its_stages_and_statistics(pretrained):
    folder, resnet = pretrained
    model = FcnForSemanticSegmentation.from_backbone(folder, num_labels=4, output_stride=32).eval()
    image = pixels(1, 64, 64)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.4, 0.5, 0.6], [0.2, 0.25, 0.3]))
    seen = []
    model.backbone.register_forward_hook(lambda *args: seen.append(args[2].feature_maps[-1]))
    assert model(image).logits.shape == (1, 4, 2, 2)
    expected = resnet.resnet(((image + 1) / 2 - mean) / std).last_hidden_state
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)


def test_statistics_must_come_from_somewhere(pretrained):
    folder, _ = pretrained
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(OSError, match="preprocessor"):
        FcnForSemanticSegmentation.from_backbone(folder)
    model = FcnForSemanticSegmentation.from_backbone(folder, image_mean=[0.1] * 3, image_std=[0.2] * 3)
    assert list(model.config.image_mean) == [0.1] * 3


def test_its_classes_are_numbered_from_0_and_255_may_be_one_of_them():
    assert FcnConfig(num_labels=255).semantic_loss_ignore_index == 255
    assert FcnConfig(num_labels=256).semantic_loss_ignore_index == -100
    with pytest.raises(Exception, match=r"got 0, 255 .*--label-map FILE with"):
        FcnConfig(id2label={0: "a", 255: "b"})


def test_an_output_stride_out_of_range_is_refused():
    with pytest.raises(StrictDataclassError, match="output_stride"):
        FcnConfig(output_stride=4)  # type: ignore[arg-type]  # the mistake under test
