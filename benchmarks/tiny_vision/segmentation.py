"""Models for segmentation, depth and detection on top of a backbone."""

from typing import TypedDict

import torch
import transformers as hf

from hf_privseg import SetrConfig, SetrForSemanticSegmentation

from .backbones import CONVNEXT, SWIN
from .parts import DEEPER, ENCODER, PATCHES, STAGES, TEXT, Builder, Case, padded_pixels, pixels, tokens


class MaskDecoder(TypedDict):
    """Sizes of a decoder that predicts masks from queries."""

    num_queries: int
    encoder_layers: int
    num_attention_heads: int
    encoder_feedforward_dim: int
    dim_feedforward: int
    train_num_points: int


class Dpt(TypedDict):
    """Sizes of the head of a DPT."""

    backbone_out_indices: list[int]
    neck_hidden_sizes: list[int]
    fusion_hidden_size: int
    auxiliary_loss_weight: float


MASK_DECODER: MaskDecoder = {
    "num_queries": 5,
    "encoder_layers": 1,
    "num_attention_heads": 2,
    "encoder_feedforward_dim": 32,
    "dim_feedforward": 32,
    "train_num_points": 10,
}
DPT: Dpt = {
    "backbone_out_indices": [0, 1, 2, 3],
    "neck_hidden_sizes": [8, 8, 16, 16],
    "fusion_hidden_size": 16,
    "auxiliary_loss_weight": 0.0,
}
EOMT = {
    **ENCODER,
    "num_hidden_layers": 3,
    "image_size": 32,
    "patch_size": 8,
    "num_queries": 5,
    "num_blocks": 1,
    "num_labels": 4,
    "num_upscale_blocks": 1,
    "num_register_tokens": 2,
}


def swin_backbone(stages: list[str] = STAGES) -> hf.SwinConfig:
    config = hf.SwinConfig(**SWIN)
    config.out_features = stages
    return config


def convnext_backbone() -> hf.ConvNextConfig:
    config = hf.ConvNextConfig(**CONVNEXT)
    config.out_features = STAGES
    return config


def dinov2_backbone() -> hf.Dinov2Config:
    config = hf.Dinov2Config(
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        reshape_hidden_states=False,
    )
    config.out_features = STAGES
    return config


def _dpt() -> Case:
    config = hf.DPTConfig(**DEEPER, **DPT, image_size=32, patch_size=8)
    return Case(hf.DPTForSemanticSegmentation(config), {"pixel_values": pixels(2, 3, 32, 32)})


def _dpt_on_dinov2() -> Case:
    config = hf.DPTConfig(backbone_config=dinov2_backbone(), **DEEPER, **DPT, image_size=28, patch_size=14)
    return Case(hf.DPTForDepthEstimation(config), {"pixel_values": pixels(2, 3, 42, 56)})


def _depth_anything() -> Case:
    config = hf.DepthAnythingConfig(
        backbone_config=dinov2_backbone(), patch_size=14, reassemble_hidden_size=32, neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16, head_hidden_size=8,
    )  # fmt: skip
    return Case(hf.DepthAnythingForDepthEstimation(config), {"pixel_values": pixels(2, 3, 42, 56)})


def _zoe_depth() -> Case:
    backbone = hf.BeitConfig(
        **DEEPER, image_size=32, patch_size=8, use_relative_position_bias=True, use_mask_token=False,
        reshape_hidden_states=False,
    )  # fmt: skip
    backbone.out_features = STAGES
    config = hf.ZoeDepthConfig(
        backbone_config=backbone, neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=16,
        bottleneck_features=16, num_patch_transformer_layers=None, patch_transformer_hidden_size=16,
        patch_transformer_intermediate_size=16, patch_transformer_num_attention_heads=2, bin_embedding_dim=16,
        num_attractors=[4, 2, 1, 1], add_projection=False, num_relative_features=8,
        bin_configurations=[{"name": "nyu", "n_bins": 8, "min_depth": 1e-3, "max_depth": 10.0}],
    )  # fmt: skip
    return Case(hf.ZoeDepthForDepthEstimation(config), {"pixel_values": pixels(2, 3, 32, 32)})


