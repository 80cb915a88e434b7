"""Blocks times an embedding under TFHE in Concrete ML: `../private_inference.py` starts it in its own environment.

A linear model quantised to 8 bits. Every block and every column of the embedding costs the same; some are measured.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

import numpy as np
from answering import answer, error_of, problem, seconds_of

_BITS, _COLUMNS = 8, 16


def main() -> None:
    """Compiles, reports, and answers until its input ends."""
    linear = import_module("concrete.ml.sklearn").LinearRegression(n_bits=_BITS)
    blocks, embedding = problem()
    shown = embedding[:, :_COLUMNS]
    drawn = np.random.default_rng(0).uniform(-1, 1, (2 * blocks.shape[1], blocks.shape[1])).astype(np.float32)
    linear.fit(drawn, drawn @ shown)  # finds the embedding, which fits without a rest
    circuit = linear.compile(drawn)
    circuit.client.keygen(force=True)
    one = blocks[len(blocks) // 2][None]
    held: dict[str, Any] = {}

    def encrypt() -> None:
        held["up"] = circuit.encrypt(linear.quantize_input(one))

    def server() -> None:
        held["down"] = circuit.run(held["up"])

    def decrypt() -> None:
        held["z"] = linear.dequantize_output(circuit.decrypt(held["down"]))

    columns = embedding.shape[1] / _COLUMNS
    measured = f"1 of {len(blocks)} blocks, {_COLUMNS} of {embedding.shape[1]} columns"
    everywhere = len(blocks) * columns
    steps = {
        "encrypt": seconds_of(encrypt, len(blocks)), "server": seconds_of(server, everywhere),
        "decrypt": seconds_of(decrypt, everywhere),
        "up": lambda: float(len(held["up"].serialize()) * len(blocks)),
        "down": lambda: len(held["down"].serialize()) * everywhere,
        "error": lambda: error_of(held["z"], one @ shown),
    }  # fmt: skip
    answer({"concrete-ml": version("concrete-ml"), "measured": measured}, steps)


if __name__ == "__main__":
    main()
