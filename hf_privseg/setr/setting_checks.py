"""The types and ranges of an image processor's settings, which may come from a file that anyone wrote."""

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from PIL.Image import Resampling

MAX_PATCH_SIZE = 2**12  # pixels
MAX_CHANNELS = 2**10

_MAX_SIDE = 2**20  # of an image in pixels
_LARGEST = 1e9  # of any other number


def check_settings(settings: Mapping[str, object]) -> None:
    """Refuse settings that transformers or torch would fail on, each with an error of its own.

    Args:
        settings: by name, as a user or a file gives them; others than those that are known here pass.

    Raises:
        ValueError: names the setting, and what it should be.
    """
    for name, value in settings.items():
        if name in _CHECKS and (value is not None or name in _NEEDED):
            expected, holds = _CHECKS[name]
            if not holds(value):
                raise ValueError(f"{name} is {expected}, got {value!r:.80}")


def _is_whole_number(largest: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and 1 <= value <= largest


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST  # no NaN


def _is_positive(value: object) -> bool:
    return _is_number(value) and cast(float, value) >= 1 / _LARGEST


def _are(holds: Callable[[object], bool]) -> Callable[[object], bool]:
    """What tells whether a value, or each one of a sequence, is as it should be."""

    def each(value: object) -> bool:
        values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        return len(values) > 0 and all(map(holds, values))

    return each


def _is_size(value: object) -> bool:
    if isinstance(value, list | tuple) and len(value) != 2:
        return False
    is_named = isinstance(value, Mapping) or _is_called(value, "SizeDict")
    sides = list(dict(cast(Mapping, value)).values()) if is_named else value
    return _are(_is_whole_number(_MAX_SIDE))(sides)


def _is_resampling(value: object) -> bool:
    return _is_called(value, "InterpolationMode") or (type(value) is not bool and value in list(Resampling))


def _is_called(value: object, name: str) -> bool:
    """Whether the value is of a class of transformers or torchvision, which is not imported for this."""
    return type(value).__name__ == name


def _is_device(value: object) -> bool:
    import torch

    try:
        torch.device(value)  # type: ignore[call-overload]
    except (RuntimeError, TypeError):
        return False
    return True


_SIZE = (
    f"whole pixels from 1 to {_MAX_SIDE}: {{'height', 'width'}}, {{'shortest_edge'[, 'longest_edge']}}, "
    "[height, width] or an int"
)
_SWITCHES = (
    "do_resize",
    "do_pad",
    "do_rescale",
    "do_normalize",
    "do_convert_rgb",
    "do_reduce_labels",
    "do_center_crop",
)
_CHECKS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "patch_size": (f"an int from 1 to {MAX_PATCH_SIZE}", _is_whole_number(MAX_PATCH_SIZE)),
    "num_channels": (f"an int from 1 to {MAX_CHANNELS}", _is_whole_number(MAX_CHANNELS)),
    "ignore_index": ("an int of 32 bits", lambda value: type(value) is int and -(2**31) <= value < 2**31),
    "resize_factor": ("a positive number", _is_positive),
    "rescale_factor": ("a positive number", _is_positive),
    "image_mean": ("a number, or one a channel", _are(_is_number)),
    "pad_value": ("a number, or one a channel", _are(_is_number)),
    "image_std": ("a positive number, or one a channel", _are(_is_positive)),
    "resample": ("one of PIL's resampling filters, 0 to 5", _is_resampling),
    "device": ("a device of torch", _is_device),
    **{name: (_SIZE, _is_size) for name in ("size", "crop_size", "pad_size")},
    **{name: ("True or False", lambda value: isinstance(value, bool)) for name in _SWITCHES},
}
_NEEDED = (
    "patch_size",
    "num_channels",
    "resize_factor",
    "rescale_factor",
    "pad_value",
    "ignore_index",
)  # None is no value of these