def _eomt() -> Case:
    return Case(hf.EomtForUniversalSegmentation(hf.EomtConfig.from_dict(EOMT)), {"pixel_values": pixels(2, 3, 32, 32)})


def _eomt_dinov3() -> Case:
    model = hf.EomtDinov3ForUniversalSegmentation(hf.EomtDinov3Config.from_dict(EOMT))
    return Case(model, {"pixel_values": pixels(2, 3, 32, 32)})


def _videomt() -> Case:
    model = hf.VideomtForUniversalSegmentation(hf.VideomtConfig.from_dict(EOMT))
    return Case(model, {"pixel_values_videos": pixels(1, 2, 3, 32, 32)})


def _sam(prefix: str, **decoder: int) -> Case:
    vision = getattr(hf, f"{prefix}VisionConfig")(
        hidden_size=32, output_channels=16, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=16,
        mlp_dim=32, window_size=2, global_attn_indexes=[1], num_pos_feats=8,
    )  # fmt: skip
    prompts = getattr(hf, f"{prefix}PromptEncoderConfig")(
        hidden_size=16, image_size=64, patch_size=16, mask_input_channels=8
    )
    masks = getattr(hf, f"{prefix}MaskDecoderConfig")(
        hidden_size=16, mlp_dim=32, num_hidden_layers=1, num_attention_heads=2, attention_downsample_rate=2,
        iou_head_hidden_dim=16, iou_head_depth=2, **decoder,
    )  # fmt: skip
    config = getattr(hf, f"{prefix}Config")(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=masks
    )
    inputs = {"pixel_values": pixels(1, 3, 64, 64), "input_points": torch.tensor([[[[20.0, 30.0]]]])}
    return Case(getattr(hf, f"{prefix}Model")(config), inputs)


def _seggpt() -> Case:
    config = hf.SegGptConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_dim=37, image_size=[32, 16],
        pretrain_image_size=16, patch_size=8, decoder_hidden_size=8, merge_index=0,
        intermediate_hidden_state_indices=[1],
    )  # fmt: skip
    names = ("pixel_values", "prompt_pixel_values", "prompt_masks")
    inputs = {name: pixels(1, 3, 16, 16, seed=seed) for seed, name in enumerate(names)}
    return Case(hf.SegGptForImageSegmentation(config), inputs)


def _clipseg_model() -> hf.CLIPSegForImageSegmentation:
    text = {**TEXT, "bos_token_id": 0, "eos_token_id": 49, "pad_token_id": 1}
    config = hf.CLIPSegConfig(
        text_config=text, vision_config={**PATCHES}, projection_dim=16, reduce_dim=16, extract_layers=[0, 1],
        decoder_num_attention_heads=2, decoder_intermediate_size=16,
    )  # fmt: skip
    return hf.CLIPSegForImageSegmentation(config)


def _clipseg() -> Case:
    return Case(_clipseg_model(), {"pixel_values": pixels(2, 3, 32, 32), "input_ids": tokens()})


def _clipseg_with_image_prompts() -> Case:
    prompts = {"conditional_pixel_values": pixels(2, 3, 32, 32, seed=9)}
    return Case(_clipseg_model(), {"pixel_values": pixels(2, 3, 32, 32), **prompts})


def mask2former(backbone: hf.PreTrainedConfig) -> Case:
    config = hf.Mask2FormerConfig(
        backbone_config=backbone, **MASK_DECODER, hidden_dim=32, feature_size=32, mask_feature_size=32,
        decoder_layers=3,
    )  # fmt: skip
    return Case(hf.Mask2FormerForUniversalSegmentation(config), padded_pixels())


def _maskformer() -> Case:
    decoder = hf.DetrConfig(
        d_model=32, num_queries=5, decoder_layers=1, encoder_layers=1, decoder_attention_heads=2,
        encoder_attention_heads=2, decoder_ffn_dim=32, encoder_ffn_dim=32, backbone_config=hf.ResNetConfig(),
    )  # fmt: skip
    config = hf.MaskFormerConfig(
        backbone_config=swin_backbone(),
        decoder_config=decoder,
        fpn_feature_size=32,
        mask_feature_size=32,
    )
    return Case(hf.MaskFormerForInstanceSegmentation(config), padded_pixels())


