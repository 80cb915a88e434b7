"""Files of checkpoints: what is read, and that no pickle is ever run."""

import argparse
import hashlib
import os
import pickle
import re
import sys
import types
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ViTModel

from helpers.sources import HALF, mmseg_source, source_model
from helpers.tiny_setr import FP32, pixels
from hf_privseg.convert import ConversionError, convert_checkpoint, loading, pickle_child
from hf_privseg.convert.loading import read_checkpoint


@pytest.fixture(autouse=True)
def _pickles_are_read_here(request, monkeypatch):
    """Read pickles in this process, which takes no seconds to start, unless a test asks for two processes."""
    if "two_processes" not in request.fixturenames:
        monkeypatch.setattr(loading, "_run_child", pickle_child.write_content)


@pytest.fixture
def two_processes():
    """Pickles are read in a process of their own, as users have it."""


class Hostile:
    """Its unpickling creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class Getattr:
    """Its unpickling looks a method up, and calls it if `call`."""

    def __init__(self, call):
        self.call = call

    def __reduce__(self):
        return (Getattr(False), (1,)) if self.call else (getattr, ([], "append"))

    def __call__(self, *_): ...  # pickle demands it


class Unknown(OrderedDict):
    """Harmless, but nobody knows it."""


@pytest.fixture
def history_buffer(monkeypatch):
    """mmengine's class of that name as far as a pickle sees it: NumPy arrays and methods in the state."""

    class HistoryBuffer:
        def __init__(self):
            self.max_length = 1000000
            self._log_history = np.array([0.5, 0.25])
            self._count_history = np.array([1, 1])

        def mean(self): ...

        def __getstate__(self):  # as in mmengine 0.10: with methods, which pickles name by getattr
            return self.__dict__ | {"statistics_methods": {"mean": HistoryBuffer.mean}}

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = "mmengine.logging.history_buffer", "HistoryBuffer"
    HistoryBuffer.mean.__module__ = HistoryBuffer.__module__
    HistoryBuffer.mean.__qualname__ = "HistoryBuffer.mean"
    names = ["mmengine", "mmengine.logging", "mmengine.logging.history_buffer"]
    modules = {name: types.ModuleType(name) for name in names}
    vars(modules[names[-1]])["HistoryBuffer"] = HistoryBuffer
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    yield HistoryBuffer
    monkeypatch.undo()
    assert names[-1] not in sys.modules or sys.modules[names[-1]] is not modules[names[-1]]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_hostile_pickle_is_refused_and_not_run(two_processes, tmp_path, zipped):
    marker, path = tmp_path / "was_run", tmp_path / "hostile.pth"
    content = {"state_dict": mmseg_source()[1], "meta": {"config": Hostile(marker)}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConversionError) as refused:
        convert_checkpoint(path, num_attention_heads=2)
    assert not marker.exists()
    message = str(refused.value)
    assert re.search(
        rf"^{re.escape(str(path))} is a pickle that asks for more than tensors and plain values \(\w+\.mkdir\)",
        message,
    )
    assert 'torch.load("hostile.pth", map_location="cpu", weights_only=False)' in message
    # it is hostile indeed
    torch.load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        (Getattr(call=True), "Trying to call reduce for unrecognized function None"),
        (Unknown(a=1), r"[\w.]*test_loading\.Unknown"),
        (np.array([None], object), r".*numpy\.dtypes\.ObjectDType"),
    ],
    ids=["call of an attribute", "subclass", "object array"],
)
def test_other_unknown_objects_are_refused(tmp_path, value, asked):
    torch.save({"weights": torch.ones(1), "more": value}, tmp_path / "file.pth")
    with pytest.raises(
        ConversionError, match=rf"file\.pth is a pickle that asks for more .*\({asked}.*\), .*it was not loaded"
    ):
        read_checkpoint(tmp_path / "file.pth")


def test_the_lines_of_the_message_make_the_file_safe(tmp_path, monkeypatch):
    model, weights = mmseg_source(out_indices=[0, 1, 2, 3])
    path = tmp_path / "odd.pth"
    torch.save({"state_dict": weights, "meta": Unknown()}, path)
    with pytest.raises(ConversionError) as refused:
        read_checkpoint(path)
    (lines,) = re.findall(r"import torch;.*?\"weights\.safetensors\"\)", str(refused.value))
    monkeypatch.chdir(tmp_path)
    exec(lines, {})  # noqa: S102 - what the message advises
    converted = convert_checkpoint(
        "weights.safetensors", num_attention_heads=2, out_indices=[0, 1, 2, 3], image_mean=HALF, image_std=HALF
    )
    with torch.no_grad():
        torch.testing.assert_close(converted.model(pixels()).logits, model(pixels()).logits, **FP32)


