"""How much the size of a patch protects: the audit's attacks on the ciphertexts of the same images, patch by patch.

    python benchmarks/patch_size.py --victims "data/camvid/images/test/Seq05VD*" \\
        --prior "data/camvid/images/train/*" --output_dir outputs/patch_size

The attacker has ciphertexts alone, and images of similar scenes or the sample images of scikit-image and scikit-learn.
Images are cropped to whole blocks. Every figure is hp, the correlation of high-pass luminance between the recovered
image and the true one: 0 is nothing, 1 is everything. The block means, which every family shows, are listed beside.

It writes results.json and patch_size.md; a killed run goes on where it stopped, under fresh keys.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from attack_images import ImageArguments, read_images
from tqdm.auto import tqdm

from hf_privseg import SecretKey
from hf_privseg.attacks.tools.priors import image_prior, sample_prior
from hf_privseg.audit.attack_table import ATTACKS, trials_of
from hf_privseg.audit.scene import Scene
from hf_privseg.audit.trial import Trial
from hf_privseg.experiments.records import Records
from hf_privseg.experiments.tables import ResultTable, print_tables, write_tables
from hf_privseg.training.arguments import parse_arguments, run_script

TRIED = [attack for attack in ATTACKS if attack.name in ("block means", "matching", "alignment")]


@dataclass(kw_only=True)
class Arguments(ImageArguments):
    """What the command line takes."""

    output_dir: str = field(metadata={"help": "Where results.json and patch_size.md go."})
    patch_sizes: list[int] = field(
        default_factory=lambda: [4, 8, 14, 16, 32], metadata={"help": "Sides of a block in pixels."}
    )
    families: list[str] = field(
        default_factory=lambda: ["permutation", "orthogonal", "matrix"], metadata={"help": "Key families."}
    )
    counts: list[int] = field(default_factory=lambda: [1, 16], metadata={"help": "Numbers of ciphertexts."})
    num_prior: int = field(default=123, metadata={"help": "Evenly spaced images of --prior that are used."})
    num_scored: int = field(default=4, metadata={"help": "Reconstructions of a trial that are scored."})


def trials_for(args: Arguments, patch_size: int) -> Iterator[Trial]:
    """A side of a block -> the victims in such blocks, and the attacks on their ciphertexts."""
    scene = Scene(
        images=read_images(args.victims, max(args.counts), patch_size),
        patch_size=patch_size,
        embedding=np.eye(3 * patch_size**2),  # of no use to an attacker who has ciphertexts alone
        priors=[
            sample_prior(patch_size, num_shifts=2),
            image_prior(read_images(args.prior, args.num_prior, patch_size), patch_size),
        ],
        counts=args.counts,
        num_scored=args.num_scored,
    )
    secret_keys = {family: SecretKey.generate(family) for family in args.families}
    return trials_of(scene, secret_keys, attacks=TRIED)


def run(args: Arguments, records: Records) -> None:
    """Every trial that has no result yet."""
    for patch_size in args.patch_sizes:
        trials = trials_for(args, patch_size)
        for trial in (bar := tqdm(list(trials), desc=f"patch {patch_size}", unit="attack")):
            name = f"{patch_size}: {trial.name}: {trial.num_images}"
            bar.set_postfix_str(name)
            if name not in records.rows:
                records.add(name, {"patch_size": patch_size} | trial.find().to_dict())


def table(args: Arguments, records: Records) -> ResultTable:
    """A row a patch size; in each cell hp with similar scenes, and with unrelated images in brackets."""
    found = {
        (row["patch_size"], row["family"], row["num_images"], row["prior"]): row["metrics"]["hp"]
        for row in records.rows.values()
    }
    columns = [(family, count) for family in args.families for count in args.counts]
    header = ["patch", "L", "block means", *(f"{family}, {count}" for family, count in columns)]
    rows = []
    for patch_size in args.patch_sizes:
        pairs = [[found[patch_size, *column, prior] for prior in ("in-domain", "unrelated")] for column in columns]
        cells = [f"{similar:.2f} ({unrelated:.2f})" for similar, unrelated in pairs]
        rows.append([str(patch_size), str(3 * patch_size**2), f"{found[patch_size, 'any', 0, '']:.2f}", *cells])
    return ResultTable("hp from ciphertexts alone, by patch size, family and number of images", header, rows)


def main() -> None:
    """Runs what is missing, then writes and prints the table."""
    args = parse_arguments(Arguments, description=__doc__)
    facts = {"victims": args.victims, "prior": args.prior, "num_prior": args.num_prior}
    records = Records(Path(args.output_dir) / "results.json", facts | {"num_scored": args.num_scored}, writes=True)
    run(args, records)
    tables = [table(args, records)]
    lines = ["in brackets: the attacker has unrelated images instead of images of similar scenes"]
    write_tables(Path(args.output_dir) / "patch_size.md", tables, lines, runs=records.runs)
    print_tables(tables, "Notes", lines)


if __name__ == "__main__":
    run_script(main)
