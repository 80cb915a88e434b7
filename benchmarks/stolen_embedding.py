"""How far does an embedding lead that is learned for the plain layers of an encrypted model, and what does it cost?

    python benchmarks/stolen_embedding.py --dataset data/camvid --ignore_labels 11 --vit path/to/vit \\
        --models whitened=outputs/private/whitened --victims "data/camvid/images/test/Seq05VD*" \\
        --output_dir outputs/stolen

The provider holds all weights but the patch embedding E in plain, the public network that the model was trained from,
and n public images of similar scenes (evenly spaced ones of --split). It learns an embedding E', beginning with the
public one, and inverts z = b E of uploads through E', corrected by the moments of z. Teachers:

- none: E' is the public embedding, as it is;
- labels: E' makes the model's answers on the public images agree with their labels;
- hints: E' makes the model's hidden states those that the public network has on the public images.

The public images are the prior of the inversion as well. Figures are those of the first reconstructions: PSNR, and hp,
the correlation of high-pass luminance with the true image (0 is nothing, 1 is everything). `likeness` is the cosine of
E' and E, both without what the moments of z show anyway. CPU minutes are processor time, which other work on the
machine does not change much.

It writes results.json and stolen_embedding.md; a killed run goes on where it stopped.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from attack_images import files_like, read_images
from tqdm.auto import tqdm

from hf_privseg import SetrForSemanticSegmentation, SetrModel
from hf_privseg.attacks.model_theft import Progress, StolenEmbedding, TheftBudget, steal_embedding
from hf_privseg.attacks.public_base import embedding_matrix, relative_drift
from hf_privseg.attacks.stolen_embedding import Features, fit_hints, invert_stolen_embedding
from hf_privseg.attacks.tools.blocks import to_grid, to_image
from hf_privseg.attacks.tools.metrics import image_metrics
from hf_privseg.attacks.tools.priors import image_prior
from hf_privseg.attacks.tools.statistics import BlockStatistics, block_statistics
from hf_privseg.audit.embeddings import embedding_matrix_of
from hf_privseg.convert import convert_checkpoint
from hf_privseg.experiments.records import Json, Records
from hf_privseg.experiments.tables import ResultTable, print_tables, write_tables
from hf_privseg.training.arguments import DataArguments, parse_arguments, run_script
from hf_privseg.training.data import evenly_spaced

TEACHERS = ("none", "labels", "hints")
NUM_CROPS = 400  # in all, from the public images in turn, so that a training sees all that there is of few images


@dataclass(kw_only=True)
class Arguments(DataArguments):
    """What the command line takes."""

    models: list[str] = field(metadata={"help": "Plain checkpoints that are attacked: NAME=PATH."})
    vit: str = field(metadata={"help": "Public network that they were trained from."})
    victims: str = field(metadata={"help": "Pattern of the victims' files; none of them may be in --split."})
    output_dir: str = field(metadata={"help": "Where results.json and stolen_embedding.md go."})
    split: str = field(default="train", metadata={"help": "Split of the public images."})
    counts: list[int] = field(
        default_factory=lambda: [10, 100, 1000], metadata={"help": "Public images: all if less."}
    )
    teachers: list[str] = field(
        default_factory=lambda: list(TEACHERS), metadata={"help": f"Among {', '.join(TEACHERS)}."}
    )
    num_victims: int = field(default=64, metadata={"help": "Uploads whose z are seen."})
    num_scored: int = field(default=4, metadata={"help": "Evenly spaced reconstructions that are scored."})
    steps: int = field(default=150, metadata={"help": "Updates of a training."})
    batch_size: int = field(default=3, metadata={"help": "Crops an update."})
    crop_in_blocks: int = field(default=16, metadata={"help": "Side of a crop, in patches."})
    learning_rate: float = field(default=2e-4, metadata={"help": "Peak learning rate (Adam)."})
    hint_layers: list[int] = field(
        default_factory=lambda: [1, 2, 4], metadata={"help": "Hidden states are compared after so many layers."}
    )
    device: str = field(default="cpu", metadata={"help": "cpu or cuda."})
    seed: int = field(default=0, metadata={"help": "Seed of crops and batches."})

    def __post_init__(self) -> None:
        files_like(self.victims)
        if any("=" not in model for model in self.models):
            raise ValueError(f"--models takes NAME=PATH, got {', '.join(self.models)}")
        unknown = sorted(set(self.teachers) - set(TEACHERS))
        if unknown:
            raise ValueError(f"expected teachers among {', '.join(TEACHERS)}, got {', '.join(unknown)}")


@dataclass(frozen=True)
class PublicImages:
    """What the attacker has: crops with labels to learn from, and the moments of all blocks."""

    images: torch.Tensor  # (NUM_CROPS, 3, side, side) in [-1, 1]
    labels: torch.Tensor  # (NUM_CROPS, side, side)
    prior: BlockStatistics
    count: int


def public_images(args: Arguments, count: int, num_labels: int, patch_size: int) -> PublicImages:
    """`count` evenly spaced images of the split, at their own size, cropped to whole blocks."""
    rows, label_map = evenly_spaced(args.load_split(args.split), count), args.load_label_map(num_labels)
    side, rng = args.crop_in_blocks * patch_size, np.random.default_rng(args.seed)
    images, maps = [], []
    for row in rows:
        pixels = np.asarray(row["image"].convert("RGB"), np.float32).transpose(2, 0, 1) / 127.5 - 1
        height, width = (size // patch_size * patch_size for size in pixels.shape[1:])
        images.append(pixels[:, :height, :width])
        maps.append(label_map(np.asarray(row["annotation"])))
    crops, labels = [], []
    for n in range(max(NUM_CROPS, len(images))):
        image, segmentation_map = images[n % len(images)], maps[n % len(images)]
        top, left = (int(rng.integers(size - side + 1)) for size in image.shape[1:])
        crops.append(image[:, top : top + side, left : left + side])
        labels.append(segmentation_map[top : top + side, left : left + side])
    tensors = torch.from_numpy(np.stack(crops)), torch.from_numpy(np.stack(labels).astype(np.int64))
    return PublicImages(*tensors, image_prior(images, patch_size).statistics, len(images))


def hidden_states(encoder: SetrModel, layers: list[int]) -> Features:
    """An encoder -> images to its hidden states after these numbers of layers, without the class token."""

    def features(images: torch.Tensor) -> list[torch.Tensor]:
        found, first = [], int(bool(encoder.config.use_cls_token))
        with torch.autocast(images.device.type, torch.bfloat16):
            hidden = encoder.embeddings(images)
            for number, layer in enumerate(encoder.layers[: max(layers)], start=1):
                hidden = layer(hidden)
                if number in layers:
                    found.append(hidden[:, first:].transpose(1, 2)[..., None])
        return found

    return features


def learn(
    teacher: str,
    model: SetrForSemanticSegmentation,
    public: SetrForSemanticSegmentation,
    own: PublicImages,
    args: Arguments,
    progress: Progress,
) -> StolenEmbedding:
    """E', from the public embedding on."""
    projection = model.patch_projection.weight
    start = public.patch_projection.weight.detach().clone()
    budget = TheftBudget(steps=args.steps, batch_size=args.batch_size, learning_rate=args.learning_rate)
    images, labels = own.images.to(projection), own.labels.to(projection.device)

    def segment(batch: torch.Tensor) -> torch.Tensor:
        with torch.autocast(batch.device.type, torch.bfloat16):
            return model(pixel_values=batch).logits.float()

    if teacher == "none":
        return StolenEmbedding(start, ())
    if teacher == "labels":
        return steal_embedding(
            segment, projection, images, labels, start=start, budget=budget, seed=args.seed, progress=progress
        )
    hints, features = (hidden_states(network.setr, args.hint_layers) for network in (public, model))
    return fit_hints(
        features, hints, projection, images, start=start, budget=budget, seed=args.seed, progress=progress
    )


