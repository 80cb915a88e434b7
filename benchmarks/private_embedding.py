"""Does a patch embedding that is trained in private protect images from a provider who knows the public network?

    python benchmarks/private_embedding.py --dataset data/camvid --vit path/to/vit --output_dir outputs/private \\
        --victims "data/camvid/images/test/Seq05VD*" --prior "data/camvid/images/train/*" --ignore_labels 11

Each recipe trains a model from the same public weights with examples/train_setr.py, and the audit's attacks on what
the server computes, z = b E, are tried on it. No key hides z, so this is what every key family leaks.

- fine-tuned: everything starts from the public weights;
- random: patch and position embeddings are drawn anew, as transformers are initialised (--fresh_embedding random);
- random-4, random-12: so many of the encoder's layers, too (--fresh_layers);
- whitened: as random, with equal variance in every direction (--fresh_embedding whitened).

The attacker has images of similar scenes and their segmentation maps. Columns "known base": z is inverted with the
public patch embedding, corrected by the moments of z. Columns "z alone": the best of canonical correlations, alignment
and alignment by classes, none of which needs weights. "Stolen": an embedding is learned for the plain layers. Figures
are hp, the correlation of high-pass luminance between the recovered image and the true one: 0 is nothing, 1 is
everything. All recipes cost the same: equal updates of equal models.

It writes results.json and private_embedding.md beside a folder for each trained model; a killed run goes on where it
stopped.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from attack_images import ImageArguments, read_images
from tqdm.auto import tqdm

from hf_privseg import SetrForSemanticSegmentation
from hf_privseg.attacks.public_base import relative_drift
from hf_privseg.attacks.tools.priors import image_prior
from hf_privseg.audit.attack_table import ATTACKS, trials_of
from hf_privseg.audit.embeddings import embedding_matrix_of, load_embedding
from hf_privseg.audit.scene import Scene
from hf_privseg.audit.subject import segmenter, thief
from hf_privseg.audit.trial import Trial
from hf_privseg.experiments.records import Json, Records
from hf_privseg.experiments.tables import ResultTable, print_tables, write_tables
from hf_privseg.training.arguments import parse_arguments, run_script

SCRIPT = Path(__file__).parents[1] / "examples/train_setr.py"
RECIPES = {
    "fine-tuned": [],
    "random": ["--fresh_embedding", "random"],
    "random-4": ["--fresh_embedding", "random", "--fresh_layers", "4"],
    "random-12": ["--fresh_embedding", "random", "--fresh_layers", "12"],
    "whitened": ["--fresh_embedding", "whitened"],
}
OPTIONS = {  # of every training: small, so that all of them take two hours on one core
    "decoder": ["mla"],
    "drop_path_rate": ["0"],
    "crop_size": ["256"],
    "scale_range": ["0.75", "1.5"],
    "batch_size": ["4"],
    "learning_rate": ["6e-5"],
    "head_lr_factor": ["10"],
    "mixed_precision": ["bf16"],
    "eval_every": ["100"],
    "checkpoint_every": ["100"],
    "no_use_auxiliary_head": [],
}
WITH_BASE = ("calibrated inversion",)
WITHOUT = ("canonical correlations of z", "alignment of z", "alignment of z by classes")
STOLEN = "stolen embedding"


@dataclass(kw_only=True)
class Arguments(ImageArguments):
    """What the command line takes."""

    dataset: str = field(metadata={"help": "Data set to train on, as train_setr.py takes it."})
    vit: str = field(metadata={"help": "Public ViT that every recipe starts from."})
    output_dir: str = field(metadata={"help": "Where results.json, private_embedding.md and the models go."})
    recipes: list[str] = field(
        default_factory=lambda: list(RECIPES), metadata={"help": f"Among {', '.join(RECIPES)}."}
    )
    max_steps: int = field(default=500, metadata={"help": "Updates of each training."})
    ignore_labels: list[int] = field(default_factory=list, metadata={"help": "As for train_setr.py."})
    cpu: bool = field(default=False, metadata={"help": "Train on the CPU even where there is an accelerator."})
    counts: list[int] = field(default_factory=lambda: [1, 16, 64], metadata={"help": "Numbers of uploads."})
    num_prior: int = field(default=120, metadata={"help": "Evenly spaced images of --prior that are used."})
    num_scored: int = field(default=4, metadata={"help": "Reconstructions of a trial that are scored."})

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = sorted(set(self.recipes) - set(RECIPES))
        if unknown:
            raise ValueError(f"expected recipes among {', '.join(RECIPES)}, got {', '.join(unknown)}")


def train(args: Arguments, recipe: str) -> Json:
    """Train a recipe, or go on with it -> its mean IoU on the validation split."""
    folder = Path(args.output_dir) / recipe
    command = [sys.executable, str(SCRIPT), "--dataset", args.dataset, "--vit", args.vit, "--output_dir", str(folder)]
    command += ["--max_steps", str(args.max_steps), *RECIPES[recipe], *["--cpu"] * args.cpu]
    for name, values in OPTIONS.items():
        command += [f"--{name}", *values]
    command += ["--ignore_labels", *map(str, args.ignore_labels)] if args.ignore_labels else []
    subprocess.run(command, check=True)
    history = json.loads((folder / "training.json").read_text())["history"]
    return {"mean_iou": history[-1]["mean_iou"]}


def trials_for(args: Arguments, recipe: str) -> Iterator[Trial]:
    """A trained recipe -> the attacks on what the server computes, for each number of uploads."""
    model = SetrForSemanticSegmentation.from_pretrained(Path(args.output_dir) / recipe).eval().requires_grad_(False)
    size = model.config.patch_size
    victims = read_images(args.victims, max(args.counts), size)
    prior = image_prior(read_images(args.prior, args.num_prior, size), size)
    for count in args.counts:
        scene = Scene(
            images=[victims[n] for n in np.linspace(0, len(victims) - 1, count).round().astype(int)],
            patch_size=size,
            embedding=embedding_matrix_of(model),
            priors=[prior],
            counts=[count],
            num_scored=args.num_scored,
            segment=segmenter(model),
            learn_embedding=thief(model) if count == max(args.counts) else None,
            public_base=load_embedding(args.vit),
        )
        tried = [attack for attack in ATTACKS if attack.name in (*WITH_BASE, *WITHOUT, STOLEN)]
        yield from trials_of(scene, {}, attacks=tried, training=True)


def run(args: Arguments, records: Records) -> None:
    """Every training and trial that has no result yet."""
    for recipe in args.recipes:
        if f"{recipe}: training" not in records.rows:
            records.add(f"{recipe}: training", train(args, recipe))
        trained = SetrForSemanticSegmentation.from_pretrained(Path(args.output_dir) / recipe)
        drift = relative_drift(embedding_matrix_of(trained), load_embedding(args.vit))
        records.add(f"{recipe}: drift", {"drift": drift})
        for trial in (bar := tqdm(trials_for(args, recipe), desc=recipe, unit="attack")):
            name = f"{recipe}: {trial.attack.name}: {trial.num_images}"
            bar.set_postfix_str(name)
            if name not in records.rows:
                records.add(name, trial.find().to_dict())


def table(args: Arguments, records: Records) -> ResultTable:
    """A row a recipe."""

    def best(recipe: str, attacks: tuple[str, ...], count: int) -> str:
        rows = (records.rows.get(f"{recipe}: {attack}: {count}") for attack in attacks)
        found = [row["metrics"]["hp"] for row in rows if row is not None]
        return f"{max(found):.2f}" if found else "-"

    header = ["recipe", "mIoU", "drift"]
    header += [f"{what}, {count}" for what in ("known base", "z alone") for count in args.counts] + ["stolen"]
    rows = []
    for recipe in args.recipes:
        training, drift = (records.rows[f"{recipe}: {part}"] for part in ("training", "drift"))
        cells = [best(recipe, attacks, count) for attacks in (WITH_BASE, WITHOUT) for count in args.counts]
        cells.append(best(recipe, (STOLEN,), max(args.counts)))
        facts = [f"{training['mean_iou']:.3f}", f"{drift['drift']:.0%}"]
        rows.append([recipe, *facts, *cells])
    return ResultTable(
        "Recipes for a private patch embedding: hp of the best attack, by number of uploads", header, rows
    )


def main() -> None:
    """Runs what is missing, then writes and prints the table."""
    args = parse_arguments(Arguments, description=__doc__)
    names = ("dataset", "vit", "max_steps", "ignore_labels", "victims", "prior", "num_prior", "num_scored")
    facts = {name: getattr(args, name) for name in names}
    records = Records(Path(args.output_dir) / "results.json", facts, writes=True)
    run(args, records)
    tables = [table(args, records)]
    lines = [f"mIoU: validation split, after {args.max_steps} updates"]
    write_tables(Path(args.output_dir) / "private_embedding.md", tables, lines, runs=records.runs)
    print_tables(tables, "Notes", lines)


if __name__ == "__main__":
    run_script(main)
