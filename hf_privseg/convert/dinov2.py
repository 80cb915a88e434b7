"""Hugging Face Dinov2 (`Dinov2Model` and its classifier). Oquab et al., TMLR 2024.

Meta's own files, before their conversion for transformers, have the names of timm and are read as such.
"""

from .formats import NO_GATES, Format
from .vit import ATTENTION, NO_CLASSIFIER, NO_MASKS

NO_REGISTERS = "SETR has no register tokens"

FORMAT = Format(
    name="dinov2",
    title="a Hugging Face Dinov2",
    marker=r"encoder\.layer\.\d+\.layer_scale1\.lambda1$",
    layer=r"encoder\.layer\.(\d+)\.",
    prefixes=("", "dinov2.", "dinov2_with_registers."),
    renamed=(*ATTENTION, (r"\.layernorm_before\.", ".norm1."), (r"\.layernorm_after\.", ".norm2.")),
    layer_scales=(
        ("encoder.layer.{}.layer_scale1.lambda1", "encoder.layer.{}.attention.output.dense"),
        ("encoder.layer.{}.layer_scale2.lambda1", "encoder.layer.{}.mlp.fc2"),
    ),
    unused=((r"^classifier\.", NO_CLASSIFIER), (r"embeddings\.mask_token$", NO_MASKS)),
    refused=(
        (r"embeddings\.register_tokens$", NO_REGISTERS),
        (r"\.mlp\.(weights_in|gate_proj)\.", NO_GATES),
    ),
)
