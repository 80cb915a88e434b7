"""A program that reads one pickle of PyTorch's and writes its tensors as safetensors. `loading` starts it.

    python -P pickle_child.py CHECKPOINT FOLDER

A pickle is a program. PyTorch's restricted unpickler runs none, but it builds tensors, containers and a list of
classes, which is extended here by NumPy's arrays and by stand-ins, which do and keep nothing, for what training tools
leave in their files. Whatever else a pickle asks for ends the reading. A hand-made state can still crash NumPy or
torch, or fill the memory. That is why a process of its own reads it, with bounded memory.

It writes `weights.safetensors` and `meta.json`, or `problem.json` with {"kind", "reason"}: "unsafe" for a pickle that
asks for more, "damaged" for one that cannot be read, and "content" for one without weights.
"""

import argparse
import json
import math
import os
import pickle
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

_STARTS = (b"PK\3\4", b"\x80")  # of a zip archive, and of a pickle
_NESTED = ("state_dict", "model")  # where files keep the weights beside other things
_META = ("cfg", "config", "dataset_meta", "CLASSES", "PALETTE")  # what the conversion reads
_SPARE_BYTES = 2**31  # what the process may take beside a few copies of the file
_MAX_META_DEPTH = 8


class Refused(Exception):
    """A checkpoint that is not converted, with the kind of its problem."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class _Ignored:
    """Stands for an object of another package and keeps nothing of what it is made from."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


class _IgnoredHistory(_Ignored):
    """Stands for the curves that mmengine logs."""


class _IgnoredArguments(_Ignored):
    """Stands for a script's arguments."""


def _look_up_nothing(*_: object) -> None:
    """Stands for `getattr`, by which mmengine's pickles name the methods of the class above."""


_DTYPES = [np.dtype(code) for code in "?bBhHiIlLqQefd"]
# NumPy's pickles call these two functions.
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


def read_pickle(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Path of a checkpoint -> (name -> tensor, what it says of itself in values that JSON has).

    Raises:
        Refused: the checkpoint is unsafe, damaged, or has no weights.
    """
    with path.open("rb") as file:
        start = file.read(24)
    if not start.startswith(_STARTS):  # a web page, a pointer of Git LFS, nothing at all
        raise Refused("damaged", f"it begins with {start!r}, as no checkpoint does" if start else "it is empty")
    try:
        with torch.serialization.safe_globals(_SAFE):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Refused("unsafe", _asked_for(error)) from None
    except RuntimeError as error:  # torch says what is wrong with an archive
        raise Refused("damaged", f"it cannot be read ({error!s:.300})") from None
    except Exception:  # a damaged file makes the unpickler raise whatever its instructions lead to
        raise Refused("damaged", "its pickle breaks off or makes no sense") from None
    if not isinstance(content, Mapping):
        raise Refused("content", f"expected a dictionary of weights, got a {type(content).__name__}")
    nested = next((content[name] for name in _NESTED if isinstance(content.get(name), Mapping)), content)
    weights = {key: value for key, value in nested.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if not weights:
        found = ", ".join(sorted(repr(key) for key in content)[:20]) or "an empty dictionary"
        raise Refused("content", f"expected weights at its top or under {' or '.join(_NESTED)}, got {found:.300}")
    if all(key.startswith("module.") for key in weights):  # left by training on several devices
        weights = {key.removeprefix("module."): value for key, value in weights.items()}
    return _plain(weights, path.stat().st_size), _plain_meta(content.get("meta"))


def _asked_for(error: Exception) -> str:
    """The name that a pickle asks for; the library's message goes on to advise loading without restrictions."""
    asked_for = re.search(r"GLOBAL ([\w.]+)", str(error))
    return asked_for[1] if asked_for else str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0][:300]


def _plain(weights: dict[str, torch.Tensor], num_file_bytes: int) -> dict[str, torch.Tensor]:
    """Tensors -> contiguous ones that share no memory, as safetensors needs them."""
    for name, value in weights.items():
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise Refused("content", f"expected dense tensors of plain numbers, got {name!r:.80} of another kind")
    num_bytes = sum(math.prod(value.shape) * value.element_size() for value in weights.values())
    if num_bytes > 4 * num_file_bytes + 2**20:  # a view may repeat a single number without end
        raise Refused("damaged", f"its tensors would take {num_bytes} bytes, but the file has {num_file_bytes}")
    plain, seen = {}, set()
    for name, value in weights.items():
        tensor = value.detach()
        storage = tensor.untyped_storage()
        whole = tensor.is_contiguous() and storage.nbytes() == tensor.numel() * tensor.element_size()
        plain[name] = tensor if whole and storage.data_ptr() not in seen else tensor.contiguous().clone()
        seen.add(storage.data_ptr())
    return plain


def _plain_meta(meta: object) -> dict[str, Any]:
    """The entries of a checkpoint's meta that the conversion reads, as far as JSON has their values."""
    if not isinstance(meta, Mapping):
        return {}
    return {name: _as_json(meta[name], _MAX_META_DEPTH) for name in _META if name in meta}


def _as_json(value: object, depth: int) -> Any:
    """A value -> the same in types of JSON; None for what JSON lacks, and below `depth`."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bool | str) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if depth and isinstance(value, list | tuple):
        return [_as_json(item, depth - 1) for item in value]
    if depth and isinstance(value, Mapping):
        return {key: _as_json(item, depth - 1) for key, item in value.items() if isinstance(key, str)}
    return None


def _limit_memory(num_bytes: int) -> None:
    """Let this process take `num_bytes` more than it has, where the system can bound it."""
    try:
        import resource

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (taken + num_bytes,) * 2)
    except (ImportError, OSError, ValueError):
        return  # no Linux


def write_content(source: Path, folder: Path) -> None:
    """Read a checkpoint and write what is in it, or what is wrong with it, to `folder`."""
    try:
        weights, meta = read_pickle(source)
        save_file(weights, folder / "weights.safetensors")
        (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    except Refused as refused:
        problem = {"kind": refused.kind, "reason": str(refused)}
        (folder / "problem.json").write_text(json.dumps(problem), encoding="utf-8")


if __name__ == "__main__":
    checkpoint = Path(sys.argv[1])
    _limit_memory(4 * checkpoint.stat().st_size + _SPARE_BYTES)
    write_content(checkpoint, Path(sys.argv[2]))