def test_what_training_tools_leave_in_their_files_is_ignored(tmp_path, history_buffer):
    _, weights = mmseg_source()
    state_dict = OrderedDict(weights)
    vars(state_dict)["_metadata"] = OrderedDict(version=1)
    content = {
        "meta": {"CLASSES": tuple("abcde"), "seed": np.int64(3), "lr": np.float32(0.1), "epoch": 1},
        "state_dict": state_dict,
        "message_hub": {"log_scalars": OrderedDict(loss=history_buffer())},
        "args": argparse.Namespace(lr=0.1),
        "optimizer": {"state": {0: {"momentum": torch.ones(2)}}, "param_groups": [{"lr": np.float64(0.1)}]},
    }
    torch.save(content, tmp_path / "iter_160000.pth")
    assert b"getattr" in (tmp_path / "iter_160000.pth").read_bytes()
    found = read_checkpoint(tmp_path / "iter_160000.pth")
    assert set(found.weights) == set(weights)
    assert found.meta == {"CLASSES": list("abcde")}
    digest = hashlib.sha256((tmp_path / "iter_160000.pth").read_bytes()).hexdigest()
    assert found.files == [("iter_160000.pth", digest)]


@pytest.mark.parametrize("core", ["_core", "core"])
def test_arrays_of_old_and_new_numpy(tmp_path, core):
    path = tmp_path / "file.pth"
    torch.save({"w": torch.ones(1), "array": np.arange(3), "scalar": np.float32(1)}, path, pickle_protocol=2,
               _use_new_zipfile_serialization=False)  # fmt: skip
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", f"numpy.{core}.multiarray".encode()))
    assert set(read_checkpoint(path).weights) == {"w"}


@pytest.mark.parametrize("nesting", ["state_dict", "model", None], ids=str)
def test_where_the_weights_are(tmp_path, nesting):
    weights = {"module.a": torch.ones(1), "module.b.c": torch.zeros(2)}
    torch.save(weights if nesting is None else {nesting: weights, "epoch": 1}, tmp_path / "file.pth")
    found = read_checkpoint(tmp_path / "file.pth")
    assert {name: list(value.shape) for name, value in found.weights.items()} == {"a": [1], "b.c": [2]}
    assert found.meta == {}


def test_a_folder_of_several_files(tmp_path):
    source = source_model(ViTModel)
    source.save_pretrained(tmp_path, max_shard_size="10KB")
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    found = read_checkpoint(tmp_path)
    assert [name for name, _ in found.files] == shards
    assert found.config["model_type"] == "vit"
    expected = {name: value for shard in shards for name, value in load_file(tmp_path / shard).items()}
    assert set(found.weights) == set(expected)
    (tmp_path / shards[1]).unlink()
    with pytest.raises(ConversionError, match="missing"):
        convert_checkpoint(tmp_path, image_mean=HALF, image_std=HALF)


