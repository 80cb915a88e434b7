"""Where a model meets pixels: finding its patch embedding by structure.

A layer can be encrypted where it multiplies blocks that do not overlap with one matrix: a Conv2d or Conv3d whose
kernel is its stride, a Linear behind `Unfold`, or a Linear on patches that the processor has flattened.
"""

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from ..setr.model_encryption import PatchProjection
from .model_facts import ModelFacts, configurations
from .support import refusal

_CHANNELS = ("num_channels", "in_channels", "in_chans")
_SIDES = ("patch_size", "spatial_patch_size", "encoder_patch_size")
_ADVICE = (
    "pixels have to be read by one convolution whose kernel is its stride, without padding, or by one Linear on "
    "patches; projection='...' names the layer where the others are not used"
)


def find_projection(model: PreTrainedModel, name: str | None = None) -> PatchProjection:
    """A model -> its patch embedding, with the configuration of the innermost model that owns it.

    Args:
        model: any model of transformers with its weights in memory, plain or encrypted.
        name: the module, as `named_modules` calls it, where structure does not decide; an encrypted model remembers
            it.

    Raises:
        ValueError: the model cannot be encrypted; the message says why. Or there is no such module.
    """
    own = getattr(model, "patch_projection", None)  # SETR says itself
    if own is not None and name is None:
        found: PatchProjection = own
        return found
    modules = dict(model.named_modules())
    given = name or _remembered_name(model, modules)
    name = projection_name(model, given)
    geometry = _geometry(name, modules)
    if geometry is None:
        raise ValueError(f"{type(model).__name__} cannot be encrypted at {name} = {_shown(modules[name])}: {_ADVICE}")
    weight, (patch_size, num_channels), owner = modules[name].weight, geometry, owners(model, name)[-1]
    _check_weight(name, weight)
    if not any(owner.config is part for part in configurations(model.config)):
        raise ValueError(
            f"the configuration of the part with {name} is not saved with that of {type(model).__name__}, so that "
            "nobody could read that it is encrypted; encrypt that part, then put it into the model"
        )
    entry: dict[str, Any] = {"patch_size": patch_size, "num_channels": num_channels}
    if given:  # from the owner on, for the names around it change with the head
        entry["projection"] = next(path for path, module in owner.named_modules() if module is modules[name])
    _check_recorded(ModelFacts.of(owner), patch_size, num_channels)
    return PatchProjection(cast(nn.Parameter, weight), patch_size, num_channels, owner.config, entry)


def projection_name(model: PreTrainedModel, name: str | None = None) -> str:
    """A model -> the name of the module that is its patch embedding. Arguments and errors: `find_projection`."""
    modules, owner = dict(model.named_modules()), type(model).__name__
    reason = refusal(owner, {type(module).__name__ for module in modules.values()})
    if reason:
        raise ValueError(f"{owner} cannot be encrypted: {reason}")
    names = _candidates(model, modules)
    if name is not None:
        if not isinstance(modules.get(name), nn.Conv2d | nn.Conv3d | nn.Linear):
            raise ValueError(
                f"projection names a Conv2d, Conv3d or Linear of {owner}, got {name!r:.120}; layers that may read "
                f"pixels: {', '.join(names) or 'none found'}"
            )
        return name
    if not names:
        raise ValueError(f"{owner} cannot be encrypted: no layer of it takes the channels of an image; {_ADVICE}")
    unfit = next((candidate for candidate in names if _geometry(candidate, modules) is None), None)
    if unfit:
        raise ValueError(f"{owner} cannot be encrypted, because of {unfit} = {_shown(modules[unfit])}: {_ADVICE}")
    if len({id(modules[candidate].weight) for candidate in names}) > 1:
        raise ValueError(
            f"{owner} has several layers that may read pixels, {', '.join(names)}: pass projection='...' with the one "
            "that does; merge adapters (LoRA) into the weights first"
        )
    return names[0]


def _shown(module: nn.Module) -> str:
    """A layer in one line."""
    return " ".join(str(module).split())


