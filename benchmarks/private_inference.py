"""One patch embedding of an image, by ways of keeping the image from the server: seconds on both sides, bytes, error.

    for name in tenseal crypten concrete; do python -m venv build/$name; done
    build/tenseal/bin/pip install tenseal==0.3.18 numpy
    build/crypten/bin/pip install torch==2.3.1 torchvision==0.18.1 "numpy<2" onnx==1.17.0 tensorboard
    build/crypten/bin/pip install pandas pyyaml scipy
    build/crypten/bin/pip install --no-deps crypten==0.4.1 omegaconf==2.3.0 antlr4-python3-runtime==4.9.3
    build/concrete/bin/pip install concrete-ml==1.9.0
    python benchmarks/private_inference.py --tenseal build/tenseal/bin/python --crypten build/crypten/bin/python \\
        --concrete build/concrete/bin/python --output outputs/private_inference.md

The client has an image, the server an embedding of 768 x 768 (ViT-B/16): z = b E for each of its blocks b. Every way
computes the same z. Homomorphic encryption is measured on some blocks or columns of E and scaled to all of them, since
each costs the same; the table says on how many. Seconds are processor time with one thread.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from interleaved import processor_seconds_of, report
from peer_process import PeerProcess, reason_to_skip

from hf_privseg import EncryptedImage, SecretKey, SetrImageProcessor
from hf_privseg.experiments.tables import ResultTable
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.image_encrypter import ImageEncrypter
from hf_privseg.training.arguments import parse_arguments, run_script

_PATCH, _WIDTH = 16, 768
_HEADER = ["way", "client, s", "server, s", "up, MB", "down, MB", "error of z", "measured", "protects from"]
_OURS = "looking at the image; what a server can still recover is measured, and it may read the map"


@dataclass(frozen=True)
class Peer:
    """A library: its option of the command line, a module that has to be there, its script, what it protects from."""

    name: str
    option: str
    module: str
    script: str
    protects: str


_PEERS = [
    Peer("TenSEAL", "tenseal", "tenseal", "tenseal_ckks.py", "a server that follows the protocol (CKKS, 128 bits)"),
    Peer(
        "CrypTen", "crypten", "crypten", "crypten_shares.py",
        "two servers that follow the protocol and do not collude (additive shares)",
    ),
    Peer(
        "Concrete ML", "concrete", "concrete.ml", "concrete_tfhe.py",
        "a server that follows the protocol (TFHE, 128 bits)",
    ),
]  # fmt: skip


@dataclass(kw_only=True)
class Arguments:
    """What the command line takes."""

    output: str = field(metadata={"help": "Markdown file for the table."})
    tenseal: str | None = field(default=None, metadata={"help": "Python of an environment with TenSEAL."})
    crypten: str | None = field(default=None, metadata={"help": "Python of an environment with CrypTen."})
    concrete: str | None = field(default=None, metadata={"help": "Python of an environment with Concrete ML."})
    families: list[str] = field(
        default_factory=lambda: ["permutation", "orthogonal", "matrix"], metadata={"help": "Our key families."}
    )
    size: int = field(default=512, metadata={"help": "Side of the image in pixels."})
    rounds: int = field(default=5, metadata={"help": "Turns; medians are taken."})


@dataclass(frozen=True)
class Way:
    """One way of computing z; its steps follow one another, and each returns its seconds.

    Args:
        encrypt, server, decrypt: the client's, the server's and again the client's step.
        up, down: bytes of the messages.
        error: the largest one of z, in units of the largest z.
        measured: on how much.
    """

    encrypt: Callable[[], float]
    server: Callable[[], float]
    decrypt: Callable[[], float]
    up: Callable[[], float]
    down: Callable[[], float]
    error: Callable[[], float]
    measured: str = "all"


def problem(size: int) -> tuple[np.ndarray, torch.Tensor]:
    """Side of an image -> a smooth random image, (size, size, 3) levels of 8 bits, and E, (768, 3, 16, 16) float32."""
    torch.manual_seed(0)
    coarse = torch.rand(1, 3, 9, 9)
    image = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    levels = (image[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    return levels, torch.randn(_WIDTH, 3, _PATCH, _PATCH) * 0.02


def normalized(levels: np.ndarray) -> torch.Tensor:
    """(h, w, 3) levels -> (1, 3, h, w) float32 in [-1, 1], as the embedding takes them."""
    return (torch.from_numpy(levels).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5


def embedded(pixels: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """(1, 3, h, w) and E -> z, (blocks, 768)."""
    return torch.nn.functional.conv2d(pixels, weight, stride=_PATCH)[0].flatten(1).T


def error_of(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, in units of the largest value."""
    return float((found - expected).abs().max() / expected.abs().max())


