"""Do fewer bits hide more? The mIoU, and what an inversion recovers, of uploads at several bits a block.

    python benchmarks/fewer_bits.py --dataset data/camvid --preset camvid --output_dir outputs/fewer_bits

Uploads of the `embedding` family are rounded with the transform code of `privseg fit-transform-code`. The attacker has
E, rounds images of its own in the same way, and learns by least squares the linear map from what the server gets back
to blocks. JPEG files of several qualities stand beside them, as they are. hp is the correlation of high-pass luminance
with the image that the model takes: 0 is nothing, 1 is everything.

It writes results.json, fewer_bits.md and fewer_bits.png; a killed run goes on where it stopped. It also writes
client.embedding, which is fitted first; a file of that name that exists is taken as it is.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from coded_embedding import coded_embedding
from datasets import Dataset
from PIL import Image
from tqdm.auto import tqdm

from hf_privseg import ClientEmbedding, EncryptedImage, SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.attacks.tools.metrics import high_pass_correlation
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.experiments.records import Records
from hf_privseg.experiments.tables import ResultTable, print_tables, write_tables
from hf_privseg.inference.segmentation import segment_image
from hf_privseg.setr.block_cipher import from_blocks, to_blocks
from hf_privseg.training.arguments import DataArguments, parse_arguments, run_script
from hf_privseg.training.data import evenly_spaced
from hf_privseg.training.metrics import MeanIoU

PLAIN = "plain image"
Measure = Callable[[dict[str, Any]], dict[str, Any]]  # a row of the data set -> what is kept of it


@dataclass(kw_only=True)
class Arguments(DataArguments):
    """What the command line takes."""

    output_dir: str = field(metadata={"help": "Where the results go."})
    model: str | None = field(default=None, metadata={"help": "Plain SETR checkpoint. Default: the embedded one."})
    bits: list[float] = field(default_factory=lambda: [240.0, 119.0, 62.0, 34.0], metadata={"help": "Bits a block."})
    qualities: list[int] = field(default_factory=lambda: [50, 20, 10, 5], metadata={"help": "Of JPEG files."})
    split: str = field(default="test", metadata={"help": "Split of the images."})
    limit: int = field(default=14, metadata={"help": "Evenly spaced images of it."})
    prior_split: str = field(default="train", metadata={"help": "Split of the calibration and the attacker's images."})
    num_prior: int = field(default=10, metadata={"help": "Evenly spaced images of it."})
    seed: int = field(default=0, metadata={"help": "Of the labels that the fit draws."})


@dataclass
class Bench:
    """The images, and what becomes of them at each rate."""

    args: Arguments
    model: SetrForSemanticSegmentation
    processor: SetrImageProcessor

    @cached_property
    def images(self) -> Dataset:
        """Images with segmentation maps, on which everything is measured."""
        return evenly_spaced(self.args.load_split(self.args.split), self.args.limit)

    @cached_property
    def prior(self) -> list[Image.Image]:
        """Images for the calibration, and of the attacker."""
        return list(evenly_spaced(self.args.load_split(self.args.prior_split), self.args.num_prior)["image"])

    @cached_property
    def embedding(self) -> ClientEmbedding:
        """The client embedding, fitted once and kept."""
        path = Path(self.args.output_dir) / "client.embedding"
        return coded_embedding(path, self.model, self.processor, self.prior, seed=self.args.seed)

    @cached_property
    def encrypted_model(self) -> SetrForSemanticSegmentation:
        """The model, encrypted with the client embedding."""
        model = SetrForSemanticSegmentation.from_pretrained(self.args.model or default_checkpoint()).eval()
        return model.encrypt_model(self.embedding)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """An image -> (channels, height, width) in [-1, 1], as the model takes it."""
        return self.processor(image, return_tensors="pt").pixel_values[0].numpy()

    def sent(self, image: Image.Image, bits: float) -> EncryptedImage:
        """An image -> what the server gets."""
        encrypted = self.processor.encrypt(image.convert("RGB"), self.embedding, bits_per_block=bits)
        return EncryptedImage.from_bytes(encrypted.to_bytes())

    def numbers(self, encrypted: EncryptedImage) -> np.ndarray:
        """What the server gets -> (rows, columns, r), with a one for the mean."""
        size, rank = self.model.config.patch_size, self.embedding.shape[1]
        blocks = to_blocks(encrypted.pixels, size)[0][..., :rank].astype(np.float64)
        return np.concatenate([blocks, np.ones((*blocks.shape[:2], 1))], axis=-1)

    def decoder(self, bits: float) -> np.ndarray:
        """The attacker's least squares: (r + 1, L), from what the server gets to blocks."""
        size = self.model.config.patch_size
        seen = [self.numbers(self.sent(image, bits)) for image in self.prior]
        x = np.concatenate([each.reshape(-1, each.shape[-1]) for each in seen])
        blocks = [to_blocks(self.pixels(image), size)[0] for image in self.prior]
        y = np.concatenate([each.reshape(-1, each.shape[-1]) for each in blocks]).astype(np.float64)
        return np.linalg.pinv(x.T @ x, rcond=1e-10, hermitian=True) @ (x.T @ y)

    def segmented_row(self, row: dict[str, Any], found: np.ndarray) -> list[list[int]]:
        """A segmentation map of a row -> the counts of classes against those of the data set."""
        metric = MeanIoU(self.model.config.num_labels)
        label_map = self.args.load_label_map(self.model.config.num_labels)
        metric.add(prediction=found, reference=label_map(np.asarray(row["annotation"])))
        return metric.confusion.tolist()


