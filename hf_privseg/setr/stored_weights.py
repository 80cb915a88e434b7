"""The weights that a checkpoint's files hold, against those that its configuration says, before any is allocated.

A configuration of a few bytes can ask for more memory than a machine has.
"""

import json
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from .bounded_json import object_from_file
from .errors import HeaderError
from .hub_files import model_file
from .tensor_files import TensorEntry, header_from_file

_SHOWN = 3  # weights that a message lists
Shape = tuple[int, ...]


def check_stored_weights(cls: type[PreTrainedModel], name: Any, options: Mapping[str, object]) -> None:
    """Refuse, before `from_pretrained` allocates a model, weights of other shapes than its configuration says.

    Args:
        cls: class of the model.
        name, options: as `from_pretrained` takes them. Nothing is checked where they say that shapes may differ, or
            that the weights come from elsewhere than the safetensors files of that name.

    Raises:
        ValueError, OSError: as `missing_weights`.
    """
    is_other = any(options.get(option) for option in ("ignore_mismatched_sizes", "state_dict", "variant"))
    if name is None or is_other or not options.get("use_safetensors"):
        return
    config, settings = options.get("config"), {key: options[key] for key in options if key != "config"}
    if not isinstance(config, PreTrainedConfig):
        config, _ = cast(Any, cls.config_class).from_pretrained(config or name, return_unused_kwargs=True, **settings)
    missing_weights(cls, config, name, options)


def missing_weights(
    cls: type[PreTrainedModel],
    config: PreTrainedConfig,
    name: str | os.PathLike[str],
    options: Mapping[str, object] = MappingProxyType({}),
) -> list[str]:
    """The weights of a model that its checkpoint lacks; [] too where it has no safetensors files.

    Args:
        cls: class of the model.
        config: its configuration.
        name: folder or Hub id of the checkpoint.
        options: of `from_pretrained`; those that say where on the Hub it lies are used.

    Raises:
        ValueError: a file is damaged, or holds weights of other shapes than the configuration says; names them.
        OSError: the files cannot be read.
    """
    stored = {weight: entry.shape for weight, entry in stored_entries(name, options).items()}
    if not stored:
        return []
    model: Any = cls
    with torch.device("meta"):
        shapes = {weight: tuple(value.shape) for weight, value in model(config).state_dict().items()}
    prefix = f"{cls.base_model_prefix}."  # which the names of a bare encoder lack
    if not any(weight in shapes for weight in stored):
        has_prefix = any(weight.startswith(prefix) for weight in shapes)
        stored = {prefix + weight if has_prefix else weight.removeprefix(prefix): stored[weight] for weight in stored}
    others = [weight for weight, shape in shapes.items() if stored.get(weight, shape) != shape]
    if others:
        shown = "; ".join(f"{weight} {stored[weight]}, not {shapes[weight]}" for weight in others[:_SHOWN])
        raise ValueError(
            f"expected weights of the shapes that the configuration says, got {len(others)} of other shapes in "
            f"{name}: {shown}{'; ...' if len(others) > _SHOWN else ''}. Configuration and weights are of different "
            "models: copy both from one source"
        )
    return [weight for weight in shapes if weight not in stored]


def stored_entries(
    name: str | os.PathLike[str], options: Mapping[str, object] = MappingProxyType({})
) -> dict[str, TensorEntry]:
    """{name of a weight: its entry} in all safetensors files of a checkpoint, by their headers alone.

    Args:
        name, options: as for `missing_weights`.
    """
    single = model_file(name, SAFE_WEIGHTS_NAME, options)
    files = [single]
    if single is None:
        index = model_file(name, SAFE_WEIGHTS_INDEX_NAME, options)
        parts = {} if index is None else object_from_file(index).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(part, str) for part in parts.values()):
            raise HeaderError(f"{index}: expected a weight_map of names, got {json.dumps(parts):.80}")
        files = [model_file(name, part, options) for part in sorted(set(parts.values()))]
    headers = [header_from_file(file) for file in files if file is not None]
    return {weight: entry for header in headers for weight, entry in header.tensors.items()}
