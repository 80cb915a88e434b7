"""A fully convolutional network: a ResNet of transformers, dilated, with the FCN head of torchvision.

It takes pixels in [-1, 1] and has SETR's loss, so that SETR's processor, data, metric and training work with it.
Paper: Long, Shelhamer, Darrell, "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015; with dilated
stages (output stride 8) and an auxiliary head it is the FCN that model zoos publish.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, cast

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torchvision.models.segmentation.fcn import FCNHead
from transformers import AutoImageProcessor, PreTrainedConfig, PreTrainedModel, ResNetBackbone, ResNetConfig
from transformers import initialization as init
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils.generic import TransformersKwargs, can_return_tuple

from ..setr.class_names import check_class_names, void_label
from ..setr.modeling_setr import segmentation_loss

RESNETS: dict[str, dict[str, Any]] = {
    "resnet-18": {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
    "resnet-50": {"layer_type": "bottleneck", "hidden_sizes": [256, 512, 1024, 2048], "depths": [3, 4, 6, 3]},
}


@strict
class FcnConfig(PreTrainedConfig):
    r"""Sizes of an FCN; the defaults are FCN-R50 with output stride 8.

    Args:
        backbone_config: fields of `ResNetConfig`, such as `RESNETS["resnet-18"]`. None is ResNet-50.
        output_stride: side of a pixel of the last feature map in pixels of the input: 8, 16 or 32. Stages that would
            exceed it are dilated instead; the parameters are the same for all three.
        image_mean, image_std: the statistics that the backbone was trained with, one number a channel, for pixels in
            [0, 1]. The default fits a backbone that is trained from scratch.
        use_auxiliary_head: whether there is an auxiliary head on the last stage but one, for training.
        auxiliary_loss_weight: weight of its loss.
        semantic_loss_ignore_index: the label that the loss leaves out. None means 255, or -100 where 255 is a class.
    """

    model_type = "privseg_fcn"

    backbone_config: dict[str, Any] | None = None
    output_stride: Literal[8, 16, 32] = 8
    image_mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    use_auxiliary_head: bool = True
    auxiliary_loss_weight: float = 0.4
    semantic_loss_ignore_index: int | None = None

    if TYPE_CHECKING:  # an argument that is no field
        num_labels: int = 2

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.semantic_loss_ignore_index is None:
            self.semantic_loss_ignore_index = void_label(len(self.id2label or ()))

    def validate_id2label(self) -> None:
        """Refuse fewer than two classes, and ids with gaps."""
        check_class_names(cast("dict[int, str]", self.id2label))


class FcnForSemanticSegmentation(PreTrainedModel):
    """A fully convolutional network that maps pixels to logits, at 1 / `output_stride` of the input's size."""

    config: FcnConfig
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012 - transformers declares these as lists

    def __init__(self, config: FcnConfig):
        super().__init__(config)
        resnet = ResNetConfig(**(config.backbone_config or {}))
        resnet.out_features = resnet.stage_names[-2:]
        self.backbone = ResNetBackbone(resnet)
        dilate(self.backbone, config.output_stride)
        inner, last = list(resnet.hidden_sizes or ())[-2:]
        self.decode_head = FCNHead(last, config.num_labels)
        self.auxiliary_head = FCNHead(inner, config.num_labels) if config.use_auxiliary_head else None
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FCNHead):
            init.kaiming_normal_(module[0].weight, mode="fan_out", nonlinearity="relu")
            init.normal_(module[-1].weight, std=0.01)
            init.zeros_(module[-1].bias)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SemanticSegmenterOutput:
        """`(batch, channels, height, width)` in [-1, 1] -> logits `(batch, labels, h, w)`, and the loss given labels.

        Args:
            pixel_values: plain pixels, or encrypted ones by the cipher that the network was trained with; any size.
            labels: `(batch, height, width)` int64 in [0, num_labels), or `config.semantic_loss_ignore_index`. With
                them the loss is the cross-entropy at the labels' size plus the weighted auxiliary loss.
        """
        mean, std = (
            pixel_values.new_tensor(statistic).view(-1, 1, 1)
            for statistic in (self.config.image_mean, self.config.image_std)
        )
        inner, last = self.backbone((pixel_values / 2 + 0.5 - mean) / std).feature_maps
        logits = self.decode_head(last)
        loss = None
        if labels is not None:
            ignore_index = cast(int, self.config.semantic_loss_ignore_index)
            loss = segmentation_loss(logits, labels, ignore_index)
            if self.auxiliary_head is not None:
                auxiliary = segmentation_loss(self.auxiliary_head(inner), labels, ignore_index)
                loss = loss + self.config.auxiliary_loss_weight * auxiliary
        return SemanticSegmenterOutput(loss=loss, logits=logits)

    @classmethod
    def from_backbone(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        **config_kwargs: Any,
    ) -> Self:
        """An FCN with the stages of a pretrained Hugging Face ResNet, in float32, and heads to be trained.

        Args:
            pretrained_model_name_or_path: a ResNet checkpoint, with a classifier or without: a folder, or an id on the
                Hub such as microsoft/resnet-50.
            image_mean: the mean that it was trained with, one number a channel, for pixels in [0, 1]. None reads it
                from the checkpoint's preprocessor_config.json, and `image_std` likewise.
            image_std: the standard deviation, likewise.
            config_kwargs: fields of `FcnConfig`, for example `output_stride=16`, `id2label=...`.

        Raises:
            OSError: there is no such checkpoint, or no preprocessor configuration while a statistic is not given.
        """
        resnet = ResNetBackbone.from_pretrained(pretrained_model_name_or_path, dtype=torch.float32)
        if image_mean is None or image_std is None:
            statistics = AutoImageProcessor.from_pretrained(pretrained_model_name_or_path)
            image_mean, image_std = image_mean or statistics.image_mean, image_std or statistics.image_std
        names = (
            "num_channels embedding_size hidden_sizes depths layer_type hidden_act downsample_in_first_stage "
            "downsample_in_bottleneck"
        )
        fields = {name: getattr(resnet.config, name) for name in names.split()}
        model = cls(FcnConfig(backbone_config=fields, image_mean=image_mean, image_std=image_std, **config_kwargs))
        model.backbone.load_state_dict(resnet.state_dict())
        return model


def dilate(backbone: ResNetBackbone, output_stride: int) -> None:
    """Turn the strides beyond `output_stride` into dilations of the convolutions that come after them, in place.

    The feature maps become finer: every second or fourth pixel of them, from the first on, has the value that it had
    before. The parameters and their names stay.
    """
    stride, dilation = 4, 1  # after the stem
    stages: Any = backbone.encoder.stages
    for layer in (layer for stage in stages for layer in stage.layers):
        for conv in (module for module in layer.layer.modules() if isinstance(module, nn.Conv2d)):
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (dilation, dilation)
            if conv.stride == (2, 2):
                if stride < output_stride:
                    stride *= 2
                else:
                    conv.stride = layer.shortcut.convolution.stride = (1, 1)
                    dilation *= 2
