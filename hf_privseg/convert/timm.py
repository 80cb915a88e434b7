"""timm's VisionTransformer, whose names DeiT's, MAE's and DINOv2's own files have as well.

With or without LayerScale; position embeddings with or without a place for the class token.
"""

from .dinov2 import NO_REGISTERS
from .formats import NO_GATES, Format
from .vit import NO_CLASSIFIER, NO_MASKS

FORMAT = Format(
    name="timm",
    title="timm's VisionTransformer",
    marker=r"^blocks\.\d+\.attn\.qkv\.weight$",
    layer=r"blocks\.(\d+)\.",
    packs_qkv=True,
    renamed=(
        (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
        (r"^embeddings\.position_embeddings$", "pos_embed"),
        (r"^embeddings\.cls_token$", "cls_token"),
        (r"^layers\.", "blocks."),
        (r"\.layernorm_before\.", ".norm1."),
        (r"\.layernorm_after\.", ".norm2."),
        (r"\.attention\.[qkv]_proj\.", ".attn.qkv."),
        (r"\.attention\.o_proj\.", ".attn.proj."),
        (r"^layernorm\.", "norm."),
    ),
    layer_scales=(("blocks.{}.ls1.gamma", "blocks.{}.attn.proj"), ("blocks.{}.ls2.gamma", "blocks.{}.mlp.fc2")),
    unused=((r"^(head|head_dist|pre_logits)\.", NO_CLASSIFIER), (r"^mask_token$", NO_MASKS)),
    refused=(
        (r"^(reg_token|register_tokens)$", NO_REGISTERS),
        (r"\.mlp\.(w12|fc1_g|w1)\.", NO_GATES),
        (r"^fc_norm\.", "it averages the patches before its norm, so that no norm reads its tokens"),
        (r"\.attn\.(q_norm|k_norm)\.", "SETR does not normalise queries and keys"),
    ),
)

DISTILLATION_TOKEN = "dist_token"
