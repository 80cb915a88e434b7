"""How large should images be? What their ciphertexts leak at several sizes, and the mIoU of the plain model there.

    python benchmarks/input_size.py --dataset data/camvid --preset camvid --output_dir outputs/input_size \\
        --victims "data/camvid/images/test/Seq05VD*" --prior "data/camvid/images/train/*"

Images are resized to each height, before they are cut into blocks, in their own proportions. A block of a larger image
shows less of the scene, so that there are more blocks with less in each, and z = b E gives more of each away. Figures
are hp of the best attack of the provider, who knows images of similar scenes and computes the segmentation maps: the
correlation of high-pass luminance between the recovered image and the true one at that size. 0 is nothing, 1 is
everything.

It writes results.json and input_size.md; a killed run goes on where it stopped, under fresh keys.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from attack_images import ImageArguments, evenly_spaced_files
from PIL import Image
from tqdm.auto import tqdm

from hf_privseg import SetrForSemanticSegmentation
from hf_privseg.attacks.model_theft import mean_iou
from hf_privseg.attacks.tools.priors import image_prior
from hf_privseg.audit.attack_table import ATTACKS, trials_of
from hf_privseg.audit.audit import fresh_keys
from hf_privseg.audit.embeddings import embedding_matrix_of
from hf_privseg.audit.scene import Scene
from hf_privseg.audit.subject import segmenter
from hf_privseg.audit.trial import Trial
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.experiments.records import Records
from hf_privseg.experiments.tables import ResultTable, print_tables, write_tables
from hf_privseg.training.arguments import DataArguments, parse_arguments, run_script
from hf_privseg.training.data import evenly_spaced

ATTACKERS = ("baseline", "ciphertexts", "server")
LEFT_OUT = ("ciphertext as it is", "constant grey", "learned segmentation map", "learned alignment")


@dataclass(kw_only=True)
class Arguments(ImageArguments, DataArguments):
    """What the command line takes."""

    output_dir: str = field(metadata={"help": "Where results.json and input_size.md go."})
    model: str | None = field(default=None, metadata={"help": "Plain SETR checkpoint. Default: the embedded one."})
    heights: list[int] = field(default_factory=lambda: [240, 360, 480, 720], metadata={"help": "In pixels."})
    families: list[str] = field(
        default_factory=lambda: ["orthogonal", "embedding"], metadata={"help": "Key families."}
    )
    counts: list[int] = field(default_factory=lambda: [1, 4, 16], metadata={"help": "Numbers of ciphertexts."})
    num_prior: int = field(default=60, metadata={"help": "Evenly spaced images of --prior that are used."})
    num_scored: int = field(default=4, metadata={"help": "Reconstructions of a trial that are scored."})
    split: str = field(default="test", metadata={"help": "Split for the mIoU."})
    limit: int = field(default=24, metadata={"help": "Evenly spaced images for the mIoU."})


def resized(image: Image.Image, height: int, patch_size: int) -> np.ndarray:
    """An image -> (3, height, width) in [-1, 1], in its own proportions, in whole patches."""
    width = round(image.width * height / image.height)
    size = [max(1, round(side / patch_size)) * patch_size for side in (width, height)]
    pixels = np.asarray(image.convert("RGB").resize((size[0], size[1]), Image.Resampling.BICUBIC), np.float64)
    return pixels.transpose(2, 0, 1) / 127.5 - 1


def read(pattern: str, limit: int, height: int, patch_size: int) -> list[np.ndarray]:
    """`limit` evenly spaced files of a pattern, resized."""
    return [resized(Image.open(path), height, patch_size) for path in evenly_spaced_files(pattern, limit)]


def trials_for(args: Arguments, model: SetrForSemanticSegmentation, height: int) -> Iterator[Trial]:
    """The victims at a height, and the attacks of the provider."""
    size = model.config.patch_size
    scene = Scene(
        images=read(args.victims, max(args.counts), height, size),
        patch_size=size,
        embedding=embedding_matrix_of(model),
        priors=[image_prior(read(args.prior, args.num_prior, height, size), size)],
        counts=args.counts,
        num_scored=args.num_scored,
        segment=segmenter(model),
    )
    secret_keys = fresh_keys(args.families, model.patch_projection)
    tried = [each for each in ATTACKS if each.attacker in ATTACKERS and each.name not in LEFT_OUT]
    return trials_of(scene, secret_keys, attacks=tried)


@torch.inference_mode()
def mean_iou_at(args: Arguments, model: SetrForSemanticSegmentation, height: int) -> float:
    """Mean IoU of the plain model on images of this height, against segmentation maps of their own size."""
    label_map, images, labels = args.load_label_map(model.config.num_labels), [], []
    for row in evenly_spaced(args.load_split(args.split), args.limit):
        images.append(torch.from_numpy(resized(row["image"], height, model.config.patch_size)).float())
        labels.append(torch.from_numpy(label_map(np.asarray(row["annotation"])).astype(np.int64)))
    return mean_iou(
        lambda batch: model(pixel_values=batch).logits,
        torch.stack(images),
        torch.stack(labels),
        model.config.num_labels,
    )


def run(args: Arguments, model: SetrForSemanticSegmentation, records: Records) -> None:
    """Every trial and evaluation that has no result yet."""
    for height in args.heights:
        if f"{height}: mIoU" not in records.rows:
            records.add(f"{height}: mIoU", {"mean_iou": mean_iou_at(args, model, height)})
        for trial in (bar := tqdm(list(trials_for(args, model, height)), desc=f"{height} high", unit="attack")):
            name = f"{height}: {trial.name}: {trial.num_images}"
            bar.set_postfix_str(name)
            if name not in records.rows:
                records.add(name, {"height": height} | trial.find().to_dict())


def table(args: Arguments, records: Records) -> ResultTable:
    """A row a height; what the server computes counts for every family."""
    found = [row for row in records.rows.values() if "attack" in row]

    def best(height: int, family: str, count: int) -> str:
        rows = [
            row["metrics"]["hp"]
            for row in found
            if row["height"] == height and row["family"] in (family, "any") and row["num_images"] == count
            if row["attacker"] != "baseline" and "hp" in row["metrics"]
        ]
        return f"{max(rows):.2f}"

    columns = [(family, count) for family in args.families for count in args.counts]
    header = ["height", "mIoU", "block means", *(f"{family}, {count}" for family, count in columns)]
    rows = []
    for height in args.heights:
        (means,) = (row for row in found if row["height"] == height and row["attack"] == "block means")
        facts = [f"{records.rows[f'{height}: mIoU']['mean_iou']:.3f}", f"{means['metrics']['hp']:.2f}"]
        rows.append([str(height), *facts, *(best(height, *column) for column in columns)])
    return ResultTable("mIoU, and hp of the provider's best attack by family and number of uploads", header, rows)


def main() -> None:
    """Runs what is missing, then writes and prints the table."""
    args = parse_arguments(Arguments, description=__doc__)
    model = SetrForSemanticSegmentation.from_pretrained(args.model or default_checkpoint()).eval()
    names = ("dataset", "model", "victims", "prior", "num_prior", "num_scored", "counts", "split", "limit")
    facts = {name: getattr(args, name) for name in names}
    records = Records(Path(args.output_dir) / "results.json", facts, writes=True)
    run(args, model, records)
    tables = [table(args, records)]
    lines = [f"mIoU: {args.limit} images of the split {args.split}"]
    write_tables(Path(args.output_dir) / "input_size.md", tables, lines, runs=records.runs)
    print_tables(tables, "Notes", lines)


if __name__ == "__main__":
    run_script(main)
