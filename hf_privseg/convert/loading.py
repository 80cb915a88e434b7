"""Checkpoints from files, without running what is in them: safetensors, and pickles of tensors and plain values.

A pickle is read by `pickle_child` in a process of its own, with bounded memory and time, so that a hostile one can
neither run code nor take this process down.
"""

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..setr.bounded_json import object_from_file
from ..setr.errors import ConversionError, HeaderError
from ..setr.tensor_files import header_from_file

_PATTERNS = ("model*.safetensors", "pytorch_model*.bin")
_CHILD = Path(__file__).with_name("pickle_child.py")
_CHILD_SECONDS = 120.0  # to start, and to read a small file
_CHILD_BYTES_PER_SECOND = 2**24  # of a large file, on a slow disk


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
    preprocessor: dict[str, object] = field(default_factory=dict)


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
    settings = [_read_settings(source / name) for name in ("config.json", "preprocessor_config.json")]
    return Checkpoint(merged, source.resolve().name, hashes, {}, *settings)


def _read_file(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights, and what else a pickle says of itself."""
    return (_read_safetensors(path), {}) if path.suffix == ".safetensors" else _read_pickle(path)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        header_from_file(path)
        return load_file(path)
    except (HeaderError, SafetensorError, KeyError) as error:  # a KeyError for dtypes that torch lacks
        raise ConversionError(f"{path} is damaged, or no safetensors file: {error}; download it again") from error


def _read_pickle(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """As `_read_file`, of a file that `pickle_child` reads."""
    with tempfile.TemporaryDirectory(prefix="privseg-convert-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        problem = _run_child(path, folder)
        if problem is not None:
            raise ConversionError(f"{path} is damaged or hostile: {problem}; download it again, from a trusted source")
        if (folder / "problem.json").is_file():
            raise ConversionError(_message(path, object_from_file(folder / "problem.json")))
        return _read_safetensors(folder / "weights.safetensors"), object_from_file(folder / "meta.json")


def _run_child(path: Path, folder: Path) -> str | None:
    """Have `pickle_child` write the content of a file to a folder; how it failed, or None."""
    seconds = _CHILD_SECONDS + path.stat().st_size / _CHILD_BYTES_PER_SECOND
    command = [sys.executable, "-P", str(_CHILD), str(path.resolve()), str(folder)]
    try:
        child = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False, cwd=folder
        )
    except subprocess.TimeoutExpired:
        return f"it takes longer than {seconds:.0f} seconds to read"
    if child.returncode:
        last_line = child.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return f"the process that read it ended with the code {child.returncode} ({last_line:.200})"
    return None


def _message(path: Path, problem: dict[str, object]) -> str:
    """What `pickle_child` says is wrong with a file -> the text for people."""
    reason = str(problem["reason"])
    if problem["kind"] == "content":
        return f"{path} cannot be converted: {reason}"
    if problem["kind"] == "damaged":
        return f"{path} is damaged, or no checkpoint of PyTorch's: {reason}; download it again"
    return (
        f"{path} is a pickle that asks for more than tensors and plain values ({reason}), which could run code of its "
        "maker; it was not loaded. If you trust its maker, save the weights alone, on a machine with nothing to lose: "
        "import torch; from safetensors.torch import save_file; "
        f'content = torch.load("{path.name}", map_location="cpu", weights_only=False); '
        'weights = content.get("state_dict", content); '
        'save_file({name: w.contiguous().clone() for name, w in weights.items()}, "weights.safetensors") '
        "- and convert weights.safetensors"
    )


def _read_settings(path: Path) -> dict[str, object]:
    """The object in a JSON file; empty where there is no such file."""
    try:
        return object_from_file(path) if path.is_file() else {}
    except HeaderError as error:
        raise ConversionError(str(error)) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