def likeness(learned: np.ndarray, embedding: np.ndarray, prior: BlockStatistics) -> float:
    """E' and E, (L, D) each -> the cosine of C^1/2 E' and C^1/2 E, with C the covariance of blocks."""
    first, second = prior.covariance @ learned, embedding
    norms = [np.sum((prior.covariance @ each) * each) for each in (learned, embedding)]
    return float(np.sum(first * second) / np.sqrt(norms[0] * norms[1]))


class Attacked:
    """A model under attack: its uploads' z, and how reconstructions are scored."""

    def __init__(self, args: Arguments, folder: str) -> None:
        self.model = SetrForSemanticSegmentation.from_pretrained(folder).eval().requires_grad_(False)
        self.patch_size, self.embedding = self.model.config.patch_size, embedding_matrix_of(self.model)
        self.images = read_images(args.victims, args.num_victims, self.patch_size)
        self.z = [to_grid(image, self.patch_size) @ self.embedding for image in self.images]
        self.moments = block_statistics(self.z)
        self.scored = np.unique(np.linspace(0, len(self.images) - 1, args.num_scored).round().astype(int))
        self.model.to(args.device)

    def score(self, stolen: StolenEmbedding, prior: BlockStatistics) -> Json:
        """A learned embedding -> what it recovers."""
        decoder = invert_stolen_embedding(stolen, prior, self.moments)
        rows = [
            image_metrics(to_image(decoder.decode(self.z[n]), self.patch_size), self.images[n]) for n in self.scored
        ]
        learned = embedding_matrix(stolen.weight.float().cpu().numpy())
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} | {
            "likeness": likeness(learned, self.embedding, prior)
        }


