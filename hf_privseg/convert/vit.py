"""Hugging Face ViT and DeiT, as transformers writes them (`ViTModel`, `ViTForImageClassification`, `DeiTModel`, ...).

Dosovitskiy et al., ICLR 2021; Touvron et al., ICML 2021. Names on disk are those of transformers 4, which transformers
5 keeps writing.
"""

from .formats import Format

NOT_POOLED = "SETR reads the patch tokens, not a pooled one"
NO_CLASSIFIER = "SETR has a segmentation head instead"
NO_MASKS = "stands for hidden patches in pretraining alone"

# ours -> the names of transformers 4, which Dinov2 shares
ATTENTION = (
    (r"^layers\.", "encoder.layer."),
    (r"\.attention\.q_proj\.", ".attention.attention.query."),
    (r"\.attention\.k_proj\.", ".attention.attention.key."),
    (r"\.attention\.v_proj\.", ".attention.attention.value."),
    (r"\.attention\.o_proj\.", ".attention.output.dense."),
)

FORMAT = Format(
    name="vit",
    title="a Hugging Face ViT or DeiT",
    marker=r"encoder\.layer\.\d+\.layernorm_before\.weight$",
    layer=r"encoder\.layer\.(\d+)\.",
    prefixes=("", "vit.", "deit."),
    renamed=(
        *ATTENTION,
        (r"\.mlp\.fc1\.", ".intermediate.dense."),
        (r"\.mlp\.fc2\.", ".output.dense."),
    ),
    unused=(
        (r"(^|\.)pooler\.", NOT_POOLED),
        (r"^(cls_|distillation_)?classifier\.", NO_CLASSIFIER),
        (r"^decoder\.", NO_CLASSIFIER),
        (r"embeddings\.mask_token$", NO_MASKS),
    ),
)

# The name of DeiT's second token. SETR has one token besides the patches: this one and its position are left out, so
# that the features are those of DeiT with the token hidden from attention.
DISTILLATION_TOKEN = "embeddings.distillation_token"
