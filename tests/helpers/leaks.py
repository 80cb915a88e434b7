"""assert_no_secret: no text and no bytes may hold a key, in whole or in part, in any usual notation."""

import base64
import itertools
from collections.abc import Iterator

import numpy as np
import safetensors.torch
import torch

from hf_privseg import ClientEmbedding, SecretKey


def assert_no_secret(text_or_bytes: str | bytes, key: SecretKey | bytes) -> None:
    """Fail if a quarter of the key's bytes in a row is found; the failure names the notation, not the secret.

    Use it with random keys: a key such as bytes(range(32)) reads like ordinary numbers.
    """
    haystack = text_or_bytes.encode() if isinstance(text_or_bytes, str) else bytes(text_or_bytes)
    lower, needles = haystack.lower(), list(_needles(_secret_bytes(key)))
    if not _may_hold(lower, [needle.lower() for _, needle in needles]):
        return
    for notation, needle in needles:
        if needle in (lower if notation == "hex" else haystack):
            raise AssertionError(f"the secret key shows up as {notation}")


def _may_hold(haystack: bytes, needles: list[bytes]) -> bool:
    """False if it surely holds none of the needles, told in one pass: nowhere do eight bytes look like theirs."""
    if len(haystack) < 9:
        return True
    known = np.zeros((4, 2**16), bool)  # which pairs of bytes a needle begins with, goes on with, ...
    known[np.arange(4), [np.frombuffer(needle[:8], np.uint16) for needle in needles]] = True
    for shift in (0, 1):
        pairs = np.frombuffer(haystack, np.uint16, (len(haystack) - shift) // 2, shift)
        places = np.flatnonzero(known[0][pairs[:-3]])
        for index in (1, 2, 3):
            places = places[known[index][pairs[places + index]]]
        if places.size:
            return True
    return False


def assert_no_client_embedding(text_or_bytes: str | bytes, embedding: ClientEmbedding) -> None:
    """Fail if one of its numbers is found, as bytes or as text, or a quarter of the bytes of its fingerprint."""
    haystack = text_or_bytes.encode() if isinstance(text_or_bytes, str) else bytes(text_or_bytes)
    stored = safetensors.torch.load(embedding.to_bytes())
    assert_no_secret(haystack, stored["fingerprint_key"].numpy().tobytes())
    for row in stored["matrix"][:: max(1, len(stored["matrix"]) // 10)]:
        assert_no_numbers(haystack, row)


def assert_no_numbers(haystack: bytes, row: torch.Tensor) -> None:
    """Fail if two numbers of the row, side by side, are found as bytes, as digits or as torch or NumPy prints them."""
    values, text = row.double().numpy(), haystack.replace(b" ", b"")
    for pair in itertools.pairwise(values):
        for kind in ("<f8", ">f8", "<f4", ">f4"):
            if b"".join(value.astype(kind).tobytes() for value in pair) in haystack:
                raise AssertionError(f"numbers of the secret show up as bytes ({kind})")
        for digits, between in itertools.product(("{:.4f}", "{:.4e}", "{:.8f}", "{:.8e}", "{!r}"), (",", "")):
            if between.join(map(digits.format, map(float, pair))).encode() in text:
                raise AssertionError(f"numbers of the secret show up as text ({digits})")


def _secret_bytes(key: SecretKey | bytes) -> bytes:
    return key if isinstance(key, bytes) else base64.urlsafe_b64decode(key.to_text().rpartition(".")[2] + "=")


def _needles(secret: bytes) -> Iterator[tuple[str, bytes]]:
    for start in range(len(secret) - 8):
        part = secret[start : start + 8]
        yield "raw bytes", part
        yield "hex", part.hex().encode()
        for separator in (", ", ",", " ", "\n"):
            yield "decimal numbers", separator.join(map(str, part)).encode()
        yield "Python escapes", repr(part)[2:-1].encode()
        # nine bytes begin at one of the three alignments that base64 knows; the outer characters depend on neighbours
        yield "base64", base64.b64encode(secret[start : start + 9])[:12]
        yield "base64url", base64.urlsafe_b64encode(secret[start : start + 9])[:12]
    for order in ("big", "little"):
        number = int.from_bytes(secret, order)
        yield "one decimal number", str(number).encode()
        yield "hex", f"{number:x}".encode()
