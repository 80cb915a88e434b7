"""Random weights in place of public ones: a patch embedding that nobody has, and layers that read it."""

from collections.abc import Sequence

from torch import nn

from ..setr.modeling_setr import SetrForSemanticSegmentation


def reinitialize(model: SetrForSemanticSegmentation, *, embedding: bool = False, num_layers: int = 0) -> list[str]:
    """Draw parts of a model's encoder anew, in place, with torch's global random generator.

    Args:
        model: it may come from public weights.
        embedding: whether to draw the patch embedding, the position embeddings and the class token.
        num_layers: how many of the encoder's first layers to draw.

    Returns:
        The names of the parameters that were drawn.

    Raises:
        ValueError: the encoder has fewer layers.
    """
    layers = model.base_model.layers
    if not 0 <= num_layers <= len(layers):
        raise ValueError(f"expected from 0 to {len(layers)} layers to be drawn anew, got {num_layers}")
    parts: Sequence[nn.Module] = [*([model.base_model.embeddings] if embedding else []), *layers[:num_layers]]
    drawn = {id(parameter) for part in parts for parameter in part.parameters()}
    for parameter in model.parameters():
        if id(parameter) in drawn:
            # Transformers sets this where a checkpoint gave the parameter, which it then leaves alone.
            setattr(parameter, "_is_hf_initialized", False)  # noqa: B010
    for part in parts:
        part.apply(model._init_weights)
    return [name for name, parameter in model.named_parameters() if id(parameter) in drawn]
