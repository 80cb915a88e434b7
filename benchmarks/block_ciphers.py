"""What one or several ciphertexts of the conventional method give away: SHF, NP and FFX, blocks of 4 and 16 pixels.

    python benchmarks/block_ciphers.py --victims "data/camvid/images/test/Seq05VD*" \\
        --prior "data/camvid/images/train/*" --output outputs/block_ciphers.md

Each cipher has a fresh key. The attack on FFX needs no image; for SHF and NP the attacker has the images of --prior.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from attack_images import ImageArguments, read_images
from tqdm.auto import tqdm

from hf_privseg.attacks.block_ciphers import recover_ffx, recover_np, recover_shf
from hf_privseg.attacks.tools.blocks import to_grid, to_image
from hf_privseg.attacks.tools.metrics import image_metrics, thumbnail
from hf_privseg.attacks.tools.priors import ImagePrior, image_prior
from hf_privseg.baselines import BLOCKWISE_CIPHERS
from hf_privseg.experiments.tables import ResultTable, print_tables, write_tables
from hf_privseg.setr.keys import SecretKey
from hf_privseg.training.arguments import parse_arguments, run_script

Grid = np.ndarray
MAX_SCORED = 4  # victims


@dataclass(kw_only=True)
class Arguments(ImageArguments):
    """What the command line takes."""

    output: str = field(metadata={"help": "Markdown file for the table."})
    block_sizes: list[int] = field(default_factory=lambda: [4, 16], metadata={"help": "Sides of a block in pixels."})
    counts: list[int] = field(default_factory=lambda: [1, 16], metadata={"help": "Numbers of ciphertexts."})
    num_prior: int = field(default=62, metadata={"help": "Evenly spaced images of --prior that are used."})


def decoder_for(cipher: str, seen: Sequence[Grid], prior: ImagePrior, size: int) -> Callable[[Grid], Grid]:
    """The attack on a cipher, from ciphertexts alone -> what decodes a ciphertext."""
    if cipher == "ffx":
        return recover_ffx(seen, patch_size=size).decode
    return (recover_shf(seen, prior) if cipher == "shf" else recover_np(seen, prior)).decode


def row_of(name: str, size: int, seen: Sequence[Grid], victims: Sequence[np.ndarray], prior: ImagePrior) -> list[str]:
    """Ciphertexts and their plain images -> a row of the table, means over at most four of them."""
    decode = decoder_for(name, seen, prior, size)
    shown = list(zip(seen, victims, strict=True))[:MAX_SCORED]
    found = [image_metrics(to_image(decode(grid), size), image) for grid, image in shown]
    raw = [image_metrics(to_image(grid, size), image)["hp"] for grid, image in shown]
    small = [image_metrics(thumbnail(image, size), image)["hp"] for _, image in shown]
    means = [np.mean([row[metric] for row in found]) for metric in ("psnr", "ssim", "hp")]
    figures = [f"{value:.2f}" for value in (*means[1:], np.mean(raw), np.mean(small))]
    return [name.upper(), str(size), str(len(seen)), f"{means[0]:.1f}", *figures]


def main() -> None:
    """Runs every attack, then writes and prints the table."""
    args = parse_arguments(Arguments, description=__doc__)
    rows = []
    for size in args.block_sizes:
        victims = read_images(args.victims, max(args.counts), 16)
        prior = image_prior(read_images(args.prior, args.num_prior, 16), size)
        for name in tqdm(BLOCKWISE_CIPHERS, desc=f"blocks of {size}"):
            cipher = BLOCKWISE_CIPHERS[name](SecretKey.generate(), block_size=size)
            grids = [to_grid(cipher.encrypt_centred(torch.from_numpy(image)).numpy(), size) for image in victims]
            rows += [row_of(name, size, grids[:count], victims[:count], prior) for count in args.counts]
    header = ["cipher", "block", "ciphertexts", "PSNR, dB", "SSIM", "hp", "hp of the ciphertext", "hp of block means"]
    table = ResultTable("Reconstructions from ciphertexts alone", header, rows)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    write_tables(Path(args.output), [table])
    print_tables([table], "", [])


if __name__ == "__main__":
    run_script(main)
