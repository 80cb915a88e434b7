"""Blocks times an embedding on secret shares in CrypTen: `../private_inference.py` starts it in its own environment.

The client splits the blocks into two shares; each server multiplies one by the embedding, which both hold, and nothing
is exchanged between them. One process does the work of one server; the other one's costs the same.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

from answering import answer, error_of, problem, seconds_of

_SERVERS, _BYTES = 2, 8  # shares are integers of 64 bits


def main() -> None:
    """Reports, and answers until its input ends."""
    torch, crypten = import_module("torch"), import_module("crypten")
    torch.set_num_threads(1)
    crypten.init()
    blocks, embedding = (torch.from_numpy(each) for each in problem())
    held: dict[str, Any] = {}

    def encrypt() -> None:
        # What the client does: fixed point, and a random share to subtract.
        held["up"] = crypten.cryptensor(blocks)
        held["mask"] = torch.randint(-(2**62), 2**62, blocks.shape)

    def server() -> None:
        held["down"] = held["up"].matmul(embedding)

    def decrypt() -> None:
        held["z"] = held["down"].get_plain_text()

    facts = {"crypten": version("crypten"), "torch": torch.__version__, "measured": "all, one of two servers"}
    steps = {
        "encrypt": seconds_of(encrypt), "server": seconds_of(server), "decrypt": seconds_of(decrypt),
        "up": lambda: float(_SERVERS * _BYTES * blocks.numel()),
        "down": lambda: float(_SERVERS * _BYTES * len(blocks) * embedding.shape[1]),
        "error": lambda: error_of(held["z"].numpy(), (blocks @ embedding).numpy()),
    }  # fmt: skip
    answer(facts, steps)


if __name__ == "__main__":
    main()
