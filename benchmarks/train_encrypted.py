"""What does training on ciphertexts cost? mIoU of plain training, with all augmentations and with the few that
ciphertexts allow, and of training on ciphertexts, for each key family.

    python benchmarks/train_encrypted.py --dataset data/camvid --preset camvid --vit path/to/vit --output_dir outputs

Every training starts from the same weights: the ViT with one random decoder, encrypted for each family. Ciphertexts
come as an owner makes them, mirrored ones too, and examples/train_setr.py trains on them without a key. The result is
evaluated on encrypted images and, after `decrypt_model`, on plain ones.

It writes results.json and training.md; a killed run goes on where it was.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from hf_privseg import ClientEmbedding, SecretKey, SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.experiments.plain_models import seeded_key
from hf_privseg.experiments.records import Records
from hf_privseg.experiments.tables import ResultTable, print_tables, write_tables
from hf_privseg.inference.windows import Encrypt
from hf_privseg.setr.ciphers import CIPHERS
from hf_privseg.setr.encryption_key import EncryptionKey, key_from_file
from hf_privseg.setr.files import new_folder
from hf_privseg.setr.image_encrypter import ImageEncrypter
from hf_privseg.setr.image_inputs import levels_to_picture
from hf_privseg.storage.models import load_model
from hf_privseg.training.arguments import DataArguments, parse_arguments, run_script
from hf_privseg.training.data import evenly_spaced
from hf_privseg.training.encrypted_dataset import EncryptedDataset
from hf_privseg.training.evaluation import evaluate_mean_iou
from hf_privseg.training.label_map import LabelMap
from hf_privseg.training.rows import read_row

TRAINER = Path(__file__).parents[1] / "examples" / "train_setr.py"
ALL, FEW = "plain, all augmentations", "plain, the same few"


@dataclass(kw_only=True)
class Arguments(DataArguments):
    """What the command line takes."""

    vit: str = field(metadata={"help": "Pretrained ViT that every training starts from."})
    output_dir: str = field(metadata={"help": "Where data, models, results.json and training.md go."})
    families: list[str] = field(default_factory=lambda: list(CIPHERS), metadata={"help": "Key families."})
    decoder: str = field(default="mla", metadata={"help": "naive, pup or mla."})
    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str = field(default="val", metadata={"help": "Split whose first image ends a training."})
    split: str = field(default="test", metadata={"help": "Split to evaluate."})
    limit: int | None = field(default=None, metadata={"help": "Evenly spaced images to evaluate. Default: all."})
    steps: int = field(default=300, metadata={"help": "Updates of a training."})
    batch_size: int = field(default=4, metadata={"help": "Crops an update."})
    crop_size: int = field(default=256, metadata={"help": "Side of a crop in pixels."})
    optimizer: str = field(default="adamw", metadata={"help": "adamw or sgd.", "choices": ["adamw", "sgd"]})
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of the encoder."})
    precision: str = field(default="bf16", metadata={"help": "bf16 or no.", "choices": ["bf16", "no"]})
    seed: int = field(default=0, metadata={"help": "Seed of decoder, order, crops and keys."})


class Experiment:
    """The trainings of one command line, in one folder."""

    def __init__(self, args: Arguments) -> None:
        self.args, self.folder, self.names = args, Path(args.output_dir), args.load_class_names()
        names = (
            "dataset preset vit decoder split limit steps batch_size crop_size optimizer learning_rate precision seed"
        )
        facts = {name: getattr(args, name) for name in names.split()}
        self.records = Records(self.folder / "results.json", facts, writes=True)
        self.accelerator = Accelerator(cpu=True)

    def run(self, name: str, family: str | None) -> None:
        """Train and evaluate one model, unless its figures are there."""
        if name in self.records.rows:
            return
        key = None if family is None else self.key(family)
        data, start, output = self.data(name, key), self.start(key), self.folder / "trained" / name.replace(" ", "_")
        began = time.monotonic()
        if not (output / "training.json").exists():
            self.train(data, start, output, grid_crops=name != ALL)
        row = {"seconds": round(time.monotonic() - began), **self.evaluate(output, key)}
        self.records.add(name, row)

    def key(self, family: str) -> EncryptionKey:
        """The experiment's key of a family; a client embedding is made once and kept in a file."""
        if family != "embedding":
            key: SecretKey = seeded_key(self.args.seed, family)
            return key
        path = self.folder / "client.embedding"
        if not path.exists():
            ClientEmbedding.generate(load_model(self.start(None))[0]).to_file(path)
        return key_from_file(path)

    def start(self, key: EncryptionKey | None) -> Path:
        """The folder of the model that a training starts from."""
        folder = self.folder / "start" / ("plain" if key is None else key.family)
        if folder.exists():
            return folder
        if key is None:
            torch.manual_seed(self.args.seed)
            model = SetrForSemanticSegmentation.from_vit(
                self.args.vit, decoder_type=self.args.decoder, use_auxiliary_head=False, id2label=self.names
            )
            processor = SetrImageProcessor(patch_size=model.config.patch_size)
        else:
            model, processor = load_model(self.start(None), device="cpu")
            model.encrypt_model(key)
        with new_folder(folder, overwrite=False) as temporary:
            model.save_pretrained(temporary)
            processor.save_pretrained(temporary)
        return folder

    def data(self, name: str, key: EncryptionKey | None) -> Path:
        """The folder of the data that a training reads; its validation split is one image, which no figure uses."""
        if name == ALL:
            return Path(self.args.dataset)
        folder = self.folder / "data" / ("plain" if key is None else key.family)
        for split, source in (("train", self.args.train_split), ("val", self.args.eval_split)):
            rows = self.args.load_split(source)
            rows = rows if split == "train" else rows.select(range(1))
            label_map, _ = self.args.inspect_labels(source, rows, self.names, quiet=True)
            target = EncryptedDataset(folder, self.names, ImageEncrypter())
            mirrored = split == "train"
            if key is None:
                parts = write_plain(target, split, rows, label_map, mirrored=mirrored)
            else:
                parts = target.write_split(split, rows, label_map, key, mirrored=mirrored)
            for _ in tqdm(parts, desc=f"{name}: {split}", total=len(rows)):
                pass
        return folder

    def train(self, data: Path, start: Path, output: Path, *, grid_crops: bool) -> None:
        """Run the trainer; it goes on where an earlier run was killed."""
        args = self.args
        options = {
            "dataset": data,
            "checkpoint": start,
            "output_dir": output,
            "max_steps": args.steps,
            "epochs": 10**6,
            "eval_every": 10**6,  # at the end alone
            "batch_size": args.batch_size,
            "crop_size": args.crop_size,
            "decoder": args.decoder,
            "optimizer": args.optimizer,
            "learning_rate": args.learning_rate,
            "mixed_precision": args.precision,
            "seed": args.seed,
        }
        command = [sys.executable, str(TRAINER), "--cpu", "--no_use_auxiliary_head"]
        command += [part for name, value in options.items() for part in (f"--{name}", str(value))]
        command += ["--grid_crops"] if grid_crops else ["--eval_split", args.eval_split]
        if not grid_crops and args.preset:
            command += ["--preset", args.preset]
        subprocess.run(command, check=True)

    def evaluate(self, folder: Path, key: EncryptionKey | None) -> dict[str, float | None]:
        """mIoU on plain images, of the decrypted model where it was encrypted, and before that on encrypted images."""
        model, processor = load_model(folder, device="cpu")
        rows = evenly_spaced(self.args.load_split(self.args.split), self.args.limit)
        label_map, _ = self.args.inspect_labels(self.args.split, rows, self.names, quiet=True)

        def mean_iou(encrypt: Encrypt | None, desc: str) -> float:
            accelerator, half = self.accelerator, self.args.precision == "bf16"
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                found = evaluate_mean_iou(model, processor, rows, label_map, accelerator, encrypt=encrypt, desc=desc)
            return float(found["mean_iou"])

        figures: dict[str, float | None] = {"encrypted_images": None}
        if key is not None:
            encrypt = partial(processor.encrypt_pixels, secret_key=key)
            figures["encrypted_images"] = mean_iou(encrypt, "encrypted images")
            model.decrypt_model(key)
        return figures | {"plain_images": mean_iou(None, "plain images")}