def test_a_folder_with_a_pickle(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    assert set(read_checkpoint(tmp_path).weights) == {"a"}
    save_file({"b": torch.ones(1)}, tmp_path / "model.safetensors")
    assert set(read_checkpoint(tmp_path).weights) == {"b"}  # the safe form where there is one


@pytest.mark.parametrize(
    ("name", "write", "error", "message"),
    [
        ("a.pth", lambda path: None, FileNotFoundError, r"file or folder, got .*a\.pth, which does not exist"),
        ("a", lambda path: path.mkdir(), FileNotFoundError, r"model\*\.safetensors or pytorch_model\*\.bin in"),
        ("a.safetensors", lambda path: path.write_bytes(b"no"), ConversionError, r"a\.safetensors is damaged"),
        ("a.pth", lambda path: path.write_bytes(b"PK\3\4 no"), ConversionError, r"a\.pth is damaged"),
        ("a.pth", lambda path: path.write_bytes(b""), ConversionError, r"a\.pth is damaged, .*: it is empty;"),
        ("a.pth", lambda path: path.write_bytes(b"\x80\2."), ConversionError,
         r"a\.pth is damaged, .*: its pickle breaks off or makes no sense; download it again"),
        ("a.pth", lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1"), ConversionError,
         r"a\.pth is damaged, .*: it begins with b'version https://git-lfs\.', as no checkpoint does; download"),
        ("a.pth", lambda path: torch.save([torch.ones(1)], path), ConversionError, r"weights, got a list"),
        ("a.pth", lambda path: torch.save({"epoch": 1}, path), ConversionError, r"weights at its top .*, got 'epoch'"),
        ("a.pth", lambda path: torch.save({}, path), ConversionError, r"at its top .*, got an empty dictionary"),
        ("a.pth", lambda path: path.write_bytes(pickle.dumps({}, 2)), ConversionError, r"a\.pth is .*"),
    ],
    ids=["nothing", "empty folder", "safetensors", "zip", "empty file", "empty stack", "pointer", "list", "no weights",
         "nothing inside", "plain pickle"],
)  # fmt: skip
def test_files_that_cannot_be_read(tmp_path, name, write, error, message):
    write(tmp_path / name)
    with pytest.raises(error, match=message):
        read_checkpoint(tmp_path / name)


# ------------------------------------------------------------------------------------------- a process of its own


class Crashing:
    """NumPy's functions, called on a state that no array has: it crashes some versions of NumPy or torch."""

    def __reduce__(self):
        return np.dtype, ("V8",), (3, "|", None, ("a",), {"a": 1}, -1, -1, 0)


def test_a_crash_of_the_reading_process_becomes_an_error(two_processes, tmp_path, monkeypatch):
    crashing = tmp_path / "child.py"
    crashing.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(loading, "_CHILD", crashing)
    torch.save({"a": torch.ones(1)}, tmp_path / "file.pth")
    with pytest.raises(ConversionError, match=r"file\.pth is damaged or hostile: the process .* with the code -11 "):
        read_checkpoint(tmp_path / "file.pth")
    crashing.write_text("import time; time.sleep(60)")
    monkeypatch.setattr(loading, "_CHILD_SECONDS", 0.5)
    with pytest.raises(ConversionError, match=r"file\.pth is .*: it takes longer than 1 seconds to read"):
        read_checkpoint(tmp_path / "file.pth")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux alone")
def test_a_pickle_that_fills_the_memory_is_stopped(two_processes, tmp_path, monkeypatch):
    greedy = tmp_path / "child.py"
    source = pickle_child.__file__
    greedy.write_text(
        f"import importlib.util as u; s = u.spec_from_file_location('child', {source!r}); "
        "m = u.module_from_spec(s); s.loader.exec_module(m); m._limit_memory(2**28); bytearray(2**30)"
    )
    monkeypatch.setattr(loading, "_CHILD", greedy)
    torch.save({"a": torch.ones(1)}, tmp_path / "file.pth")
    with pytest.raises(ConversionError, match=r"with the code 1 \(MemoryError\)"):
        read_checkpoint(tmp_path / "file.pth")


def test_a_hand_made_state_of_numpy_is_refused(tmp_path):
    torch.save({"w": torch.ones(1), "more": Crashing()}, tmp_path / "file.pth")
    with pytest.raises(ConversionError, match=r"file\.pth is "):
        read_checkpoint(tmp_path / "file.pth")


def test_a_tensor_that_repeats_one_number_without_end_is_refused_before_it_is_allocated(tmp_path):
    torch.save({"w": torch.ones(1).expand(2**20, 2**20)}, tmp_path / "file.pth")
    with pytest.raises(ConversionError, match=r"its tensors would take 4398046511104 bytes, but the file has \d+"):
        read_checkpoint(tmp_path / "file.pth")


def test_weights_that_share_their_memory_are_all_read(tmp_path):
    base = torch.arange(12.0)
    torch.save({"a": base, "b": base, "c": base[2:5], "d": base.view(3, 4).T}, tmp_path / "file.pth")
    found = read_checkpoint(tmp_path / "file.pth").weights
    assert torch.equal(found["a"], base)
    assert torch.equal(found["b"], base)
    assert found["c"].tolist() == [2, 3, 4]
    assert torch.equal(found["d"], base.view(3, 4).T)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_settings_beside_the_weights_are_read_within_bounds(tmp_path, name):
    save_file({"b": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / name).write_text("[" * 50000)
    with pytest.raises(ConversionError, match=rf"{re.escape(name)}: expected JSON nested at most 16 deep"):
        read_checkpoint(tmp_path)
