"""Vision transformers whose patches are read by one convolution or Linear."""

import torch
import transformers as hf

from .parts import ATTENTION, DEEPER, ENCODER, PATCHES, TEXT, Builder, Case, pixels, tokens

BEIT = {**PATCHES, **DEEPER, "num_labels": 5, "use_relative_position_bias": True, "use_mask_token": False}


def _vit() -> Case:
    return Case(hf.ViTForImageClassification(hf.ViTConfig(**PATCHES)), {"pixel_values": pixels(2, 3, 32, 32)})


def _vit_interpolated() -> Case:
    inputs = {"pixel_values": pixels(2, 3, 48, 64), "interpolate_pos_encoding": True}
    return Case(hf.ViTModel(hf.ViTConfig(**PATCHES)), inputs)


def _deit() -> Case:
    return Case(hf.DeiTForImageClassification(hf.DeiTConfig(**PATCHES)), {"pixel_values": pixels(2, 3, 32, 32)})


def _beit() -> Case:
    config = hf.BeitConfig.from_dict(BEIT | {"out_indices": [1, 2, 3, 4]})
    return Case(hf.BeitForSemanticSegmentation(config), {"pixel_values": pixels(2, 3, 32, 32)})


def _data2vec() -> Case:
    config = hf.Data2VecVisionConfig.from_dict(BEIT | {"out_indices": [0, 1, 2, 3]})
    return Case(hf.Data2VecVisionForSemanticSegmentation(config), {"pixel_values": pixels(2, 3, 32, 32)})


def _dinov2() -> Case:
    return Case(
        hf.Dinov2Model(hf.Dinov2Config(**ATTENTION, image_size=28, patch_size=14)),
        {"pixel_values": pixels(2, 3, 42, 56)},
    )


def _dinov2_with_registers() -> Case:
    config = hf.Dinov2WithRegistersConfig(**ATTENTION, image_size=28, patch_size=14)
    return Case(hf.Dinov2WithRegistersModel(config), {"pixel_values": pixels(2, 3, 42, 56)})


def _dinov3() -> Case:
    config = hf.DINOv3ViTConfig(**ENCODER, patch_size=16, num_register_tokens=2)
    return Case(hf.DINOv3ViTModel(config), {"pixel_values": pixels(2, 3, 48, 32)})


def _vit_mae() -> Case:
    return Case(hf.ViTMAEModel(hf.ViTMAEConfig(**PATCHES)), {"pixel_values": pixels(2, 3, 32, 32)})


def _vit_det() -> Case:
    config = hf.VitDetConfig(**ATTENTION, image_size=32, pretrain_image_size=32, patch_size=8)
    return Case(hf.VitDetModel(config), {"pixel_values": pixels(2, 3, 32, 32)})


def _yolos() -> Case:
    config = hf.YolosConfig(**ENCODER, patch_size=8, image_size=[32, 48], num_detection_tokens=5)
    return Case(hf.YolosForObjectDetection(config), {"pixel_values": pixels(2, 3, 32, 48)})


def _sam3_vit() -> Case:
    config = hf.Sam3ViTConfig(
        **ENCODER, image_size=56, pretrain_image_size=56, patch_size=14, window_size=2, global_attn_indexes=[1]
    )
    return Case(hf.Sam3ViTModel(config), {"pixel_values": pixels(1, 3, 56, 56)})


def _intern_vl() -> Case:
    config = hf.InternVLVisionConfig(**ENCODER, image_size=[28, 28], patch_size=[14, 14])
    return Case(hf.InternVLVisionModel(config), {"pixel_values": pixels(2, 3, 28, 28)})


def _pixtral() -> Case:
    config = hf.PixtralVisionConfig(**ENCODER, image_size=64, patch_size=16)
    sizes = torch.tensor([[64, 64], [32, 48]])
    return Case(hf.PixtralVisionModel(config), {"pixel_values": pixels(2, 3, 64, 64), "image_sizes": sizes})


def _siglip2() -> Case:
    config = hf.Siglip2VisionConfig(**ENCODER, num_patches=16, patch_size=8)
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, 6:] = 0
    inputs = {"pixel_values": pixels(2, 12, 192) * mask[..., None], "pixel_attention_mask": mask}
    return Case(hf.Siglip2VisionModel(config), inputs | {"spatial_shapes": torch.tensor([[3, 4], [2, 3]])})