def write_plain(
    target: EncryptedDataset, split: str, rows: Dataset, label_map: LabelMap, *, mirrored: bool
) -> Iterator[int]:
    """What `EncryptedDataset.write_split` writes, under the same names, without encryption."""
    images, annotations = (target.folder / kind / split for kind in ("images", "annotations"))
    for folder in (images, annotations):
        folder.mkdir(parents=True, exist_ok=True)
    (target.folder / "classes.json").write_text(json.dumps(target.names))
    for index in range(len(rows)):
        levels, labels = read_row(rows, index, label_map)
        picture, classes = levels_to_picture(levels.numpy()), Image.fromarray(labels.astype(np.uint8))
        picture.save(images / f"{index:06d}.png")
        classes.save(annotations / f"{index:06d}.png")
        if mirrored:
            ImageOps.mirror(picture).save(images / f"{index:06d}.mirrored.png")
            ImageOps.mirror(classes).save(annotations / f"{index:06d}.mirrored.png")
        yield 1 + mirrored


def write_table(records: Records, folder: Path) -> None:
    """training.md, and the same on the terminal."""
    cells = [
        [name, *("" if row[kind] is None else f"{row[kind]:.4f}" for kind in ("encrypted_images", "plain_images"))]
        for name, row in records.rows.items()
    ]
    table = ResultTable(
        "mIoU; plain images are those of the decrypted model",
        ["training", "encrypted images", "plain images"],
        cells,
    )
    lines = [f"{name}: {value}" for name, value in records.facts.items() if value is not None]
    write_tables(folder / "training.md", [table], lines, runs=records.runs)
    print_tables([table], "", lines)


def main() -> None:
    """Runs what is missing, then writes and prints the table."""
    experiment = Experiment(parse_arguments(Arguments, description=__doc__))
    experiment.run(FEW, None)
    for family in experiment.args.families:
        experiment.run(f"ciphertexts, {family}", family)
        write_table(experiment.records, experiment.folder)
    experiment.run(ALL, None)
    write_table(experiment.records, experiment.folder)


if __name__ == "__main__":
    run_script(main)
