"""Vision-language models, and the vision towers whose processors flatten patches."""

from typing import TypedDict

import torch
import transformers as hf
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

from .parts import PATCHES, Builder, Case, pixels, tokens

IMAGE = 58  # the token in whose place an image is put


class Decoder(TypedDict):
    """Sizes and special tokens of a language model."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    pad_token_id: int
    bos_token_id: int
    eos_token_id: int


DECODER: Decoder = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 37,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
QWEN2 = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 1, "patch_size": 8}
QWEN2_5 = {
    "depth": 2,
    "hidden_size": 32,
    "out_hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 37,
    "patch_size": 8,
    "fullatt_block_indexes": [1],
    "window_size": 32,
}
QWEN3 = {
    "depth": 3,
    "hidden_size": 32,
    "out_hidden_size": 32,
    "num_heads": 2,
    "intermediate_size": 37,
    "patch_size": 8,
    "deepstack_visual_indexes": [0, 1],
    "num_position_embeddings": 16,
}


def _question(image_tokens: int) -> torch.Tensor:
    return torch.cat([torch.full((1, image_tokens), IMAGE), tokens(6, batch=1)], dim=1)


def _tower(model: type, config: object, length: int) -> Case:
    """Two images of 4 x 4 and 2 x 4 patches, each a row of `length` numbers."""
    return Case(model(config), {"hidden_states": pixels(24, length), "grid_thw": torch.tensor([[1, 4, 4], [1, 2, 4]])})


def _qwen(model: type, config: type, vision: dict, length: int) -> Case:
    """One image of 4 x 6 patches, which become 6 tokens, and a question."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
    text = {**DECODER, "num_hidden_layers": 2, "rope_parameters": rope}
    special = {"image_token_id": IMAGE, "video_token_id": 57, "vision_start_token_id": 55, "vision_end_token_id": 56}
    ids = torch.cat([torch.tensor([[55]]), torch.full((1, 6), IMAGE), torch.tensor([[56]]), tokens(5, 1)], dim=1)
    inputs = {"pixel_values": pixels(24, length), "image_grid_thw": torch.tensor([[1, 4, 6]]), "input_ids": ids}
    configured = config(vision_config=vision, text_config=text, **special)
    return Case(model(configured), inputs | {"mm_token_type_ids": (ids == IMAGE).long()})


def _llava() -> Case:
    config = hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**PATCHES), text_config=hf.LlamaConfig(**DECODER), image_token_index=IMAGE,
        vision_feature_select_strategy="default",
    )  # fmt: skip
    inputs = {"pixel_values": pixels(1, 3, 32, 32), "input_ids": _question(16)}
    return Case(hf.LlavaForConditionalGeneration(config), inputs)


def _paligemma() -> Case:
    config = hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig.from_dict({**PATCHES, "projection_dim": 32, "vision_use_head": False}),
        text_config=hf.GemmaConfig(**DECODER), image_token_index=IMAGE, projection_dim=32,
    )  # fmt: skip
    ids = _question(16)
    inputs = {"pixel_values": pixels(1, 3, 32, 32), "input_ids": ids, "token_type_ids": torch.zeros_like(ids)}
    return Case(hf.PaliGemmaForConditionalGeneration(config), inputs)


def _idefics3() -> Case:
    """Two images, the second of which is padding: the model finds that by its zeros."""
    config = hf.Idefics3Config(
        vision_config=hf.Idefics3VisionConfig(**PATCHES), text_config=hf.LlamaConfig(**DECODER), image_token_id=IMAGE,
        scale_factor=2,
    )  # fmt: skip
    images = pixels(1, 2, 3, 32, 32)
    images[:, 1] = 0
    return Case(hf.Idefics3ForConditionalGeneration(config), {"pixel_values": images, "input_ids": _question(4)})


LANGUAGE_MODELS: dict[str, Builder] = {
    "qwen2_vl_tower": lambda: _tower(Qwen2VisionTransformerPretrainedModel, Qwen2VLVisionConfig.from_dict(QWEN2), 384),
    "qwen2_5_vl_tower": lambda: _tower(
        Qwen2_5_VisionTransformerPretrainedModel, Qwen2_5_VLVisionConfig.from_dict(QWEN2_5), 384
    ),
    "qwen3_vl_tower": lambda: _tower(Qwen3VLVisionModel, Qwen3VLVisionConfig.from_dict(QWEN3), 384),
    "qwen2_vl": lambda: _qwen(hf.Qwen2VLForConditionalGeneration, hf.Qwen2VLConfig, QWEN2, 384),
    "qwen2_5_vl": lambda: _qwen(hf.Qwen2_5_VLForConditionalGeneration, hf.Qwen2_5_VLConfig, QWEN2_5, 384),
    "qwen3_vl": lambda: _qwen(hf.Qwen3VLForConditionalGeneration, hf.Qwen3VLConfig, QWEN3, 384),
    "llava": _llava,
    "paligemma": _paligemma,
    "idefics3": _idefics3,
}
