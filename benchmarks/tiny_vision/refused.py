"""Models that cannot be encrypted, and a part of the message that says why."""

import transformers as hf
from transformers.models.gemma4.configuration_gemma4 import Gemma4VisionConfig
from transformers.models.gemma4.modeling_gemma4 import Gemma4VisionModel

from .parts import ATTENTION, DEEPER, ENCODER, PATCHES, STAGES
from .segmentation import DPT, mask2former

_OVERLAP = "kernel_size=(7, 7), stride=(4, 4), padding=(3, 3)"


def _resnet(stages: list[str]) -> hf.ResNetConfig:
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1])
    config.out_features = stages
    return config


def _vit_pose() -> hf.PreTrainedModel:
    backbone = hf.VitPoseBackboneConfig(
        **ATTENTION, image_size=[32, 32], patch_size=[8, 8], part_features=16, num_experts=1
    )
    backbone.out_indices = [2]
    return hf.VitPoseForPoseEstimation(hf.VitPoseConfig(backbone_config=backbone))


def _vit_matte() -> hf.PreTrainedModel:
    backbone = hf.VitDetConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32, pretrain_image_size=32,
        patch_size=16, num_channels=4,
    )  # fmt: skip
    backbone.out_features = ["stage2"]
    config = hf.VitMatteConfig(
        backbone_config=backbone, hidden_size=32, fusion_hidden_sizes=[16, 8, 8, 8], convstream_hidden_sizes=[8, 8, 8]
    )
    return hf.VitMatteForImageMatting(config)


def _segformer() -> hf.PreTrainedModel:
    config = hf.SegformerConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], decoder_hidden_size=16
    )
    return hf.SegformerForSemanticSegmentation(config)


def _hiera() -> hf.PreTrainedModel:
    return hf.HieraModel(hf.HieraConfig(embed_dim=8, image_size=[64, 64], depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]))


def _sam2() -> hf.PreTrainedModel:
    hiera = hf.Sam2HieraDetConfig(
        hidden_size=8, blocks_per_stage=[1, 1, 1, 1], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 2, 4, 8], global_attention_blocks=[2],
    )  # fmt: skip
    return hf.Sam2HieraDetModel(hiera)


def _dpt_hybrid() -> hf.PreTrainedModel:
    backbone = hf.BitConfig(
        hidden_sizes=[8, 8, 16, 32], depths=[1, 1, 1, 1], embedding_size=8, num_groups=2,
        layer_type="bottleneck", embedding_dynamic_padding=True, global_padding="same",
    )  # fmt: skip
    backbone.out_features = STAGES[:3]
    config = hf.DPTConfig(
        **DEEPER, **DPT, image_size=32, patch_size=16, is_hybrid=True, backbone_featmap_shape=[1, 16, 2, 2],
        neck_ignore_stages=[0, 1], readout_type="project", backbone_config=backbone,
    )  # fmt: skip
    return hf.DPTForDepthEstimation(config)


def _depth_pro() -> hf.PreTrainedModel:
    vit = {"model_type": "dinov2", "num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2}
    return hf.DepthProModel(hf.DepthProConfig(image_model_config=vit, patch_model_config=vit, use_fov_model=False))


def _tvp() -> hf.PreTrainedModel:
    return hf.TvpModel(hf.TvpConfig(**ENCODER, backbone_config=_resnet(["stage4"]), vocab_size=50))


def _pix2struct() -> hf.PreTrainedModel:
    return hf.Pix2StructVisionModel(
        hf.Pix2StructVisionConfig(hidden_size=32, d_ff=37, d_kv=16, num_hidden_layers=1, num_attention_heads=2)
    )


REFUSED = {
    "vit_mae_pretraining": (lambda: hf.ViTMAEForPreTraining(hf.ViTMAEConfig(**PATCHES)), "against the pixels"),
    "vit_masked": (lambda: hf.ViTForMaskedImageModeling(hf.ViTConfig(**PATCHES)), "against the pixels"),
    "videomae_pretraining": (lambda: hf.VideoMAEForPreTraining(hf.VideoMAEConfig(**PATCHES)), "against the pixels"),
    "mask2former_on_resnet": (
        lambda: mask2former(_resnet(STAGES)).model,
        "encoder.embedder.embedder.convolution = Conv2d(3, 8",
    ),
    "vit_pose": (_vit_pose, "stride=(8, 8), padding=(2, 2)"),
    "vit_matte": (_vit_matte, "decoder.convstream.convs.0.conv"),
    "segformer": (_segformer, _OVERLAP),
    "hiera": (_hiera, _OVERLAP),
    "sam2": (_sam2, _OVERLAP),
    "mobilevit": (lambda: hf.MobileViTForSemanticSegmentation(hf.MobileViTConfig(image_size=64)), "conv_stem"),
    "resnet": (lambda: hf.ResNetModel(_resnet(STAGES)), "kernel_size=(7, 7), stride=(2, 2)"),
    "dpt_hybrid": (_dpt_hybrid, "WeightStandardizedConv2d"),
    "depth_pro": (_depth_pro, "cuts windows that overlap"),
    "tvp": (_tvp, "adds prompts to them"),
    "pix2struct": (_pix2struct, "their row and column"),
    "gemma4_vision": (lambda: Gemma4VisionModel(Gemma4VisionConfig(num_hidden_layers=1)), "2 * (pixels"),
}
