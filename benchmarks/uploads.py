"""Every key family in every form of upload: bytes, the client's time, equal pixels, mIoU, and the error of z.

    python benchmarks/uploads.py --dataset data/camvid --preset camvid --output_dir outputs/uploads

Each image goes the whole way: it is read from its JPEG or PNG file, resized, encrypted, written, read again as the
server reads it, and segmented by the encrypted model. Equal pixels are those of the plain model's map; the error of
z = b E is relative to the spread of z over an image. Times are medians over images and rounds, in turns, also as
multiples of the time of reading and resizing the image, which every client has.

The compact form of the `embedding` family, at --bits rates, needs a client embedding with a transform code: that of
--embedding, a file of `privseg fit-transform-code`, or one that is fitted here and kept in the output folder.

It writes results.json and uploads.md; a killed run goes on where it stopped. --times_only leaves the maps for later.
"""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from coded_embedding import coded_embedding
from datasets import Dataset
from datasets import Image as ImageFeature
from interleaved import interleaved
from PIL import Image
from tqdm.auto import tqdm

from hf_privseg import ClientEmbedding, EncryptedImage, SecretKey, SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.experiments.records import Records
from hf_privseg.experiments.tables import ResultTable, print_tables, write_tables
from hf_privseg.inference.segmentation import segment_image
from hf_privseg.setr.block_cipher import to_blocks
from hf_privseg.setr.encryption_key import EncryptionKey
from hf_privseg.setr.image_encrypter import ImageEncrypter
from hf_privseg.setr.public_facts import FAMILIES
from hf_privseg.storage.model_files import read_setr_settings
from hf_privseg.training.arguments import DataArguments, parse_arguments, run_script
from hf_privseg.training.data import evenly_spaced
from hf_privseg.training.metrics import MeanIoU

PLAIN, READ = "plain image", "reading and resizing"


@dataclass(kw_only=True)
class Arguments(DataArguments):
    """What the command line takes."""

    output_dir: str = field(metadata={"help": "Where the results go."})
    model: str | None = field(default=None, metadata={"help": "Plain SETR checkpoint. Default: the embedded one."})
    embedding: str | None = field(
        default=None, metadata={"help": "Client embedding with a transform code. Default: fitted."}
    )
    bits: list[float] = field(
        default_factory=lambda: [240.0, 119.0, 62.0], metadata={"help": "Bits a block, with it."}
    )
    calibration_split: str = field(default="train", metadata={"help": "Split of the images for the fit."})
    num_calibration: int = field(default=10, metadata={"help": "Evenly spaced images of it."})
    split: str = field(default="test", metadata={"help": "Split of the images."})
    limit: int = field(default=12, metadata={"help": "Evenly spaced images of it."})
    rounds: int = field(default=5, metadata={"help": "How often each time is taken."})
    times_only: bool = field(default=False, metadata={"help": "Take times and bytes, and segment nothing."})


@dataclass(frozen=True)
class Form:
    """A form of upload.

    Args:
        key: of its family.
        settings: of `encrypt`.
    """

    key: EncryptionKey
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """The family, and the bits."""
        bits = ", ".join(f"{value:g} {name.replace('_', ' ')}" for name, value in self.settings.items())
        return f"{self.key.family}: {bits or 'as it is'}"