def _remembered_name(model: PreTrainedModel, modules: dict[str, nn.Module]) -> str | None:
    """The name that the owner gave when the model was encrypted, as it is in this class; None where none was given."""
    facts = ModelFacts.of(model)
    if facts is None or facts.projection is None:
        return None
    path = facts.projection
    names = [name for name in modules if name == path or name.endswith(f".{path}")]
    here = [name for name in names if getattr(owners(model, name)[-1].config, "encryption", None) is not None]
    if len(here) != 1:
        raise ValueError(f"the configuration says that {path!r:.120} is encrypted, but {len(here)} modules are that")
    return here[0]


def owners(model: PreTrainedModel, name: str) -> list[PreTrainedModel]:
    """The models around a module, from the outermost to the innermost: a head, its backbone, its encoder."""
    parts = name.split(".")
    around = (model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts)))
    return [module for module in around if isinstance(module, PreTrainedModel)]


def _candidates(model: PreTrainedModel, modules: dict[str, nn.Module]) -> list[str]:
    """Names of all layers that may read pixels: convolutions of as many channels, else the first Linear on patches."""
    channels = set(_settings(model, _CHANNELS)) or {3}
    convolutions = [
        name
        for name, module in modules.items()
        if isinstance(module, nn.Conv2d | nn.Conv3d) and module.in_channels in channels
    ]
    if convolutions:
        return convolutions
    lengths = {c * frames * side**2 for c in channels for side in _settings(model, _SIDES) for frames in (1, 2)}
    return [
        name
        for name, module in modules.items()
        if isinstance(module, nn.Linear) and module.in_features in lengths and "patch" in name and "merg" not in name
    ][:1]


def _settings(model: PreTrainedModel, names: tuple[str, ...]) -> list[int]:
    """All integers under these names in the configuration and those inside it."""
    found = [getattr(config, name, None) for config in configurations(model.config) for name in names]
    flat = [item for value in found for item in (value if isinstance(value, list | tuple) else [value])]
    return [item for item in flat if isinstance(item, int)]


def _geometry(name: str, modules: dict[str, nn.Module]) -> tuple[int, int] | None:
    """Name of a module -> (patch size, channels times frames), None where it is no map of separate square blocks."""
    module = modules[name]
    if type(module) is nn.Linear:  # a subclass may compute something else
        beside = modules[name.rpartition(".")[0]].children()
        kernels = [other.kernel_size for other in beside if isinstance(other, nn.Unfold)]
        side = 1 if not kernels else kernels[0] if isinstance(kernels[0], int) else kernels[0][0]
        return side, module.in_features // side**2
    if type(module) not in (nn.Conv2d, nn.Conv3d):
        return None
    conv = cast(nn.Conv2d, module)
    *frames, height, width = conv.kernel_size
    padded = conv.padding != "valid" and any(conv.padding)
    if conv.kernel_size != conv.stride or set(conv.dilation) != {1} or conv.groups != 1 or padded or height != width:
        return None
    return height, conv.in_channels * (frames[0] if frames else 1)


def _check_recorded(facts: ModelFacts | None, patch_size: int, num_channels: int) -> None:
    """Refuse a configuration that says other blocks than the layer has."""
    if facts is not None and (facts.patch_size, facts.num_channels) != (patch_size, num_channels):
        raise ValueError(
            f"the configuration says blocks of {facts.patch_size} pixels and {facts.num_channels} channels, the layer "
            f"has {patch_size} and {num_channels}; load the configuration that was saved with the weights"
        )


def _check_weight(name: str, weight: Any) -> None:
    if not isinstance(weight, nn.Parameter) or not weight.is_floating_point() or weight.dtype.itemsize < 2:
        raise ValueError(
            f"expected a float weight of 16 bits or more in {name}, got {getattr(weight, 'dtype', type(weight))}; "
            "encrypt the model before it is quantised, and leave this layer out of the quantisation"
        )
    if weight.is_meta:
        raise ValueError(f"the weight of {name} is not in memory (meta device); load the model without offloading")
