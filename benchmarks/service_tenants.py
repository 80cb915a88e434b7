"""Many keys on one service: what a thousand tenants cost in memory and start time, and a batch of mixed keys in time.

    python benchmarks/service_tenants.py --tenants 1000 --batch 16 --size 512

Registers encrypted patch embeddings of the embedded model, every one under a key of its own, in a folder; opens the
folder anew, as after a restart; and asks for embeddings in random order. Then it runs batches of which all images have
one key, and batches of which every image has its own, in turns. Memory is that of this process, from /proc (Linux).
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from hf_privseg import EncryptedImage, SecretKey, SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.service import EmbeddingFolder, SegmentationService
from hf_privseg.service.embedding_store import RegisteredEmbedding
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.public_facts import KeyFacts

MIB = 2**20


def resident_mib() -> float:
    """MiB that this process holds now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def measure_store(folder: Path, weight: torch.Tensor, tenants: int) -> None:
    """Register, open anew, and ask in random order; printed."""
    store = EmbeddingFolder(folder)
    start = time.monotonic()
    for number in range(tenants):
        facts = KeyFacts("orthogonal", 1, f"{number:016x}")
        store.put(RegisteredEmbedding(torch.randn_like(weight), facts))
    seconds = time.monotonic() - start
    print(f"{tenants} tenants of {weight.nbytes / MIB:.1f} MiB: {1000 * seconds / tenants:.1f} ms to register one")
    before, start = resident_mib(), time.monotonic()
    store = EmbeddingFolder(folder)
    count, seconds = len(store), time.monotonic() - start
    print(f"opened anew: {count} tenants in {1000 * seconds:.1f} ms, +{resident_mib() - before:.0f} MiB")
    order = np.random.default_rng(0).integers(0, tenants, 2 * tenants)
    times = []
    for number in order:
        start = time.monotonic()
        store.get(f"{number:016x}")
        times.append(1000 * (time.monotonic() - start))
    print(
        f"asked for in random order: median {statistics.median(times):.2f} ms, longest {max(times):.1f} ms; "
        f"{store.loaded_bytes / MIB:.0f} MiB of weights in memory, process +{resident_mib() - before:.0f} MiB"
    )


def measure_batches(service: SegmentationService, batch: int, size: int, rounds: int) -> None:
    """Seconds of processor time of batches of one key and of mixed keys, so that other programs count little; printed.

    Each image of a mixed batch has a key of its own.
    """
    plain = service.model.setr.embeddings.patch_embeddings.projection.weight.detach()
    keys = [SecretKey.generate() for _ in range(batch)]
    rng = np.random.default_rng(0)
    images: list[EncryptedImage] = []
    for key in keys:
        weight = cipher_for(key, patch_size=service.processor.patch_size).encrypt_weight(plain)
        service.store.put(RegisteredEmbedding(weight, key.facts))
        images += service.processor.encrypt([rng.integers(0, 256, (size, size, 3), np.uint8)], key)
    one_key = service.processor.encrypt([rng.integers(0, 256, (size, size, 3), np.uint8) for _ in keys], keys[0])
    kinds = {"one key": one_key, "mixed keys": images}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    service.segment_batch(images[:1])
    for _ in range(rounds):
        for name, each in kinds.items():
            start = time.process_time()
            service.segment_batch(each)
            seconds[name].append(time.process_time() - start)
    best = {name: min(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        print(f"batch of {batch} at {size} x {size}, {name}: {', '.join(f'{value:.2f}' for value in values)} s")
    print(f"mixed against one key, best of {rounds}: {best['mixed keys'] / best['one key']:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tenants", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=512, help="side of an image in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    model = SetrForSemanticSegmentation.from_pretrained(default_checkpoint()).eval()
    processor = SetrImageProcessor()  # images at their own size
    weight = model.setr.embeddings.patch_embeddings.projection.weight.detach()
    with tempfile.TemporaryDirectory() as name:
        measure_store(Path(name), weight, arguments.tenants)
    measure_batches(SegmentationService(model, processor), arguments.batch, arguments.size, arguments.rounds)


if __name__ == "__main__":
    main()