def _oneformer() -> Case:
    config = hf.OneFormerConfig(
        backbone_config=swin_backbone(), **MASK_DECODER, hidden_dim=32, conv_dim=32, mask_dim=32, decoder_layers=3,
        text_encoder_width=16, text_encoder_context_length=7, text_encoder_num_layers=1, text_encoder_vocab_size=50,
        text_encoder_proj_layers=1, text_encoder_n_ctx=2, task_seq_len=7, use_auxiliary_loss=True,
        query_dec_layers=1, is_training=False,
    )  # fmt: skip
    return Case(hf.OneFormerForUniversalSegmentation(config), padded_pixels() | {"task_inputs": tokens()})


def _upernet(backbone: hf.PreTrainedConfig, channels: int) -> Case:
    config = hf.UperNetConfig(
        backbone_config=backbone, hidden_size=16, auxiliary_in_channels=channels, auxiliary_channels=16,
        pool_scales=[1, 2],
    )  # fmt: skip
    return Case(hf.UperNetForSemanticSegmentation(config), {"pixel_values": pixels(2, 3, 64, 64)})


def _grounding_dino() -> Case:
    config = hf.GroundingDinoConfig(
        backbone_config=swin_backbone(STAGES[1:]),
        text_config=hf.BertConfig(**ENCODER, vocab_size=2000, max_position_embeddings=16),
        d_model=32, encoder_layers=1, decoder_layers=2, encoder_ffn_dim=32, decoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_attention_heads=2, num_queries=5, num_feature_levels=3,
        encoder_n_points=2, decoder_n_points=2, max_text_len=7,
    )  # fmt: skip
    return Case(hf.GroundingDinoForObjectDetection(config), padded_pixels() | {"input_ids": tokens()})


def _rf_detr() -> Case:
    backbone = hf.RfDetrDinov2Config(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, image_size=56, patch_size=14, num_windows=2
    )
    backbone.out_features = ["stage2", "stage4"]
    config = hf.RfDetrConfig(
        backbone_config=backbone, d_model=32, num_queries=5, decoder_layers=1, decoder_ffn_dim=32,
        decoder_self_attention_heads=2, decoder_cross_attention_heads=2, group_detr=1,
        hidden_expansion=0.5,
    )  # fmt: skip
    inputs = {"pixel_values": pixels(1, 3, 56, 56), "pixel_mask": torch.ones(1, 56, 56, dtype=torch.long)}
    return Case(hf.RfDetrForInstanceSegmentation(config), inputs)


def _setr() -> Case:
    config = SetrConfig(**DEEPER, image_size=16, patch_size=4, decoder_hidden_size=12, mla_hidden_size=8, num_labels=5)
    return Case(SetrForSemanticSegmentation(config), {"pixel_values": pixels(2, 3, 16, 16)})


SEGMENTATION_MODELS: dict[str, Builder] = {
    "setr": _setr,
    "dpt": _dpt,
    "dpt_on_dinov2": _dpt_on_dinov2,
    "depth_anything": _depth_anything,
    "zoe_depth": _zoe_depth,
    "eomt": _eomt,
    "eomt_dinov3": _eomt_dinov3,
    "videomt": _videomt,
    "sam": lambda: _sam("Sam"),
    "sam_hq": lambda: _sam("SamHQ", vit_dim=32),
    "seggpt": _seggpt,
    "clipseg": _clipseg,
    "clipseg_with_image_prompts": _clipseg_with_image_prompts,
    "mask2former_on_swin": lambda: mask2former(swin_backbone()),
    "maskformer_on_swin": _maskformer,
    "oneformer_on_swin": _oneformer,
    "upernet_on_swin": lambda: _upernet(swin_backbone(), 64),
    "upernet_on_convnext": lambda: _upernet(convnext_backbone(), 32),
    "grounding_dino": _grounding_dino,
    "rf_detr": _rf_detr,
}