def ours(family: str, levels: np.ndarray, weight: torch.Tensor) -> Way:
    """A key family: the client writes a ciphertext file, the server reads it and convolves."""
    key = SecretKey.generate(family)
    cipher = cipher_for(key, patch_size=_PATCH)
    encrypter = ImageEncrypter(patch_size=_PATCH, do_resize=False)
    processor = SetrImageProcessor(patch_size=_PATCH, do_resize=False)
    encrypted_weight = cipher.encrypt_weight(weight)
    sent: list[bytes] = []
    found: list[torch.Tensor] = []

    def client() -> None:
        sent[:] = [encrypter.encrypt(levels, key).to_bytes()]

    @torch.inference_mode()
    def server() -> None:
        inputs = processor(EncryptedImage.from_bytes(sent[0]), return_tensors="pt")
        found[:] = [embedded(inputs["pixel_values"], encrypted_weight)]

    expected = embedded(normalized(levels), weight)
    return Way(
        encrypt=processor_seconds_of(client), server=processor_seconds_of(server), decrypt=lambda: 0.0,
        up=lambda: len(sent[0]), down=lambda: 0.0, error=lambda: error_of(found[0], expected),
    )  # fmt: skip


@contextmanager
def peer_way(python: Path, script: str, levels: np.ndarray, weight: torch.Tensor) -> Iterator[tuple[Way, str]]:
    """A library in its own environment -> a way, and the library's version."""
    with tempfile.TemporaryDirectory() as folder:
        blocks = torch.nn.functional.unfold(normalized(levels), _PATCH, stride=_PATCH)[0].T
        np.save(Path(folder) / "blocks.npy", blocks.numpy())
        np.save(Path(folder) / "embedding.npy", weight.flatten(1).T.numpy())
        with PeerProcess(python, script, {"folder": folder}) as peer:
            measured = peer.versions.pop("measured")
            steps = {line: partial(peer.ask, line) for line in ("encrypt", "server", "decrypt", "up", "down", "error")}
            yield Way(**steps, measured=measured), ", ".join(" ".join(each) for each in peer.versions.items())


def row_of(name: str, way: Way, protects: str, rounds: int) -> list[str]:
    """A way -> its row of the table; a first round does not count."""
    taken = [[step() for step in (way.encrypt, way.server, way.decrypt)] for _ in range(rounds + 1)][1:]
    client = median(encrypt + decrypt for encrypt, _, decrypt in taken)
    server = median(server for _, server, _ in taken)
    up, down = (f"{count() / 1e6:,.1f}" for count in (way.up, way.down))
    return [name, f"{client:,.3f}", f"{server:,.3f}", up, down, f"{way.error():.0e}", way.measured, protects]


def main() -> None:
    """Measures, then writes and prints the table."""
    args = parse_arguments(Arguments, description=__doc__)
    torch.set_num_threads(1)
    levels, weight = problem(args.size)
    rows = [row_of(f"ours, {each}", ours(each, levels, weight), _OURS, args.rounds) for each in args.families]
    notes = []
    for peer in _PEERS:
        python = getattr(args, peer.option)
        skipped = reason_to_skip(python, peer.name, peer.module)
        if skipped:
            notes.append(skipped)
            continue
        with peer_way(Path(python).absolute(), peer.script, levels, weight) as (way, versions):
            rows.append(row_of(peer.name, way, peer.protects, args.rounds))
            notes.append(versions)
    title = f"The patch embedding of one {args.size} x {args.size} image, one thread, medians of {args.rounds} rounds"
    report(args.output, [ResultTable(title, _HEADER, rows)], *notes)


if __name__ == "__main__":
    run_script(main)