def missing(args: Arguments, records: Records) -> Iterator[tuple[str, str, str, int]]:
    """Name of the record, model, teacher and number of images of what has no figures yet."""
    for model in args.models:
        for count in args.counts:
            for teacher in args.teachers:
                name = f"{model.split('=')[0]}: {teacher}: {count}"
                if name not in records.rows:
                    yield name, model.split("=", 1)[1], teacher, count


def run(args: Arguments, records: Records) -> None:
    """Every training that is missing."""
    todo = list(missing(args, records))
    if not todo:
        return
    public = convert_checkpoint(args.vit).model.eval().requires_grad_(False).to(args.device)
    attacked: dict[str, Attacked] = {}
    own: dict[int, PublicImages] = {}
    for name, folder, teacher, count in todo:
        if folder not in attacked:
            attacked = {folder: Attacked(args, folder)}
        subject = attacked[folder]
        if count not in own:
            own[count] = public_images(args, count, subject.model.config.num_labels, subject.patch_size)
        began = time.process_time()
        with tqdm(total=args.steps, desc=name) as bar:
            advance: Callable[[int, float], None] = lambda *_: bar.update()  # noqa: E731
            stolen = learn(teacher, subject.model, public, own[count], args, advance)
        minutes = (time.process_time() - began) / 60
        parts = min(10, len(stolen.losses))
        losses = [float(part.mean()) for part in np.array_split(stolen.losses, parts)] if parts else []
        drift = relative_drift(subject.embedding, embedding_matrix_of(public))
        row = {"images": own[count].count, "drift": drift, "cpu_minutes": minutes, "losses": losses}
        records.add(name, row | subject.score(stolen, own[count].prior))


def table(records: Records) -> ResultTable:
    """A row a training."""
    header = [
        "model",
        "teacher",
        "public images",
        "loss, first",
        "loss, last",
        "likeness",
        "PSNR, dB",
        "hp",
        "CPU min",
    ]
    cells = []
    for name, row in records.rows.items():
        model, teacher, _ = name.split(": ")
        losses = [f"{row['losses'][n]:.2f}" for n in (0, -1)] if row["losses"] else ["", ""]
        figures = [f"{row['likeness']:.2f}", f"{row['psnr']:.1f}", f"{row['hp']:.2f}", f"{row['cpu_minutes']:.1f}"]
        cells.append([model, teacher, str(row["images"]), *losses, *figures])
    return ResultTable("Embeddings learned for a model's plain layers", header, cells)


def main() -> None:
    """Runs what is missing, then writes and prints the table."""
    args = parse_arguments(Arguments, description=__doc__)
    names = (
        "dataset vit victims split num_victims num_scored steps batch_size crop_in_blocks learning_rate hint_layers"
    )
    facts = {name: getattr(args, name) for name in [*names.split(), "device", "seed"]}
    records = Records(Path(args.output_dir) / "results.json", facts, writes=True)
    run(args, records)
    found, lines = [table(records)], [f"{name}: {value}" for name, value in facts.items()]
    write_tables(Path(args.output_dir) / "stolen_embedding.md", found, lines, runs=records.runs)
    print_tables(found, "Facts", lines)


if __name__ == "__main__":
    run_script(main)
