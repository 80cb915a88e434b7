"""Stores of encrypted patch embeddings: what is registered survives, what is revoked is gone, damage is noticed."""

import os
import signal

import pytest
import torch

from helpers import preloaded
from hf_privseg.service.embedding_store import (
    DamagedEmbeddingError,
    EmbeddingFolder,
    RegisteredEmbedding,
    TemporaryEmbeddings,
    UnknownEmbeddingError,
)
from hf_privseg.setr.public_facts import KeyFacts


def embedding(number, family="orthogonal"):
    weight = torch.full((8, 3, 4, 4), float(number)) + torch.arange(8.0)[:, None, None, None]
    return RegisteredEmbedding(weight, KeyFacts(family, 1, f"{number:016x}"))


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    return EmbeddingFolder(tmp_path / "store") if request.param == "folder" else TemporaryEmbeddings(8, 60)


def test_what_is_registered_is_found_replaced_and_revoked(store):
    assert store.put(embedding(1))
    assert store.put(embedding(2, "permutation"))
    assert len(store) == 2
    assert torch.equal(store.get(f"{1:016x}").weight, embedding(1).weight)
    assert store.get(f"{2:016x}").facts == embedding(2, "permutation").facts
    replacement = RegisteredEmbedding(torch.zeros(8, 3, 4, 4), embedding(1).facts)
    assert not store.put(replacement)
    assert torch.equal(store.get(f"{1:016x}").weight, replacement.weight)
    assert store.remove(f"{1:016x}")
    assert not store.remove(f"{1:016x}")
    with pytest.raises(UnknownEmbeddingError):
        store.get(f"{1:016x}")


@pytest.mark.parametrize("name", ["", "../secret", "0" * 15, "0" * 17, "G" * 16, "0" * 15 + "\n"])
def test_nothing_but_a_fingerprint_becomes_a_path(tmp_path, name):
    (tmp_path / "secret.safetensors").write_bytes(b"mine")
    store = EmbeddingFolder(tmp_path / "store")
    for use in (store.get, store.remove):
        with pytest.raises(UnknownEmbeddingError):
            use(name)
    assert (tmp_path / "secret.safetensors").exists()


def test_temporary_embeddings_make_room_and_end_by_the_clock():
    now = [0.0]
    store = TemporaryEmbeddings(2, 60, clock=lambda: now[0])
    store.put(embedding(1))
    now[0] = 30.0
    store.put(embedding(2))
    store.get(f"{1:016x}")
    store.put(embedding(3))  # 2 was used longest ago
    assert store.get(f"{1:016x}").facts == embedding(1).facts
    with pytest.raises(UnknownEmbeddingError):
        store.get(f"{2:016x}")
    now[0] = 60.0
    with pytest.raises(UnknownEmbeddingError):
        store.get(f"{1:016x}")
    assert len(store) == 1


def test_a_folder_is_read_again_by_the_next_process_and_shows_what_others_change(tmp_path):
    store, other = EmbeddingFolder(tmp_path), EmbeddingFolder(tmp_path)
    store.put(embedding(1))
    assert torch.equal(other.get(f"{1:016x}").weight, embedding(1).weight)
    replacement = RegisteredEmbedding(torch.zeros(8, 3, 4, 4), embedding(1).facts)
    store.put(replacement)
    assert torch.equal(other.get(f"{1:016x}").weight, replacement.weight)
    store.remove(f"{1:016x}")
    with pytest.raises(UnknownEmbeddingError):
        other.get(f"{1:016x}")


def test_memory_is_bounded_and_nothing_is_loaded_before_it_is_needed(tmp_path):
    store = EmbeddingFolder(tmp_path, memory_bytes=3 * embedding(0).weight.nbytes)
    for number in range(20):
        store.put(embedding(number))
    assert store.loaded_bytes == 0
    for number in range(20):
        assert torch.equal(store.get(f"{number:016x}").weight, embedding(number).weight)
        assert store.loaded_bytes <= 3 * embedding(0).weight.nbytes
    assert store.fingerprints() == [f"{number:016x}" for number in range(20)]


@pytest.mark.parametrize("change", ["flip", "cut", "swap"])
def test_damage_is_noticed_and_named(tmp_path, change):
    store = EmbeddingFolder(tmp_path)
    store.put(embedding(1))
    path = tmp_path / f"{1:016x}.safetensors"
    content = path.read_bytes()
    if change == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif change == "cut":
        path.write_bytes(content[:-4])
    else:
        store.put(embedding(2))
        path.write_bytes((tmp_path / f"{2:016x}.safetensors").read_bytes())
    with pytest.raises(DamagedEmbeddingError, match=rf"embedding {1:016x} is damaged \(.*\); register it again"):
        store.get(f"{1:016x}")
    store.put(embedding(1))
    assert torch.equal(store.get(f"{1:016x}").weight, embedding(1).weight)


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_a_kill_while_registering_loses_nothing_that_was_acknowledged(tmp_path):
    code = f"""
import torch
from pathlib import Path
from hf_privseg.service.embedding_store import EmbeddingFolder, RegisteredEmbedding
from hf_privseg.setr.public_facts import KeyFacts
store = EmbeddingFolder(Path({str(tmp_path)!r}))
for number in range(10**6):
    facts = KeyFacts("orthogonal", 1, f"{{number % 7:016x}}")
    store.put(RegisteredEmbedding(torch.full((64, 3, 16, 16), float(number)), facts))
    print(number, flush=True)
"""
    read, write = os.pipe()
    with open(read) as printed:
        process = preloaded.start("hf_privseg", "-c", code, stdout=write)
        os.close(write)
        last = next(number for number in map(int, printed) if number >= 20)
        process.kill()
        rest = printed.read().split()
    assert process.wait(60) == -signal.SIGKILL
    last = int(rest[-1]) if rest else last
    store = EmbeddingFolder(tmp_path)
    for number in range(7):
        newest = max(n for n in range(last + 1) if n % 7 == number)
        value = store.get(f"{number:016x}").weight.flatten()[0]
        assert value in (newest, last + 1)  # the one after the last may have arrived and not been acknowledged
