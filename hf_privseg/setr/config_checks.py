"""The types and ranges of a model's settings, which may come from a config.json that anyone wrote.

They are checked before a configuration is made from them: transformers itself makes a name for each of `num_labels`
classes, and a model allocates what its sizes say.
"""

import math
from collections.abc import Callable, Mapping

from .setting_checks import MAX_CHANNELS, MAX_PATCH_SIZE

MAX_LABELS = 2**16  # what a 16-bit segmentation map holds

_MAX_WIDTH = 2**16  # numbers in one token or feature map
_MAX_LAYERS = 2**10
_MAX_SIDE = 2**20  # of an image in pixels
_MAX_PATCHES = 2**24  # position embeddings

_Check = tuple[str, Callable[[object], bool]]


def check_model_settings(settings: Mapping[str, object], cls: type) -> None:
    """Refuse settings that no SETR model can have.

    Args:
        settings: by name, as a user or a file gives them; what is left out or None takes its default.
        cls: the class of the configuration. A setting called like one of its methods would replace it.

    Raises:
        ValueError: names the setting, and what it should be.
    """
    for name, value in settings.items():
        if name.startswith("__") or callable(getattr(cls, name, None)):
            raise ValueError(f"expected settings of a SETR model, got one with the name {name!r:.80}")
        if name in _CHECKS and value is not None:
            expected, holds = _CHECKS[name]
            if not holds(value):
                raise ValueError(f"{name} must be {expected}, got {value!r:.80}")
    sides, patch_size = settings.get("image_size"), settings.get("patch_size")
    if sides is not None and patch_size is not None:
        height, width = sides if isinstance(sides, list | tuple) else (sides, sides)
        if (height // patch_size) * (width // patch_size) > _MAX_PATCHES:
            raise ValueError(
                f"image_size and patch_size must make at most {_MAX_PATCHES} patches, got {sides} and {patch_size}"
            )


def _int(largest: int, smallest: int = 1) -> _Check:
    expected = f"an int from {smallest} to {largest}"
    return expected, lambda value: type(value) is int and smallest <= value <= largest


def _number(expected: str, smallest: float, largest: float) -> _Check:
    def holds(value: object) -> bool:
        return isinstance(value, int | float) and not isinstance(value, bool) and smallest <= value <= largest

    return expected, holds


def _is_image_size(value: object) -> bool:
    sides = value if isinstance(value, list | tuple) else (value, value)
    return len(sides) == 2 and all(type(side) is int and 1 <= side <= _MAX_SIDE for side in sides)


def _are_layers(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) <= _MAX_LAYERS
        and all(type(index) is int and abs(index) <= _MAX_LAYERS for index in value)
    )


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return value.isascii() and value.removeprefix("-").isdecimal() and len(value) < 12
    return type(value) is int and abs(value) < 10**10


def _are_names(value: object) -> bool:
    return isinstance(value, Mapping) and len(value) <= MAX_LABELS and all(map(_is_id, value))


def _are_ids(value: object) -> bool:
    return isinstance(value, Mapping) and len(value) <= MAX_LABELS and all(map(_is_id, value.values()))


def _is_activation(value: object) -> bool:
    from transformers.activations import ACT2FN

    return isinstance(value, str) and value in ACT2FN


def _is_dtype(value: object) -> bool:
    import torch

    found = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    return isinstance(found, torch.dtype)


_PROBABILITY = _number("a number of 0 or more and below 1", 0, math.nextafter(1, 0))
_DTYPE: _Check = ("a dtype of torch", _is_dtype)
_CHECKS: dict[str, _Check] = {
    **dict.fromkeys(
        ("hidden_size", "intermediate_size", "decoder_hidden_size", "mla_hidden_size", "num_attention_heads"),
        _int(_MAX_WIDTH),
    ),
    **dict.fromkeys(("num_hidden_layers", "auxiliary_num_stages"), _int(_MAX_LAYERS)),
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate"), _PROBABILITY),
    "num_channels": _int(MAX_CHANNELS),
    "patch_size": _int(MAX_PATCH_SIZE),
    "num_labels": _int(MAX_LABELS),
    "semantic_loss_ignore_index": _int(2**31 - 1, -(2**31)),
    "image_size": (f"an int from 1 to {_MAX_SIDE}, or two", _is_image_size),
    "out_indices": ("a list of layer numbers", _are_layers),
    "layer_norm_eps": _number("a positive number up to 1", 1e-30, 1),
    "initializer_range": _number("a number from 0 to 1000", 0, 1000),
    "auxiliary_loss_weight": _number("a finite number from 0", 0, 1e9),
    "hidden_act": ("an activation of transformers", _is_activation),
    "id2label": (f"a dictionary from at most {MAX_LABELS} integers to names", _are_names),
    "label2id": (f"a dictionary from at most {MAX_LABELS} names to integers", _are_ids),
    "dtype": _DTYPE,
    "torch_dtype": _DTYPE,
}
