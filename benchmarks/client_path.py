"""What a client does to an image, step by step, and what the steps cost beside each other.

    OMP_NUM_THREADS=1 python benchmarks/client_path.py --output client_path.md

An image is read from a JPEG file, resized, encrypted and written as a file, in each key family. Shares are of all
steps without the key's set-up, which happens once for a key; times are medians of rounds in turns. Beside it stand the
permutation's cipher against a copy of the same bytes (`numpy.copyto` into memory at hand), both again and again, in
one thread and in two; the dense families' matrix product; and ways to pack permuted pixels.
"""

import io
import statistics
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from interleaved import interleaved, report, seconds_of
from PIL import Image

from hf_privseg import EncryptedImage, SecretKey
from hf_privseg.catalog.street_images import STREET_IMAGES, street_image
from hf_privseg.experiments.tables import ResultTable
from hf_privseg.setr import fast_layers
from hf_privseg.setr.block_cipher import to_blocks
from hf_privseg.setr.ciphers import CIPHERS, cipher_for
from hf_privseg.setr.image_encrypter import ImageEncrypter, _centred
from hf_privseg.setr.image_inputs import levels_to_pillow
from hf_privseg.setr.public_facts import FAMILIES
from hf_privseg.setr.rounding import Rounding
from hf_privseg.training.arguments import parse_arguments, run_script

_IN_A_ROW = 64  # images that a thread permutes or copies

Works = dict[str, Callable[[], object]]


@dataclass(kw_only=True)
class Arguments:
    """What the command line takes."""

    output: str = field(metadata={"help": "File for the tables, Markdown."})
    image: str | None = field(default=None, metadata={"help": "Image file. Default: one of the sample images."})
    sizes: list[str] = field(
        default_factory=lambda: ["512x512", "2048x1024"], metadata={"help": "Width x height of the JPEG files."}
    )
    rounds: int = field(default=15, metadata={"help": "How often each time is taken."})


def jpeg_of(image: Image.Image, size: tuple[int, int]) -> bytes:
    """An image -> the content of a JPEG file of it, of another size (width, height)."""
    buffer = io.BytesIO()
    image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def medians(works: Works, rounds: int) -> dict[str, float]:
    """What is compared, by name -> its milliseconds, medians of rounds in turns."""
    found = interleaved({name: seconds_of(work) for name, work in works.items()}, rounds)
    return {name: 1000 * statistics.median(seconds) for name, seconds in found.items()}


def steps(content: bytes, key: SecretKey, bits: int | None, rounds: int) -> dict[str, float]:
    """The file of an image -> milliseconds of each step from there to the file that is sent."""
    encrypter = ImageEncrypter(size=None, resize_factor=0.75)  # so that there is something to resize
    cipher = cipher_for(key, patch_size=16)
    levels = encrypter.to_levels(Image.open(io.BytesIO(content)))
    small = encrypter._on_grid(levels)
    pixels = small if cipher.acts_on_uint8 else _centred(small)
    encrypted, rounding = cipher.encrypt(pixels), Rounding.of(key, bits=bits)
    facts: dict[str, Any] = {"family": key.family, "fingerprint": key.fingerprint, "patch_size": 16}
    facts |= dict.fromkeys(("original_size", "valid_region"), small.shape[1:])

    works: Works = {
        "decode": lambda: encrypter.to_levels(Image.open(io.BytesIO(content))),
        "resize": lambda: encrypter._on_grid(levels),
        "encrypt": lambda: cipher.encrypt(small if cipher.acts_on_uint8 else _centred(small)),
        "write": lambda: EncryptedImage(**rounding.of_pixels(encrypted, 16), **facts).to_bytes(),
    }
    found = medians(works, rounds)
    set_up = {"set-up": lambda: CIPHERS[key.family](SecretKey.generate(key.family), patch_size=16)}
    return found | medians(set_up, 3)  # type: ignore[arg-type]  # a cipher is an object


def step_rows(contents: dict[str, bytes], rounds: int) -> list[list[str]]:
    """A row for each size, family and form."""
    rows = []
    for size, content in contents.items():
        for family in FAMILIES:
            for bits in (None, 8) if not CIPHERS[family].acts_on_uint8 else (None,):
                found = steps(content, SecretKey.generate(family), bits, rounds)
                set_up = found.pop("set-up")
                whole = sum(found.values())
                shares = [f"{100 * ms / whole:.0f} %" for ms in found.values()]
                rows.append([size, f"{family}{', 8 bits' if bits else ''}", f"{whole:.1f}", *shares, f"{set_up:.1f}"])
    return rows