def _llama4_vision() -> Case:
    config = hf.Llama4VisionConfig(
        **ATTENTION, intermediate_size=128, image_size=56, patch_size=14,
        vision_output_dim=32, projector_input_dim=32, projector_output_dim=32,
    )  # fmt: skip
    return Case(hf.Llama4VisionModel(config), {"pixel_values": pixels(2, 3, 56, 56)})


def _mllama_vision() -> Case:
    config = hf.MllamaVisionConfig(
        hidden_size=32, num_hidden_layers=2, num_global_layers=1, attention_heads=2, intermediate_size=37,
        image_size=28, patch_size=14, max_num_tiles=2, supported_aspect_ratios=[[1, 1], [1, 2]],
        intermediate_layers_indices=[0], vision_output_dim=64,
    )  # fmt: skip
    inputs = {"aspect_ratio_ids": torch.tensor([[2]]), "aspect_ratio_mask": torch.tensor([[[1, 1]]])}
    return Case(hf.MllamaVisionModel(config), inputs | {"pixel_values": pixels(1, 1, 2, 3, 28, 28)})


def _group_vit() -> Case:
    config = hf.GroupViTVisionConfig(
        hidden_size=32, intermediate_size=37, depths=[1, 1, 1], num_hidden_layers=3, num_group_tokens=[4, 2, 0],
        num_output_groups=[4, 2, 2], num_attention_heads=2, image_size=32, patch_size=8,
    )  # fmt: skip
    return Case(hf.GroupViTVisionModel(config), {"pixel_values": pixels(2, 3, 32, 32)})


def _clip() -> Case:
    text = {**TEXT, "bos_token_id": 0, "eos_token_id": 49, "pad_token_id": 1}
    config = hf.CLIPConfig(text_config=text, vision_config={**PATCHES}, projection_dim=16)
    return Case(hf.CLIPModel(config), {"pixel_values": pixels(2, 3, 32, 32), "input_ids": tokens()})


def _siglip() -> Case:
    text = {**TEXT, "projection_size": 32, "bos_token_id": 0, "eos_token_id": 49}
    config = hf.SiglipConfig(text_config=text, vision_config={**PATCHES})
    return Case(hf.SiglipModel(config), {"pixel_values": pixels(2, 3, 32, 32), "input_ids": tokens()})


def _vilt() -> Case:
    config = hf.ViltConfig(**PATCHES, vocab_size=50, max_position_embeddings=16, max_image_length=-1)
    mask = torch.ones(2, 32, 32, dtype=torch.long)
    inputs = {"pixel_values": pixels(2, 3, 32, 32), "pixel_mask": mask, "input_ids": tokens()}
    return Case(hf.ViltModel(config), inputs)


def _owl(model: type, config: type) -> Case:
    configured = config(text_config=TEXT, vision_config=PATCHES, projection_dim=32)
    text = {"input_ids": tokens(batch=4), "attention_mask": torch.ones(4, 7, dtype=torch.long)}
    return Case(model(configured), {"pixel_values": pixels(2, 3, 32, 32), **text})


PATCH_TRANSFORMERS: dict[str, Builder] = {
    "vit": _vit,
    "vit_interpolated": _vit_interpolated,
    "deit": _deit,
    "beit": _beit,
    "data2vec": _data2vec,
    "dinov2": _dinov2,
    "dinov2_with_registers": _dinov2_with_registers,
    "dinov3": _dinov3,
    "vit_mae": _vit_mae,
    "vit_det": _vit_det,
    "yolos": _yolos,
    "sam3_vit": _sam3_vit,
    "intern_vl": _intern_vl,
    "pixtral": _pixtral,
    "siglip2": _siglip2,
    "llama4_vision": _llama4_vision,
    "mllama_vision": _mllama_vision,
    "group_vit": _group_vit,
    "clip": _clip,
    "siglip": _siglip,
    "vilt": _vilt,
    "owl_vit": lambda: _owl(hf.OwlViTForObjectDetection, hf.OwlViTConfig),
    "owlv2": lambda: _owl(hf.Owlv2ForObjectDetection, hf.Owlv2Config),
}
