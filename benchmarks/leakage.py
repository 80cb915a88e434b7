"""What attackers recover: cipher family x attack x number of images, on photographs at their own size.

    python benchmarks/leakage.py --victims "Seq05VD=data/camvid/images/test/Seq05VD*" \\
        --prior "data/camvid/images/train/*" --public_base path/to/vit --output_dir outputs/leakage

Photos are cropped to multiples of the patch size (CamVid: 480 x 352, 660 blocks). --victims names groups of them; a
group from scenes that the prior does not share is the fair one. For every group, each family is encrypted with a fresh
key, and each attack is tried with each of the attacker's priors: the photos of --prior (in-domain), photos that
scikit-image and scikit-learn ship, and a formula (synthetic).

It writes results.json, leakage.md, and the first victim as each attack reconstructs it into pictures/: do not publish
those of a data set that forbids it. A killed run goes on where it stopped, under fresh keys.
"""

import glob
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from hf_privseg import SetrForSemanticSegmentation
from hf_privseg.attacks.public_base import relative_drift
from hf_privseg.attacks.tools.priors import ImagePrior, image_prior, photo_prior, synthetic_prior
from hf_privseg.audit.audit import FAMILIES, embedding_matrix_of, fresh_keys, load_embedding
from hf_privseg.audit.scene import Scene, Trial
from hf_privseg.audit.subject import segmenter
from hf_privseg.audit.summary import METRICS
from hf_privseg.audit.trials import all_trials, public_base_trials
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.experiments.records import Records
from hf_privseg.experiments.tables import ResultTable, print_tables, write_markdown
from hf_privseg.training.arguments import parse_arguments


@dataclass(kw_only=True)
class Arguments:
    """What the command line takes."""

    victims: list[str] = field(metadata={"help": "Groups of victims: NAME=PATTERN of files."})
    prior: str = field(metadata={"help": "Pattern of the attacker's own photos, none of them a victim."})
    output_dir: str = field(metadata={"help": "Where results.json, leakage.md and pictures/ go."})
    model: str | None = field(default=None, metadata={"help": "Plain checkpoint. Default: the embedded one."})
    public_base: str | None = field(default=None, metadata={"help": "Public weights that the model came from."})
    families: list[str] = field(default_factory=lambda: list(FAMILIES), metadata={"help": "Cipher families."})
    counts: list[int] = field(default_factory=lambda: [1, 4, 16, 64], metadata={"help": "Numbers of ciphertexts."})
    num_prior: int = field(default=123, metadata={"help": "Evenly spaced photos of --prior that are used."})
    drifts: list[float] = field(
        default_factory=lambda: [0.0, 0.01, 0.1, 0.3, 0.5, 1.0],
        metadata={"help": "Relative drifts of simulated public weights: the model's own and Gaussian noise."},
    )
    learned: bool = field(default=False, metadata={"help": "Train inversion networks as well (minutes each)."})
    num_scored: int = field(default=4, metadata={"help": "Reconstructions of a trial that are scored."})


def read_images(pattern: str, limit: int, patch_size: int) -> list[np.ndarray]:
    """A pattern of files -> so many of them, evenly spaced: (3, height, width) in [-1, 1], cropped to blocks."""
    paths = sorted(glob.glob(pattern))
    if not paths:
        raise SystemExit(f"No file is called like {pattern}; quote the pattern, and check the path.")
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(limit, len(paths))).round().astype(int))
    images = []
    for path in (paths[n] for n in chosen):
        pixels = np.asarray(Image.open(path).convert("RGB"), np.float64).transpose(2, 0, 1) / 127.5 - 1
        height, width = (side // patch_size * patch_size for side in pixels.shape[1:])
        images.append(pixels[:, :height, :width])
    return images


def priors_for(args: Arguments, patch_size: int) -> list[ImagePrior]:
    """From the weakest to the strongest."""
    similar = read_images(args.prior, args.num_prior, patch_size)
    return [synthetic_prior(patch_size), photo_prior(patch_size), image_prior(similar, patch_size)]


def tables(records: Records, groups: list[str]) -> list[ResultTable]:
    """A table a group: each attack on each family, by prior and number of images."""
    made = []
    for group in groups:
        rows = [row for row in records.rows.values() if row["group"] == group]
        shown = [name for name in METRICS if any(name in row["metrics"] for row in rows)]
        header = ["family", "attack", "attacker has", "prior", "images", *(METRICS[name][0] for name in shown), "s"]
        cells = [
            [
                row["family"],
                row["attack"],
                row["attacker"],
                row["prior"],
                str(row["num_images"]),
                *(METRICS[name][1].format(row["metrics"][name]) if name in row["metrics"] else "" for name in shown),
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
        yield from public_base_trials(scene, scene.embedding + noise, f"drift {drift:.0%}", learned=args.learned)


def run_group(group: str, scene: Scene, args: Arguments, model: SetrForSemanticSegmentation, records: Records) -> None:
    """Every trial of a group that has no result yet."""
    trials = [
        *all_trials(scene, fresh_keys(args.families, model.patch_projection), learned=args.learned),
        *drift_trials(scene, args),
    ]
    for trial in (bar := tqdm(trials, desc=group, unit="attack")):
        name = f"{group}: {trial.family}: {trial.attack}: {trial.prior or 'no'} prior: {trial.num_images} images"
        bar.set_postfix_str(name)
        if name in records.rows:
            continue
        finding = trial.find(scene)
        if finding.picture is not None:
            folder = Path(args.output_dir) / "pictures"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(finding.picture).save(folder / f"{name.replace(': ', '_').replace(' ', '-')}.png")
        records.add(name, {"group": group} | finding.to_dict())


def main() -> None:
    """Runs what is missing, then writes and prints the tables."""
    args = parse_arguments(Arguments, description=__doc__)
    model = SetrForSemanticSegmentation.from_pretrained(args.model or default_checkpoint()).eval()
    patch_size, embedding = model.config.patch_size, embedding_matrix_of(model)
    base = None if args.public_base is None else load_embedding(args.public_base)
    drift = None if base is None else round(relative_drift(embedding, base), 6)
    facts = {"victims": args.victims, "prior": args.prior, "num_prior": args.num_prior, "drift": drift}
    records = Records(Path(args.output_dir) / "results.json", facts | {"num_scored": args.num_scored}, writes=True)
    priors = priors_for(args, patch_size)
    groups = dict(entry.split("=", 1) for entry in args.victims)
    for group, pattern in groups.items():
        victims = read_images(pattern, max(args.counts), patch_size)
        scene = Scene(
            images=victims,
            patch_size=patch_size,
            embedding=embedding,
            priors=priors,
            counts=sorted({min(count, len(victims)) for count in args.counts}),
            num_scored=args.num_scored,
            segment=segmenter(model),
            public_base=base,
            progress=True,
        )
        run_group(group, scene, args, model, records)
    found = tables(records, list(groups))
    lines = [] if drift is None else [f"drift of the model's patch embedding from the public base: {drift:.2%}"]
    write_markdown(Path(args.output_dir) / "leakage.md", found, lines)
    print_tables(found, "Drift", lines)


if __name__ == "__main__":
    main()
