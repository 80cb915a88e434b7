"""What attackers recover: key family x attack x number of images, on images at their own size.

    python benchmarks/leakage.py --victims "Seq05VD=data/camvid/images/test/Seq05VD*" \\
        --prior "data/camvid/images/train/*" --public_base path/to/vit --output_dir outputs/leakage

Images are cropped to multiples of the patch size (CamVid: 480 x 352, 660 blocks). --victims names groups of them; a
fair group shows scenes that the prior does not share. For every group, each family is encrypted with a fresh key, and
each attack is tried with each of the attacker's priors: the images of --prior (in-domain), the sample images of
scikit-image and scikit-learn (unrelated), and a formula (synthetic).

It writes results.json, leakage.md, and the first victim as each attack reconstructs it into pictures/. Do not publish
these pictures where the data set forbids it. A killed run goes on where it stopped, under fresh keys.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from attack_images import files_like, read_images
from PIL import Image
from tqdm.auto import tqdm

from hf_privseg import SetrForSemanticSegmentation
from hf_privseg.attacks.tools.priors import ImagePrior, image_prior, sample_prior, synthetic_prior
from hf_privseg.audit.attack_table import ATTACKS, FAMILIES, trials_of
from hf_privseg.audit.audit import fresh_keys
from hf_privseg.audit.embeddings import embedding_matrix_of, load_embedding
from hf_privseg.audit.scene import Scene
from hf_privseg.audit.subject import segmenter
from hf_privseg.audit.summary import METRICS, metric_cells, shown_metrics
from hf_privseg.audit.trial import Trial
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.experiments.records import Records
from hf_privseg.experiments.tables import ResultTable, print_tables, write_tables
from hf_privseg.training.arguments import parse_arguments, run_script


@dataclass(kw_only=True)
class Arguments:
    """What the command line takes."""

    victims: list[str] = field(metadata={"help": "Groups of victims: NAME=PATTERN of files."})
    prior: str = field(metadata={"help": "Pattern of the attacker's own images, none of them a victim."})
    output_dir: str = field(metadata={"help": "Where results.json, leakage.md and pictures/ go."})
    model: str | None = field(default=None, metadata={"help": "Plain checkpoint. Default: the embedded one."})
    public_base: str | None = field(default=None, metadata={"help": "Public weights that the model came from."})
    families: list[str] = field(default_factory=lambda: list(FAMILIES), metadata={"help": "Key families."})
    counts: list[int] = field(default_factory=lambda: [1, 4, 16, 64], metadata={"help": "Numbers of ciphertexts."})
    num_prior: int = field(default=123, metadata={"help": "Evenly spaced images of --prior that are used."})
    drifts: list[float] = field(
        default_factory=lambda: [0.0, 0.01, 0.1, 0.3, 0.5, 1.0],
        metadata={"help": "Relative drifts of simulated public weights: the model's own and Gaussian noise."},
    )
    learned: bool = field(default=False, metadata={"help": "Train inversion networks as well (minutes each)."})
    num_scored: int = field(default=4, metadata={"help": "Reconstructions of a trial that are scored."})

    def __post_init__(self) -> None:
        unnamed = [group for group in self.victims if "=" not in group]
        if unnamed:
            raise ValueError(f"--victims takes NAME=PATTERN, got {', '.join(unnamed)}")
        for pattern in (self.prior, *self.groups.values()):
            files_like(pattern)

    @property
    def groups(self) -> dict[str, str]:
        """{name: pattern of files}"""
        return dict(group.split("=", 1) for group in self.victims)


def priors_for(args: Arguments, patch_size: int) -> list[ImagePrior]:
    """From the weakest to the strongest."""
    similar = read_images(args.prior, args.num_prior, patch_size)
    return [synthetic_prior(patch_size), sample_prior(patch_size), image_prior(similar, patch_size)]


def tables(records: Records, groups: Iterable[str]) -> list[ResultTable]:
    """A table a group: each attack on each family, by prior and number of images."""
    made = []
    for group in groups:
        rows = [row for row in records.rows.values() if row["group"] == group]
        shown = shown_metrics(row["metrics"] for row in rows)
        header = ["family", "attack", "attacker has", "prior", "images", *(METRICS[name][0] for name in shown), "s"]
        cells = [
            [
                *(str(row[name]) for name in ("family", "attack", "attacker", "prior", "num_images")),
                *metric_cells(row["metrics"], shown),
                f"{row['seconds']:.1f}",
            ]
            for row in rows
        ]
        made.append(ResultTable(f"victims {group}", header, cells))
    return made


def drift_trials(scene: Scene, args: Arguments) -> Iterator[Trial]:
    """Public weights at several distances from the model's."""
    rng = np.random.default_rng(0)
    for drift in args.drifts:
        noise = rng.standard_normal(scene.embedding.shape)
        noise *= drift * np.linalg.norm(scene.embedding) / np.linalg.norm(noise)
        named = [
            replace(attack, name=f"{attack.name}, drift {drift:.0%}")
            for attack in ATTACKS
            if attack.attacker == "public base"
        ]
        beside = scene.with_public_base(scene.embedding + noise)
        yield from trials_of(beside, {}, attacks=named, training=args.learned)


def run_group(group: str, scene: Scene, args: Arguments, model: SetrForSemanticSegmentation, records: Records) -> None:
    """Every trial of a group that has no result yet."""
    secret_keys = fresh_keys(args.families, model.patch_projection)
    trials = [*trials_of(scene, secret_keys, training=args.learned), *drift_trials(scene, args)]
    for trial in (bar := tqdm(trials, desc=group, unit="attack")):
        name = f"{group}: {trial.name}: {trial.num_images} images"
        bar.set_postfix_str(name)
        if name in records.rows:
            continue
        finding = trial.find()
        if finding.picture is not None:
            folder = Path(args.output_dir) / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(finding.picture).save(folder / f"{name.replace(': ', '_').replace(' ', '-')}.png")
        records.add(name, {"group": group} | finding.to_dict())


def main() -> None:
    """Runs what is missing, then writes and prints the tables."""
    args = parse_arguments(Arguments, description=__doc__)
    model = SetrForSemanticSegmentation.from_pretrained(args.model or default_checkpoint()).eval()
    patch_size = model.config.patch_size
    priors = priors_for(args, patch_size)
    base = None if args.public_base is None else load_embedding(args.public_base)
    scenes = {}
    for group, pattern in args.groups.items():
        victims = read_images(pattern, max(args.counts), patch_size)
        scenes[group] = Scene(
            images=victims,
            patch_size=patch_size,
            embedding=embedding_matrix_of(model),
            priors=priors,
            counts=sorted({min(count, len(victims)) for count in args.counts}),
            num_scored=args.num_scored,
            segment=segmenter(model),
            public_base=base,
            progress=True,
        )
    drift = None if base is None else round(next(iter(scenes.values())).drift, 6)
    facts = {"victims": args.victims, "prior": args.prior, "num_prior": args.num_prior, "drift": drift}
    records = Records(Path(args.output_dir) / "results.json", facts | {"num_scored": args.num_scored}, writes=True)
    for group, scene in scenes.items():
        run_group(group, scene, args, model, records)
    found = tables(records, args.groups)
    lines = [] if drift is None else [f"drift of the model's patch embedding from the public base: {drift:.2%}"]
    write_tables(Path(args.output_dir) / "leakage.md", found, lines, runs=records.runs)
    print_tables(found, "Drift", lines)


if __name__ == "__main__":
    run_script(main)
