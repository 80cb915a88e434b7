"""What one or several ciphertexts of the conventional method give away: SHF, NP and FFX, blocks of 4 and 16 pixels.

    python benchmarks/block_ciphers.py --victims "data/camvid/images/test/Seq05VD*" \\
        --prior "data/camvid/images/train/*" --output outputs/block_ciphers.md

Each cipher has a fresh key. FFX falls without any photograph; for SHF and NP the attacker has those of --prior.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from leakage import read_images
from tqdm.auto import tqdm

from hf_privseg.attacks.block_ciphers import recover_ffx, recover_np, recover_shf
from hf_privseg.attacks.tools.blocks import to_grid, to_image
from hf_privseg.attacks.tools.metrics import image_metrics, thumbnail
from hf_privseg.attacks.tools.priors import ImagePrior, image_prior
from hf_privseg.baselines import BLOCKWISE_CIPHERS
from hf_privseg.experiments.tables import ResultTable, print_tables, write_markdown
from hf_privseg.setr.keys import SecretKey
from hf_privseg.training.arguments import parse_arguments

Grid = np.ndarray


@dataclass(kw_only=True)
class Arguments:
    """What the command line takes."""

    victims: str = field(metadata={"help": "Pattern of the victims' files."})
    prior: str = field(metadata={"help": "Pattern of the attacker's own photos, none of them a victim."})
    output: str = field(metadata={"help": "Markdown file for the table."})
    block_sizes: list[int] = field(default_factory=lambda: [4, 16], metadata={"help": "Sides of a block in pixels."})
    counts: list[int] = field(default_factory=lambda: [1, 16], metadata={"help": "Numbers of ciphertexts."})
    num_prior: int = field(default=62, metadata={"help": "Evenly spaced photos of --prior that are used."})


def decoder_for(cipher: str, seen: Sequence[Grid], prior: ImagePrior, size: int) -> Callable[[Grid], Grid]:
    """The attack on a cipher, from ciphertexts alone -> what decodes a ciphertext."""
    attacks = {
        "shf": lambda: recover_shf(seen, prior),
        "np": lambda: recover_np(seen, prior),
        "ffx": lambda: recover_ffx(seen, patch_size=size),
    }
    return attacks[cipher]().decode


def main() -> None:
    """Runs every attack, then writes and prints the table: means over at most four victims."""
    args = parse_arguments(Arguments, description=__doc__)
    rows = []
    for size in args.block_sizes:
        victims = read_images(args.victims, max(args.counts), 16)
        prior = image_prior(read_images(args.prior, args.num_prior, 16), size)
        for name in tqdm(BLOCKWISE_CIPHERS, desc=f"blocks of {size}"):
            cipher = BLOCKWISE_CIPHERS[name](SecretKey.generate(), block_size=size)
            grids = [to_grid(cipher.encrypt_centred(torch.from_numpy(image)).numpy(), size) for image in victims]
            for count in args.counts:
                decode = decoder_for(name, grids[:count], prior, size)
                shown = list(zip(grids, victims, strict=True))[: min(count, 4)]
                found = [image_metrics(to_image(decode(grid), size), image) for grid, image in shown]
                raw = [image_metrics(to_image(grid, size), image)["hp"] for grid, image in shown]
                small = [image_metrics(thumbnail(image, size), image)["hp"] for _, image in shown]
                means = [np.mean([row[metric] for row in found]) for metric in ("psnr", "ssim", "hp")]
                figures = [
                    f"{means[0]:.1f}",
                    *(f"{value:.2f}" for value in (*means[1:], np.mean(raw), np.mean(small))),
                ]
                rows.append([name.upper(), str(size), str(count), *figures])
    header = ["cipher", "block", "ciphertexts", "PSNR, dB", "SSIM", "hp", "hp of the ciphertext", "hp of block means"]
    table = ResultTable("Reconstructions from ciphertexts alone", header, rows)
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    write_markdown(Path(args.output), [table], [])
    print_tables([table], "", [])


if __name__ == "__main__":
    main()
