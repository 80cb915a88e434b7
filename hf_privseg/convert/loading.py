"""Checkpoints from files, without running what is in them: safetensors, and pickles of tensors and plain values.

A pickle is a program. PyTorch's restricted unpickler runs none but builds tensors, containers and a list of classes
that is extended here by NumPy's arrays and by stand-ins, which do and keep nothing, for what training tools leave in
their files. Whatever else a pickle asks for ends the reading.
"""

import argparse
import hashlib
import json
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..setr.errors import ConversionError, HeaderError
from ..setr.tensor_files import header_from_file

_PATTERNS = ("model*.safetensors", "pytorch_model*.bin")
_NESTED = ("state_dict", "model")  # where files keep the weights beside other things


class _Ignored:
    """Stands for an object of another package; what it was made from is thrown away."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


class _IgnoredHistory(_Ignored):
    """For the curves that mmengine logs."""


class _IgnoredArguments(_Ignored):
    """For a script's arguments."""


def _look_up_nothing(*_: Any) -> None:
    """Stands for `getattr`, by which mmengine's pickles name the methods of the class above."""


_DTYPES = [np.dtype(code) for code in "?bBhHiIlLqQefd"]
# what NumPy's pickles call
_ARRAY: Any = np.zeros(1).__reduce__()[0]
_SCALAR: Any = np.float64(0).__reduce__()[0]
_SAFE: list[Any] = [
    np.dtype,
    np.ndarray,
    *{type(dtype) for dtype in _DTYPES},
    *(
        (function, f"numpy.{core}.multiarray.{function.__name__}")
        for function in (_ARRAY, _SCALAR)
        for core in ("_core", "core")  # the name since NumPy 2, and the one before
    ),
    (_IgnoredHistory, "mmengine.logging.history_buffer.HistoryBuffer"),
    (_look_up_nothing, "builtins.getattr"),
    (_IgnoredArguments, f"{argparse.Namespace.__module__}.{argparse.Namespace.__name__}"),
]


@dataclass
class Checkpoint:
    """The content of a checkpoint from elsewhere.

    Args:
        weights: name -> tensor, in the dtype that came.
        name: of the file or folder, for people.
        files: (name, SHA-256) of every file with weights.
        meta: what the file says of itself (mmsegmentation: configuration, class names, palette).
        config: config.json of a folder.
        preprocessor: preprocessor_config.json of a folder.
    """

    weights: Mapping[str, torch.Tensor]
    name: str = "a state dict"
    files: list[tuple[str, str]] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    preprocessor: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(source: Path) -> Checkpoint:
    """A file (safetensors, or a pickle of PyTorch's) or a folder as transformers writes it -> its content.

    Raises:
        FileNotFoundError: nothing is there, or no weights are in the folder.
        ConversionError: a pickle that asks for more than tensors and plain values, a damaged file, or no weights.
    """
    if not source.exists():
        raise FileNotFoundError(
            f"expected a checkpoint's file or folder, got {source}, which does not exist; download a model of the Hub "
            "first (hf download OWNER/NAME --local-dir FOLDER)"
        )
    if not source.is_dir():
        weights, meta = _read_file(source)
        return Checkpoint(weights, source.name, [(source.name, _sha256(source))], meta)
    files = next((found for pattern in _PATTERNS if (found := sorted(source.glob(pattern)))), None)
    if files is None:
        raise FileNotFoundError(f"expected {' or '.join(_PATTERNS)} in the folder {source}, got neither")
    merged: dict[str, torch.Tensor] = {}
    for file in files:
        merged |= _read_file(file)[0]
    hashes = [(file.name, _sha256(file)) for file in files]
    settings = [_read_json(source / name) for name in ("config.json", "preprocessor_config.json")]
    return Checkpoint(merged, source.resolve().name, hashes, {}, *settings)


def _read_file(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights, and what else a pickle says of itself."""
    if path.suffix == ".safetensors":
        try:
            header_from_file(path)
            return load_file(path), {}
        except (HeaderError, SafetensorError) as error:
            raise ConversionError(f"{path} is damaged, or no safetensors file: {error}; download it again") from error
    content = _read_pickle(path)
    nested = next((content[name] for name in _NESTED if isinstance(content.get(name), Mapping)), content)
    weights = {str(key): value for key, value in nested.items() if isinstance(value, torch.Tensor)}
    if not weights:
        raise ConversionError(
            f"expected weights in {path}, at its top or under {' or '.join(_NESTED)}, got {sorted(map(str, content))}"
        )
    if all(key.startswith("module.") for key in weights):  # left by training on several devices
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    meta = content.get("meta")
    return weights, meta if isinstance(meta, dict) else {}


def _read_pickle(path: Path) -> dict[Any, Any]:
    try:
        with torch.serialization.safe_globals(_SAFE):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConversionError(_how_to_make_it_safe(path, error)) from None
    except (RuntimeError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ConversionError(
            f"{path} is damaged, or no checkpoint of PyTorch's: {error}; download it again"
        ) from error
    if not isinstance(content, Mapping):
        raise ConversionError(f"expected a dictionary of weights in {path}, got a {type(content).__name__}")
    return dict(content)


def _how_to_make_it_safe(path: Path, error: Exception) -> str:
    # the library's message goes on to advise loading without restrictions
    asked_for = re.search(r"GLOBAL ([\w.]+)", str(error))
    reason = asked_for[1] if asked_for else str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
    return (
        f"{path} is a pickle that asks for more than tensors and plain values ({reason}), which could run code of its "
        "maker; it was not loaded. If you trust its maker, save the weights alone, on a machine with nothing to lose: "
        "import torch; from safetensors.torch import save_file; "
        f'content = torch.load("{path.name}", map_location="cpu", weights_only=False); '
        'weights = content.get("state_dict", content); '
        'save_file({name: w.contiguous().clone() for name, w in weights.items()}, "weights.safetensors") '
        "- and convert weights.safetensors"
    )


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
