"""Do attackers who learn get further with a larger budget? Networks behind two attacks, of any size and training.

    python benchmarks/strong_attackers.py --victims "data/camvid/images/test/Seq05VD*" \\
        --prior "data/camvid/images/train/*" --public_base path/to/vit --output_dir outputs/strong

The attacker rehearses on images of their own (--prior, at their own size), under keys or drifts of their own:

- inversion: a network behind the Wiener inversion of z, with public weights at a relative drift r of the model's
  (--drifts: Gaussian noise; --public_base: the real ones);
- alignment: a network behind the alignment of the `orthogonal` family, with --num_keys rehearsed keys.

The options of the budget are those of the network's training, with defaults for minutes on one core. A GPU trains
networks a hundred times as large: --device cuda --steps 20000 --batch_size 32 --width 1024 --depth 12 --num_keys 2000.
What is seen of the images is made by the processor meanwhile. CPU minutes are processor time, which other work on the
machine hardly changes; where a GPU trains, minutes of the clock tell its time.

It writes results.json and strong_attackers.md; a killed run goes on with the first attack that is missing.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from attack_images import ImageArguments, read_images
from scipy.stats import ortho_group
from tqdm.auto import tqdm

from hf_privseg import SetrForSemanticSegmentation
from hf_privseg.attacks.learned_alignment import refine_orthogonal
from hf_privseg.attacks.learned_inversion import Budget, LearnedInverter, train_inverter
from hf_privseg.attacks.public_base import invert_embedding, relative_drift
from hf_privseg.attacks.tools.blocks import to_grid, to_image
from hf_privseg.attacks.tools.metrics import image_metrics
from hf_privseg.attacks.tools.priors import ImagePrior, image_prior
from hf_privseg.audit.embeddings import embedding_matrix_of, load_embedding
from hf_privseg.audit.trial import Decoder
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.experiments.records import Json, Records
from hf_privseg.experiments.tables import ResultTable, print_tables, write_tables
from hf_privseg.training.arguments import parse_arguments, run_script

ATTACKS = ("inversion", "alignment")
BUDGET = ("steps", "batch_size", "crop_in_blocks", "learning_rate", "width", "depth", "num_keys")


@dataclass(kw_only=True)
class Arguments(ImageArguments):
    """What the command line takes."""

    output_dir: str = field(metadata={"help": "Where results.json and strong_attackers.md go."})
    model: str | None = field(default=None, metadata={"help": "Plain checkpoint. Default: the embedded one."})
    public_base: str | None = field(default=None, metadata={"help": "Public weights that the model came from."})
    attacks: list[str] = field(default_factory=lambda: list(ATTACKS), metadata={"help": f"Of {', '.join(ATTACKS)}."})
    drifts: list[float] = field(default_factory=lambda: [0.0, 0.3], metadata={"help": "Simulated drifts."})
    num_victims: int = field(default=16, metadata={"help": "Ciphertexts, evenly spaced ones of --victims."})
    num_scored: int = field(default=4, metadata={"help": "Evenly spaced reconstructions that are scored."})
    num_prior: int = field(default=123, metadata={"help": "Evenly spaced images of --prior that are used."})
    steps: int = field(default=300, metadata={"help": "Updates of a training."})
    batch_size: int = field(default=8, metadata={"help": "Crops an update."})
    crop_in_blocks: int = field(default=12, metadata={"help": "Side of a crop, in blocks."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate (Adam)."})
    width: int = field(default=256, metadata={"help": "Channels of the network."})
    depth: int = field(default=2, metadata={"help": "Residual layers of the network."})
    num_keys: int = field(default=120, metadata={"help": "Keys that the alignment rehearses."})
    device: str = field(default="cpu", metadata={"help": "cpu or cuda: where networks are trained."})
    seed: int = field(default=0, metadata={"help": "Of keys, drifts, crops and weights."})

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = sorted(set(self.attacks) - set(ATTACKS))
        if unknown:
            raise ValueError(f"expected attacks among {', '.join(ATTACKS)}, got {', '.join(unknown)}")
        if self.num_prior < 2 * self.num_victims and "alignment" in self.attacks:
            raise ValueError(
                f"expected --num_prior of {2 * self.num_victims} or more, half of which play the "
                f"{self.num_victims} victims, got {self.num_prior}"
            )

    @property
    def budget(self) -> Budget:
        """Of each training."""
        return Budget(
            steps=self.steps,
            batch_size=self.batch_size,
            crop_in_blocks=self.crop_in_blocks,
            learning_rate=self.learning_rate,
            width=self.width,
            depth=self.depth,
        )


@dataclass(frozen=True)
class Learned:
    """What a training ended with.

    Attributes:
        seen: grids of the scored victims, as the server has them.
        linear: the attack without the network.
        learned: with it.
        inverter: the network, with its figures on the attacker's own images held out.
    """

    seen: list[np.ndarray]
    linear: Decoder
    learned: Decoder
    inverter: LearnedInverter


class Experiment:
    """Victims, the attacker's images and the model's embedding."""

    def __init__(self, args: Arguments) -> None:
        self.args = args
        model = SetrForSemanticSegmentation.from_pretrained(args.model or default_checkpoint()).eval()
        self.patch_size, self.embedding = model.config.patch_size, embedding_matrix_of(model)
        self.images = read_images(args.victims, args.num_victims, self.patch_size)
        self.grids = [to_grid(image, self.patch_size) for image in self.images]
        self.scored = np.unique(np.linspace(0, len(self.images) - 1, args.num_scored).round().astype(int))
        self.prior: ImagePrior = image_prior(read_images(args.prior, args.num_prior, self.patch_size), self.patch_size)

    def trials(self) -> Iterator[tuple[str, Callable[[], Learned]]]:
        """Name of each attack, and what runs it."""
        if "inversion" in self.args.attacks:
            for drift in self.args.drifts:
                yield f"inversion of z, r = {drift:.1%}", partial(self.inversion, self.drifted(drift))
            if self.args.public_base is not None:
                base = load_embedding(self.args.public_base)
                yield "inversion of z, the real public weights", partial(self.inversion, base)
        if "alignment" in self.args.attacks:
            yield f"alignment, `orthogonal`, {len(self.images)} ciphertexts", self.alignment

    def drifted(self, drift: float) -> np.ndarray:
        """Public weights that the model's could have come from: its own and Gaussian noise."""
        noise = np.random.default_rng(self.args.seed).standard_normal(self.embedding.shape)
        return self.embedding + drift * np.linalg.norm(self.embedding) / np.linalg.norm(noise) * noise

    def inversion(self, base: np.ndarray) -> Learned:
        """A network that has met other drifts of the same size, behind the Wiener inversion."""
        args, drift = self.args, relative_drift(self.embedding, base)
        linear = invert_embedding(base, self.prior.statistics, drift=drift)
        spread = drift * np.linalg.norm(base) / base.size**0.5

        def observe(grid: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return grid @ (base + spread * rng.standard_normal(base.shape) if drift else base)

        with tqdm(total=args.steps, desc="inversion") as bar:
            inverter = train_inverter(
                self.prior.grids,
                observe,
                linear,
                budget=args.budget,
                seed=args.seed,
                device=args.device,
                progress=lambda step, _: bar.update(step - bar.n),
            )
        return Learned([self.grids[n] @ self.embedding for n in self.scored], linear, inverter, inverter)

    def alignment(self) -> Learned:
        """A network that has met other keys, behind the alignment of a key's ciphertexts."""
        args = self.args
        length = self.grids[0].shape[-1]
        rotation = ortho_group.rvs(length, random_state=np.random.default_rng([args.seed, 1]))
        ciphertexts = [grid @ rotation for grid in self.grids]
        with tqdm(total=args.num_keys + args.steps, desc="alignment") as bar:
            found = refine_orthogonal(
                ciphertexts,
                self.prior,
                num_keys=args.num_keys,
                budget=args.budget,
                seed=args.seed,
                device=args.device,
                progress=lambda done: bar.update(done - bar.n),
            )
        return Learned([ciphertexts[n] for n in self.scored], found.aligned, found, found.inverter)

    def figures(self, learned: Learned) -> Json:
        """What is recovered without and with the network."""
        found: Json = {}
        for name, decoder in (("without", learned.linear), ("with", learned.learned)):
            rows = [
                image_metrics(to_image(decoder.decode(seen), self.patch_size), self.images[n])
                for n, seen in zip(self.scored, learned.seen, strict=True)
            ]
            found[name] = {metric: float(np.mean([row[metric] for row in rows])) for metric in rows[0]}
        inverter = learned.inverter
        return found | {"held_out": [inverter.linear_psnr, inverter.learned_psnr], "gained": inverter.succeeded}


def table(records: Records) -> ResultTable:
    """A row an attack."""
    header = ["attack", "without a network", "with one", "images held out, dB", "CPU min", "min"]
    cells = []
    for name, row in records.rows.items():
        before, after = (f"{row[kind]['psnr']:.1f} dB, hp {row[kind]['hp']:.2f}" for kind in ("without", "with"))
        held_out = " -> ".join(f"{psnr:.1f}" for psnr in row["held_out"])
        minutes = [f"{row[kind]:.1f}" for kind in ("cpu_minutes", "minutes")]
        cells.append([name, before, after if row["gained"] else "fails to gain", held_out, *minutes])
    return ResultTable("Attacks with a network behind them", header, cells)


def main() -> None:
    """Runs what is missing, then writes and prints the table."""
    args = parse_arguments(Arguments, description=__doc__)
    names = ("victims", "prior", "model", "num_victims", "num_scored", "num_prior", *BUDGET, "device", "seed")
    facts = {name: getattr(args, name) for name in names}
    records = Records(Path(args.output_dir) / "results.json", facts, writes=True)
    experiment = Experiment(args)
    for name, attack in experiment.trials():
        if name in records.rows:
            continue
        processor, clock = time.process_time(), time.monotonic()
        figures = experiment.figures(attack())
        figures |= {"cpu_minutes": (time.process_time() - processor) / 60, "minutes": (time.monotonic() - clock) / 60}
        records.add(name, figures)
    lines = [", ".join(f"{name} {facts[name]}" for name in (*BUDGET, "device", "seed"))]
    found = [table(records)]
    write_tables(Path(args.output_dir) / "strong_attackers.md", found, lines, runs=records.runs)
    print_tables(found, "Budget", lines)


if __name__ == "__main__":
    run_script(main)