@dataclass
class Bench:
    """The images, the keys and the models."""

    args: Arguments

    @cached_property
    def name(self) -> str:
        """Of the plain model."""
        return self.args.model or str(default_checkpoint())

    @cached_property
    def encrypter(self) -> ImageEncrypter:
        """What a client has."""
        return read_setr_settings(self.name).encrypter

    @cached_property
    def processor(self) -> SetrImageProcessor:
        """What the server has."""
        return SetrImageProcessor.from_pretrained(self.name)

    @cached_property
    def plain(self) -> SetrForSemanticSegmentation:
        """The model before encryption."""
        return SetrForSemanticSegmentation.from_pretrained(self.name).eval()

    @cached_property
    def rows(self) -> Dataset:
        """Images with segmentation maps; the images as the bytes of their files."""
        rows = evenly_spaced(self.args.load_split(self.args.split), self.args.limit)
        return rows.cast_column("image", ImageFeature(decode=False))

    @cached_property
    def coded_embedding(self) -> ClientEmbedding:
        """What a client has who sends few bits."""
        if self.args.embedding is not None:
            return ClientEmbedding.from_file(self.args.embedding)
        images = evenly_spaced(self.args.load_split(self.args.calibration_split), self.args.num_calibration)["image"]
        return coded_embedding(Path(self.args.output_dir) / "client.embedding", self.plain, self.processor, images)

    @cached_property
    def forms(self) -> list[Form]:
        """All that are compared."""
        keys = {family: SecretKey.generate(family) for family in FAMILIES}
        forms = [Form(keys[family], {}) for family in FAMILIES]
        forms += [Form(key, {"bits": 8}) for family, key in keys.items() if "permutation" not in family]
        embedding = ClientEmbedding.generate(self.plain)
        forms += [Form(embedding, settings) for settings in ({}, {"bits": 8})]
        forms += [Form(self.coded_embedding, {"bits_per_block": bits}) for bits in self.args.bits]
        return sorted(forms, key=lambda form: form.key.family)  # a family after the other

    def file(self, index: int) -> bytes:
        """The file of an image."""
        image = self.rows[index]["image"]
        return image["bytes"] or Path(image["path"]).read_bytes()

    def upload(self, form: Form, index: int) -> bytes:
        """An image -> what the client sends."""
        return self.encrypter.encrypt(opened(self.file(index)), form.key, **form.settings).to_bytes()

    def times(self, index: int) -> dict[str, Any]:
        """Seconds of each round in which a client makes each form, and the bytes of it."""
        content = self.file(index)

        def read() -> object:
            return self.encrypter._on_grid(self.encrypter.to_levels(opened(content)))

        def made(form: Form) -> Callable[[], object]:
            return lambda: self.encrypter.encrypt(opened(content), form.key, **form.settings).to_bytes()

        works = {READ: read} | {form.name: made(form) for form in self.forms}
        seconds = interleaved({name: clocked(work) for name, work in works.items()}, self.args.rounds)
        num_bytes = {form.name: len(self.upload(form, index)) for form in self.forms}
        return {"seconds": seconds, "bytes": num_bytes | {READ: len(content)}}

    def counts(self, index: int, found: np.ndarray) -> list[list[int]]:
        """A segmentation map -> the counts of classes against those of the data set."""
        num_labels = self.plain.config.num_labels
        metric = MeanIoU(num_labels)
        reference = self.args.load_label_map(num_labels)(np.asarray(self.rows[index]["annotation"]))
        metric.add(prediction=found, reference=reference)
        return metric.confusion.tolist()


def opened(content: bytes) -> Image.Image:
    """The content of an image's file -> the image, which is decoded when it is needed."""
    return Image.open(io.BytesIO(content))


def clocked(work: Callable[[], object]) -> Callable[[], float]:
    """What does something -> what does it, and returns the seconds that it took."""

    def timed() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return timed


def error_of_z(model: SetrForSemanticSegmentation, pixels: np.ndarray, z: np.ndarray) -> float:
    """What a server has of an image, and the z that it should find -> the relative error of the z that it finds."""
    found = embedded(model, pixels)
    return float(np.linalg.norm(found - z) / np.linalg.norm(z - z.mean(axis=(0, 1))))


def embedded(model: SetrForSemanticSegmentation, pixels: np.ndarray) -> np.ndarray:
    """(channels, height, width) -> z, (rows, columns, hidden_size) float64."""
    weight = model.patch_projection.weight.detach().double().numpy()
    blocks = to_blocks(pixels, model.config.patch_size)[0].astype(np.float64)
    return blocks @ weight.reshape(len(weight), -1).T


