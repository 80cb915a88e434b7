"""What ciphertexts give away under restricted permutations, and under a fresh key for every image.

    python benchmarks/restricted_permutations.py --victims "data/camvid/images/test/Seq05VD*" \\
        --prior "data/camvid/images/train/*" --output_dir outputs/restricted_attacks

The cells are those of examples/table2.py: rrp-16-60 leaves 60 % of the blocks and of the pixels of a block in place;
-fresh means that every image has a key of its own: an attacker has one ciphertext of each key, however many are
sent. The attacker knows the cipher, its shares, and images of similar scenes of the same size.

It writes results.json and restricted_permutations.md; a killed run goes on where it stopped.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from attack_images import ImageArguments, evenly_spaced_files
from PIL import Image
from tqdm.auto import tqdm

from hf_privseg.attacks.block_ciphers import recover_shf
from hf_privseg.attacks.restricted_permutation import recover_restricted
from hf_privseg.attacks.tools.blocks import to_grid, to_image
from hf_privseg.attacks.tools.metrics import image_metrics, thumbnail
from hf_privseg.attacks.tools.priors import ImagePrior, image_prior
from hf_privseg.experiments.records import Json, Records
from hf_privseg.experiments.table2_cells import Cell
from hf_privseg.experiments.tables import ResultTable, print_tables, write_tables
from hf_privseg.training.arguments import parse_arguments, run_script

Grid = np.ndarray
CELLS = ("rrp-16-0", "rrp-16-60", "rrp-16-75", "rrp-16-90", "rrp-16-75-fresh", "shf-16-fresh")


@dataclass(kw_only=True)
class Arguments(ImageArguments):
    """What the command line takes."""

    output_dir: str = field(metadata={"help": "Where results.json and restricted_permutations.md go."})
    cells: list[str] = field(default_factory=lambda: list(CELLS), metadata={"help": "As for table2.py: rrp and shf."})
    image_size: list[int] = field(
        default_factory=lambda: [176, 240], metadata={"help": "Height and width that images are resized to."}
    )
    counts: list[int] = field(default_factory=lambda: [1, 16], metadata={"help": "Numbers of ciphertexts of a key."})
    num_prior: int = field(default=60, metadata={"help": "Evenly spaced images of --prior that are used."})
    num_scored: int = field(default=4, metadata={"help": "Victims whose reconstructions are scored."})
    seed: int = field(default=0, metadata={"help": "Of the keys."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for cell in map(Cell, self.cells):
            if cell.cipher not in ("rrp", "shf"):
                raise ValueError(f"expected cells of rrp and of shf, got {cell.name}; block_ciphers.py has the others")


def resized(args: Arguments, pattern: str, count: int) -> list[np.ndarray]:
    """A pattern of files -> evenly spaced images (3, height, width) in [-1, 1], of --image_size."""
    height, width = args.image_size
    images = (Image.open(path).convert("RGB") for path in evenly_spaced_files(pattern, count))
    levels = (np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float64) for image in images)
    return [pixels.transpose(2, 0, 1) / 127.5 - 1 for pixels in levels]


def decoder_of(cell: Cell, seen: list[Grid], prior: ImagePrior) -> Callable[[Grid], Grid]:
    """The attack on a cell, from ciphertexts of one key -> what decodes them."""
    if cell.cipher == "shf":
        return recover_shf(seen, prior).decode
    return recover_restricted(seen, prior, fixed_blocks=cell.fixed, fixed_pixels=cell.fixed).decode


def attacked(cell: Cell, victims: list[np.ndarray], prior: ImagePrior, count: int, args: Arguments) -> Json:
    """Encrypt the victims and attack them, `count` ciphertexts at once -> means over the scored ones."""
    cipher_of, size = cell.cipher_of("correct K", args.seed), cell.block_size
    if cipher_of is None:
        raise ValueError(f"expected a cell that encrypts, got {cell.name}")
    tensors = map(torch.from_numpy, victims)
    grids = [to_grid(cipher_of(image).encrypt_centred(image).numpy(), size) for image in tensors]
    rows = []
    for first in range(0, args.num_scored if count == 1 else 1):
        seen = grids[first : first + count]
        decode = decoder_of(cell, seen, prior)
        scored = range(first, first + (1 if count == 1 else args.num_scored))
        for n in scored:
            row = image_metrics(to_image(decode(grids[n]), size), victims[n])
            row["of the ciphertext"] = image_metrics(to_image(grids[n], size), victims[n])["hp"]
            row["of block means"] = image_metrics(thumbnail(victims[n], size), victims[n])["hp"]
            rows.append(row)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def table(records: Records) -> ResultTable:
    """A row a cell and number of ciphertexts."""
    rows = []
    for name, row in records.rows.items():
        cell, count = Cell(name.partition(": ")[0]), name.partition(": ")[2]
        kept = f"{cell.fixed:.0%}" if cell.cipher == "rrp" else "blocks"
        keys = "one an image" if cell.is_fresh else "one for all"
        figures = [f"{row[key]:.2f}" for key in ("ssim", "hp", "of the ciphertext", "of block means")]
        rows.append([cell.cipher.upper(), kept, keys, count, f"{row['psnr']:.1f}", *figures])
    header = ["cipher", "kept in place", "keys", "ciphertexts of a key", "PSNR, dB", "SSIM", "hp"]
    return ResultTable(
        "Reconstructions from ciphertexts alone", [*header, "hp of the ciphertext", "hp of block means"], rows
    )


def main() -> None:
    """Runs every attack that has no result yet, then writes and prints the table."""
    args = parse_arguments(Arguments, description=__doc__)
    names = "victims prior image_size num_prior num_scored seed"
    records = Records(
        Path(args.output_dir) / "results.json", {name: getattr(args, name) for name in names.split()}, writes=True
    )
    victims = resized(args, args.victims, max(*args.counts, args.num_scored))
    own = resized(args, args.prior, args.num_prior)
    for cell in (bar := tqdm([Cell(name) for name in args.cells], desc="attacks")):
        prior = image_prior(own, cell.block_size)
        for count in [1] if cell.is_fresh else args.counts:
            bar.set_postfix_str(f"{cell.name}: {count}")
            if f"{cell.name}: {count}" not in records.rows:
                records.add(f"{cell.name}: {count}", attacked(cell, victims, prior, count, args))
    found = table(records)
    write_tables(Path(args.output_dir) / "restricted_permutations.md", [found], runs=records.runs)
    print_tables([found], "", [])


if __name__ == "__main__":
    run_script(main)
