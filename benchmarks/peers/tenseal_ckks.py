"""Blocks times an embedding under CKKS in TenSEAL: `../private_inference.py` starts it in an environment of its own.

A ciphertext carries one pixel of all blocks, so that the server multiplies by numbers and never rotates. Every column
of the embedding costs the same; some are measured.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
from answering import answer, error_of, problem, seconds_of

_COLUMNS = 4
_DEGREE, _MODULI, _SCALE = 8192, [60, 40, 60], 2.0**40  # 128 bits by the standard for homomorphic encryption


def main() -> None:
    """Makes a key, reports, and answers until its input ends."""
    tenseal = import_module("tenseal")
    blocks, embedding = problem()
    if len(blocks) > _DEGREE // 2:
        raise SystemExit(
            f"expected at most {_DEGREE // 2} blocks, which are the slots of a ciphertext, got {len(blocks)}"
        )
    shown = embedding[:, :_COLUMNS].astype(np.float64)
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, _DEGREE, -1, _MODULI, n_threads=1)
    context.global_scale = _SCALE
    held: dict[str, Any] = {}

    def encrypt() -> None:
        pixels = tenseal.plain_tensor(blocks.astype(np.float64).ravel().tolist(), [len(blocks), 1, blocks.shape[1]])
        held["up"] = tenseal.ckks_tensor(context, pixels, batch=True)

    def server() -> None:
        held["down"] = held["up"].mm(tenseal.plain_tensor(shown.ravel().tolist(), list(shown.shape)))

    def decrypt() -> None:
        held["z"] = np.array(held["down"].decrypt().tolist())[:, 0]

    share = embedding.shape[1] / _COLUMNS
    facts = {"tenseal": version("tenseal"), "measured": f"{_COLUMNS} of {embedding.shape[1]} columns"}
    steps = {
        "encrypt": seconds_of(encrypt), "server": seconds_of(server, share), "decrypt": seconds_of(decrypt, share),
        "up": lambda: float(len(held["up"].serialize())), "down": lambda: len(held["down"].serialize()) * share,
        "error": lambda: error_of(held["z"], blocks @ shown),
    }  # fmt: skip
    answer(facts, steps)


if __name__ == "__main__":
    main()