def take_times(bench: Bench, records: Records) -> None:
    """Times and bytes of every image that has none yet."""
    for index in tqdm(range(len(bench.rows)), desc="times", unit="image"):
        if f"times: {index}" not in records.rows:
            records.add(f"times: {index}", bench.times(index))


@torch.inference_mode()
def take_maps(bench: Bench, records: Records) -> None:
    """Maps of every image in every form that has none yet."""
    plain = {}
    for index in tqdm(range(len(bench.rows)), desc=PLAIN, unit="image"):
        plain[index] = segment_image(bench.plain, bench.processor, opened(bench.file(index)))
        if f"{PLAIN}: {index}" not in records.rows:
            records.add(f"{PLAIN}: {index}", {"counts": bench.counts(index, plain[index])})
    for form in bench.forms:
        missing = [index for index in plain if f"{form.name}: {index}" not in records.rows]
        if not missing:
            continue
        model = SetrForSemanticSegmentation.from_pretrained(bench.name).eval().encrypt_model(form.key)
        for index in tqdm(missing, desc=form.name, unit="image"):
            sent = EncryptedImage.from_bytes(bench.upload(form, index))
            found = segment_image(model, bench.processor, sent)
            pixels = bench.processor(opened(bench.file(index)), return_tensors="pt").pixel_values[0].numpy()
            row = {"equal": float((found == plain[index]).mean()), "counts": bench.counts(index, found)}
            row["z"] = error_of_z(model, bench.processor(sent, return_tensors="pt").pixel_values[0].numpy(),
                                  embedded(bench.plain, pixels))  # fmt: skip
            records.add(f"{form.name}: {index}", row)


def mean_iou(rows: list[dict[str, Any]]) -> str:
    """The counts of all images -> the mIoU."""
    metric = MeanIoU(len(rows[0]["counts"]))
    metric.confusion = np.sum([row["counts"] for row in rows], axis=0)
    return f"{metric.compute()['mean_iou']:.4f}"


def table(bench: Bench, records: Records) -> ResultTable:
    """A row a form, with what is known of it."""

    def rows_of(name: str) -> list[dict[str, Any]]:
        found = (records.rows.get(f"{name}: {index}") for index in range(len(bench.rows)))
        return [row for row in found if row is not None]

    times = rows_of("times")
    reading = np.array([row["seconds"][READ] for row in times])
    cells = []
    for name in (READ, *(form.name for form in bench.forms)):
        seconds = np.array([row["seconds"][name] for row in times])
        mean_bytes = float(np.mean([row["bytes"][name] for row in times]))
        cell = [PLAIN if name == READ else name, f"{mean_bytes / 1e6:.3f}", f"{1000 * np.median(seconds):.0f}"]
        cell.append(f"{np.median(seconds / reading):.1f}")
        if name == READ:
            maps = rows_of(PLAIN)
            cells.append([*cell, "", "1" if maps else "", mean_iou(maps) if maps else ""])
            continue
        maps, figures = rows_of(name), ["", ""]
        if maps:
            figures = [f"{np.mean([row['z'] for row in maps]):.1e}", f"{np.mean([row['equal'] for row in maps]):.5f}"]
        cells.append([*cell, *figures, mean_iou(maps) if maps else ""])
    header = ["upload", "MB", "client, ms", "client, x reading", "error of z", "equal pixels", "mIoU"]
    return ResultTable("Uploads", header, cells)


def main() -> None:
    """Runs what is missing, then writes and prints the table."""
    args = parse_arguments(Arguments, description=__doc__)
    bench, folder = Bench(args), Path(args.output_dir)
    names = ("dataset", "model", "split", "limit", "embedding", "bits", "num_calibration")
    records = Records(folder / "results.json", {name: getattr(args, name) for name in names}, writes=True)
    take_times(bench, records)
    if not args.times_only:
        take_maps(bench, records)
    tables = [table(bench, records)]
    lines = [f"{args.limit} images of the split {args.split}; means, and medians of times"]
    write_tables(folder / "uploads.md", tables, lines, runs=records.runs)
    print_tables(tables, "Notes", lines)


if __name__ == "__main__":
    run_script(main)