def jpeg(image: Image.Image, quality: int) -> tuple[Image.Image, int]:
    """An image -> what is left of it in a JPEG file, and the bytes of that."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return Image.open(buffer), len(buffer.getvalue())


def of_jpeg(bench: Bench, quality: int) -> Measure:
    """What is measured of a row as a JPEG file of a quality."""

    def measured(row: dict[str, Any]) -> dict[str, Any]:
        found, num_bytes = jpeg(row["image"], quality)
        pixels = bench.pixels(row["image"])
        return {
            "bits": 8 * num_bytes / (pixels[0].size / bench.model.config.patch_size**2),
            "hp": high_pass_correlation(bench.pixels(found), pixels),
            "counts": bench.segmented_row(row, segment_image(bench.model, bench.processor, found)),
        }

    return measured


def of_bits(bench: Bench, bits: float) -> Measure:
    """What is measured of a row as an upload of so many bits a block."""
    decoder = bench.decoder(bits)

    def measured(row: dict[str, Any]) -> dict[str, Any]:
        encrypted = bench.sent(row["image"], bits)
        numbers = bench.numbers(encrypted)
        recovered = from_blocks((numbers @ decoder)[None], bench.model.config.patch_size)[0]
        return {
            "bits": 8 * len(encrypted.to_bytes()) / (numbers.shape[0] * numbers.shape[1]),
            "hp": high_pass_correlation(recovered, bench.pixels(row["image"])),
            "counts": bench.segmented_row(row, segment_image(bench.encrypted_model, bench.processor, encrypted)),
        }

    return measured


def of_plain(bench: Bench) -> Measure:
    """What is measured of a row as it is."""
    return lambda row: {"counts": bench.segmented_row(row, segment_image(bench.model, bench.processor, row["image"]))}


def run(bench: Bench, records: Records) -> None:
    """Every image at every rate that has no result yet."""
    conditions: dict[str, Callable[[], Measure]] = {PLAIN: partial(of_plain, bench)}
    conditions |= {f"{bits:g} bits": partial(of_bits, bench, bits) for bits in bench.args.bits}
    conditions |= {f"JPEG {quality}": partial(of_jpeg, bench, quality) for quality in bench.args.qualities}
    for name, prepare in conditions.items():
        missing = [index for index in range(len(bench.images)) if f"{name}: {index}" not in records.rows]
        measured = prepare() if missing else None
        for index in tqdm(missing, desc=name, unit="image"):
            assert measured is not None  # or nothing is missing
            records.add(f"{name}: {index}", {"condition": name} | measured(bench.images[index]))


def summary(records: Records, num_labels: int) -> dict[str, dict[str, float]]:
    """{condition: bits a block and hp in the mean, and the mIoU over all images}."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(row["condition"] for row in records.rows.values()):
        rows = [row for row in records.rows.values() if row["condition"] == name]
        metric = MeanIoU(num_labels)
        metric.confusion = np.sum([row["counts"] for row in rows], axis=0)
        means = {key: float(np.mean([row[key] for row in rows])) for key in ("bits", "hp") if key in rows[0]}
        found[name] = means | {"mean_iou": float(metric.compute()["mean_iou"])}
    return found


def table(found: dict[str, dict[str, float]]) -> ResultTable:
    """A row a condition."""
    rows = [
        [
            name,
            f"{row['bits']:.0f}" if "bits" in row else "",
            f"{row['mean_iou']:.3f}",
            f"{row['hp']:.2f}" if "hp" in row else "",
        ]
        for name, row in found.items()
    ]
    return ResultTable("mIoU, and hp of what is recovered", ["upload", "bits a block", "mIoU", "hp"], rows)


def plot(found: dict[str, dict[str, float]], path: Path) -> None:
    """mIoU against hp, a line for each kind of upload."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axhline(found[PLAIN]["mean_iou"], color="grey", linewidth=0.8, label=PLAIN)
    for kind, is_of_kind in (
        ("rounded z, E known", lambda name: "bits" in name),
        ("JPEG", lambda name: "JPEG" in name),
    ):
        names: Sequence[str] = [name for name in found if is_of_kind(name)]
        axes.plot([found[name]["hp"] for name in names], [found[name]["mean_iou"] for name in names], "o-", label=kind)
        for name in names:
            axes.annotate(f"{found[name]['bits']:.0f}", (found[name]["hp"], found[name]["mean_iou"]), fontsize=8)
    axes.set(xlabel="hp of what is recovered", ylabel="mIoU", xlim=(0, 1.05), ylim=(0, None))
    axes.legend(title="points: bits a block")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Runs what is missing, then writes table and plot, and prints the table."""
    args = parse_arguments(Arguments, description=__doc__)
    name, folder = args.model or default_checkpoint(), Path(args.output_dir)
    model = SetrForSemanticSegmentation.from_pretrained(name).eval()
    bench = Bench(args, model, SetrImageProcessor.from_pretrained(name))
    names = ("dataset", "model", "split", "limit", "prior_split", "num_prior", "seed")
    records = Records(folder / "results.json", {name: getattr(args, name) for name in names}, writes=True)
    run(bench, records)
    found = summary(records, model.config.num_labels)
    tables = [table(found)]
    lines = [f"{args.limit} images of the split {args.split}; blocks of {model.config.patch_size} pixels"]
    write_tables(folder / "fewer_bits.md", tables, lines, runs=records.runs)
    plot(found, folder / "fewer_bits.png")
    print_tables(tables, "Notes", lines)


if __name__ == "__main__":
    run_script(main)
