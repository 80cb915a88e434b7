"""Patch embeddings as matrices: of a model, of a checkpoint, and whether a model's is public."""

from pathlib import Path

import numpy as np
from safetensors import safe_open
from transformers import PreTrainedConfig, PreTrainedModel

from ..any_vit.projection import find_projection
from ..attacks.public_base import embedding_matrix, relative_drift
from ..checkpoints import default_checkpoint
from ..convert import convert_checkpoint
from ..setr.modeling_setr import SetrForSemanticSegmentation
from .square_blocks import in_square_blocks
from .subject import matrix_of

_SAME_WEIGHTS = 2e-3  # relative: half precision rounds to 5e-4, bfloat16 to 2e-3; a training moves further


def embedding_matrix_of(model: PreTrainedModel) -> np.ndarray:
    """A model of any class -> E, (L, D) float64, for pixels as its processor makes them."""
    projection, _ = in_square_blocks(find_projection(model))
    return matrix_of(projection)


def load_embedding(checkpoint: str | Path) -> np.ndarray:
    """A SETR folder, "default", or what `convert_checkpoint` reads -> E for pixels in [-1, 1], (L, D) float64.

    Raises:
        OSError: there is no such checkpoint.
        ConversionError: the checkpoint is of no kind that can be read.
    """
    folder = Path(default_checkpoint() if str(checkpoint) == "default" else checkpoint)
    is_setr = folder.is_dir() and PreTrainedConfig.get_config_dict(folder)[0].get("model_type") == "setr"
    model = SetrForSemanticSegmentation.from_pretrained(folder) if is_setr else convert_checkpoint(folder).model
    return embedding_matrix_of(model)


def public_source(embedding: np.ndarray, public_base: np.ndarray | None) -> tuple[str, np.ndarray] | None:
    """E and public weights that are known beside those of the package -> the ones that E equals, or None.

    Returns:
        (what the weights are called in a sentence, the weights (L, D)).
    """
    known = [("the checkpoint that this package ships", _shipped_embedding())]
    if public_base is not None:
        known.append(("the public weights that were given", public_base))
    for name, weights in known:
        if weights.shape == embedding.shape and relative_drift(embedding, weights) < _SAME_WEIGHTS:
            return name, weights
    return None


def _shipped_embedding() -> np.ndarray:
    with safe_open(default_checkpoint() / "model.safetensors", "pt") as file:
        (name,) = (name for name in file.keys() if name.endswith("patch_embeddings.projection.weight"))  # noqa: SIM118
        return embedding_matrix(file.get_tensor(name).double().numpy())