def copy_rows(sizes: list[tuple[int, int]], rounds: int) -> list[list[str]]:
    """The cipher on 8-bit pixels against a copy of them, a row for each size and family."""
    rows = []
    with ThreadPoolExecutor(2) as pool:

        def in_threads(work: Callable[[], object], threads: int) -> None:
            def several() -> None:
                for _ in range(_IN_A_ROW):
                    work()

            for running in [pool.submit(several) for _ in range(threads)]:
                running.result()

        for width, height in sizes:
            levels = np.random.default_rng(0).integers(0, 256, (3, height, width), np.uint8)
            copy = partial(np.copyto, np.empty_like(levels), levels)
            for family in ("permutation", "signed_permutation"):
                encrypt = partial(cipher_for(SecretKey.generate(family), patch_size=16).encrypt, levels)
                works: Works = {
                    "copy": partial(in_threads, copy, 1),
                    "one": partial(in_threads, encrypt, 1),
                    "two": partial(in_threads, encrypt, 2),
                }
                found = medians(works, rounds)
                ratios = [found["one"] / found["copy"], found["two"] / 2 / found["copy"]]
                copy_ms = found["copy"] / _IN_A_ROW
                rows.append([f"{width}x{height}", family, f"{copy_ms:.3f}", *(f"{each:.0f}" for each in ratios)])
    return rows


def product_rows(contents: dict[str, bytes], rounds: int) -> list[list[str]]:
    """The dense families' matrix product by NumPy, which the client uses, and by PyTorch's libraries; a row a size."""
    rows = []
    for size, content in contents.items():
        pixels = _centred(ImageEncrypter().to_levels(Image.open(io.BytesIO(content))))
        blocks = to_blocks(pixels, 16)[0].reshape(1, -1, 768)
        matrix = np.random.default_rng(0).standard_normal((768, 768), np.float32)
        inputs = torch.from_numpy(blocks), torch.from_numpy(matrix)
        works: Works = {
            "NumPy": partial(np.matmul, blocks, matrix),
            "oneDNN": partial(fast_layers._by_onednn, *inputs, None),
            "PyTorch": partial(torch.matmul, *inputs),
        }
        with torch.inference_mode():
            found = medians(works, rounds)
        operations = 2 * blocks.size * 768
        rows.append([size, str(blocks.shape[1]), *(f"{operations / ms / 1e6:.0f}" for ms in found.values())])
    return rows


def packing_rows(contents: dict[str, bytes], rounds: int) -> list[list[str]]:
    """Ways to pack permuted pixels, a row for each size, family and way."""
    rows = []
    for size, content in contents.items():
        for family in ("permutation", "signed_permutation"):
            image = ImageEncrypter().encrypt(Image.open(io.BytesIO(content)), SecretKey.generate(family))
            picture, raw = levels_to_pillow(image.pixels), image.pixels.tobytes()

            def by_pillow(picture: Image.Image = picture, **settings: int) -> bytes:
                buffer = io.BytesIO()
                picture.save(buffer, "PNG", **settings)
                return buffer.getvalue()

            ways: dict[str, Callable[[], bytes]] = {
                "this package": image.to_bytes,
                "Pillow, its level 6": by_pillow,
                "Pillow, level 1": lambda save=by_pillow: save(compress_level=1),  # type: ignore[misc]
                "Pillow, level 0": lambda save=by_pillow: save(compress_level=0),  # type: ignore[misc]
                "Pillow, Huffman codes alone": lambda save=by_pillow: save(compress_type=2),  # type: ignore[misc]
                "deflate of raw pixels, level 1": lambda raw=raw: zlib.compress(raw, 1),  # type: ignore[misc]
            }
            if zstandard := _zstandard():
                ways["Zstandard of raw pixels, level 1"] = lambda raw=raw: zstandard(raw, 1)  # type: ignore[misc]
            found = medians(dict(ways), rounds)
            for name, way in ways.items():
                ratio = len(way()) / len(raw)
                rows.append([size, family, name, f"{found[name]:.0f}", f"{found[name] / found['this package']:.1f}",
                             f"{ratio:.3f}"])  # fmt: skip
    return rows


def _zstandard() -> Callable[[bytes, int], bytes] | None:
    """What packs with Zstandard, where Python (from 3.14 on) or the package zstandard has it."""
    try:
        from compression.zstd import compress
    except ImportError:
        try:
            from zstandard import compress
        except ImportError:
            return None
    return compress


def main() -> None:
    """Takes the times, then writes and prints the tables."""
    args = parse_arguments(Arguments, description=__doc__)
    image = Image.open(args.image) if args.image else street_image(next(iter(STREET_IMAGES)))
    sizes = [(int(width), int(height)) for width, height in (size.split("x") for size in args.sizes)]
    contents = {f"{width}x{height}": jpeg_of(image, (width, height)) for width, height in sizes}
    headers = [
        ["JPEG file", "family", "all, ms", "decode", "resize", "encrypt", "write", "set-up of a key, ms"],
        ["size", "family", "copy, ms", "one thread, x copy", "two threads, x copy"],
        ["size", "blocks", "NumPy, GFLOP/s", "oneDNN, GFLOP/s", "PyTorch, GFLOP/s"],
        ["size", "family", "packed by", "ms", "x this package", "bytes a pixel and channel"],
    ]
    tables = [
        ResultTable("The steps of a client", headers[0], step_rows(contents, args.rounds)),
        ResultTable("Permutations against a copy", headers[1], copy_rows(sizes, args.rounds)),
        ResultTable("The matrix product of the dense families", headers[2], product_rows(contents, args.rounds)),
        ResultTable("Packing permuted pixels", headers[3], packing_rows(contents, args.rounds)),
    ]
    report(args.output, tables)


if __name__ == "__main__":
    run_script(main)
