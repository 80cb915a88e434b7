"""An experiment beyond the paper: the client runs the embedding and k encoder layers, and uploads hidden states.

    python benchmarks/client_layers.py --victims "data/camvid/images/test/Seq05VD*" \\
        --prior "data/camvid/images/train/*" --public_base path/to/vit --output_dir outputs/client_layers

Weights and segmentation maps stay those of the whole model, exactly; k = 0 uploads the embeddings alone. Three
attackers try to invert the hidden states h_k of k layers, on square crops of the victims' images:

    public     the client's part is public: linear regression and a network, trained on the attacker's own images
    near       the client's part is private, but was fine-tuned from the public base, with which the attacker trains
    nothing    the attacker has the hidden states of all victims, and the images of --prior (canonical correlations)

The cost of the client stands beside: milliseconds an image, parameters that it holds, bytes that it sends (16-bit).

It writes results.json and client_layers.md; a killed run goes on with what is missing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from attack_images import ImageArguments, read_images
from tqdm.auto import tqdm

from hf_privseg import SetrForSemanticSegmentation, SetrModel
from hf_privseg.attacks.canonical import reconstruct_canonical
from hf_privseg.attacks.learned_inversion import Budget, train_inverter
from hf_privseg.attacks.tools.blocks import LinearDecoder, as_rows, to_grid, to_image
from hf_privseg.attacks.tools.metrics import image_metrics, thumbnail
from hf_privseg.attacks.tools.priors import image_prior
from hf_privseg.checkpoints import default_checkpoint
from hf_privseg.convert import convert_checkpoint
from hf_privseg.experiments.records import Records
from hf_privseg.experiments.tables import ResultTable, print_tables, write_tables
from hf_privseg.training.arguments import parse_arguments, run_script

Grid = np.ndarray
RIDGE = 1e-6  # relative to the mean variance of a hidden state


@dataclass(kw_only=True)
class Arguments(ImageArguments):
    """What the command line takes."""

    output_dir: str = field(metadata={"help": "Where results.json and client_layers.md go."})
    model: str | None = field(default=None, metadata={"help": "Plain checkpoint. Default: the embedded one."})
    public_base: str | None = field(default=None, metadata={"help": "Public weights that the model came from."})
    layers: list[int] = field(default_factory=lambda: [0, 1, 2, 4], metadata={"help": "Encoder layers of the client."})
    num_victims: int = field(default=16, metadata={"help": "Evenly spaced victims."})
    num_scored: int = field(default=4, metadata={"help": "Victims whose reconstructions are scored."})
    num_prior: int = field(default=123, metadata={"help": "Evenly spaced images of --prior that are used."})
    steps: int = field(default=60, metadata={"help": "Updates of an inversion network."})


@torch.inference_mode()
def client_part(encoder: SetrModel, num_layers: int, grid: Grid) -> Grid:
    """(down, across, L) plain -> (down, across, hidden_size), the hidden states that the client uploads."""
    pixels = torch.from_numpy(to_image(grid, encoder.config.patch_size)).float()[None]
    hidden = encoder.embeddings(pixels)
    for layer in encoder.layers[:num_layers]:
        hidden = layer(hidden)
    patches = hidden[0, int(bool(encoder.config.use_cls_token)) :]
    return patches.reshape(*grid.shape[:2], -1).double().numpy()


def regression(plain: list[Grid], seen: list[Grid]) -> LinearDecoder:
    """Pairs of the attacker's own -> the linear map with the least squared error, slightly damped."""
    known, shown = as_rows(plain), as_rows(seen)
    means = known.mean(axis=0), shown.mean(axis=0)
    centred = shown - means[1]
    gram = centred.T @ centred
    gram += RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram))
    matrix = np.linalg.solve(gram, centred.T @ (known - means[0]))
    return LinearDecoder(matrix, means[0] - means[1] @ matrix)


def squares(pattern: str, limit: int, patch_size: int) -> list[Grid]:
    """Images as grids of as many blocks across as down, cut from the middle."""
    grids = []
    for image in read_images(pattern, limit, patch_size):
        grid = to_grid(image, patch_size)
        side = min(grid.shape[:2])
        top, left = ((length - side) // 2 for length in grid.shape[:2])
        grids.append(grid[top : top + side, left : left + side])
    return grids


def scores(decode: Callable[[Grid], Grid], seen: list[Grid], plain: list[Grid], patch_size: int) -> dict[str, float]:
    """Means of PSNR, SSIM and hp over pairs."""
    found = [
        image_metrics(to_image(decode(shown), patch_size), to_image(grid, patch_size))
        for shown, grid in zip(seen, plain, strict=True)
    ]
    return {name: float(np.mean([row[name] for row in found])) for name in found[0]}


def client_cost(encoder: SetrModel, num_layers: int, grid: Grid) -> dict[str, float]:
    """Milliseconds an image, the median of five runs; parameters; bytes of an upload."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        shown = client_part(encoder, num_layers, grid)
        seconds.append(time.perf_counter() - started)
    parts = [encoder.embeddings, *encoder.layers[:num_layers]]
    parameters = sum(weight.numel() for part in parts for weight in part.parameters())
    return {"ms": 1000 * float(np.median(seconds)), "parameters": parameters, "bytes": 2 * shown.size}


@dataclass(frozen=True)
class Images:
    """Square grids of blocks, in plain.

    Attributes:
        victims: what clients upload.
        own: the attacker's own.
        num_scored: how many victims are scored.
    """

    victims: list[Grid]
    own: list[Grid]
    num_scored: int

    @property
    def scored(self) -> list[Grid]:
        """The first victims."""
        return self.victims[: self.num_scored]


def run(args: Arguments, records: Records) -> None:
    """Every attacker on every k that has no result yet."""
    model = SetrForSemanticSegmentation.from_pretrained(args.model or default_checkpoint()).eval()
    patch_size = model.config.patch_size
    encoders = {"public": model.base_model}
    if args.public_base is not None:
        encoders["near"] = convert_checkpoint(args.public_base).model.base_model.eval()
    images = Images(
        victims=squares(args.victims, args.num_victims, patch_size),
        own=squares(args.prior, args.num_prior, patch_size),
        num_scored=args.num_scored,
    )
    if "thumbnail" not in records.rows:
        records.add("thumbnail", thumbnail_scores(images.scored, patch_size))
    budget = Budget(steps=args.steps, batch_size=3, crop_in_blocks=min(images.own[0].shape[:2]))
    for k in tqdm(args.layers, desc="client layers"):
        run_layers(k, model.base_model, encoders, images, budget, records)


def thumbnail_scores(scored: list[Grid], patch_size: int) -> dict[str, float]:
    """Means of PSNR, SSIM and hp of the block means, which any figure is compared with."""
    plain = [to_image(grid, patch_size) for grid in scored]
    rows = [image_metrics(thumbnail(image, patch_size), image) for image in plain]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def run_layers(
    k: int, client: SetrModel, encoders: dict[str, SetrModel], images: Images, budget: Budget, records: Records
) -> None:
    """Every attacker on the hidden states of k layers, and the client's cost, as far as they have no result yet."""
    patch_size = client.config.patch_size
    shown = [client_part(client, k, grid) for grid in images.victims]
    seen = shown[: images.num_scored]
    if f"{k}: cost" not in records.rows:
        records.add(f"{k}: cost", client_cost(client, k, images.victims[0]))
    if f"{k}: nothing" not in records.rows:
        prior = image_prior((to_image(grid, patch_size) for grid in images.own), patch_size)
        decoder = reconstruct_canonical(shown, prior)
        records.add(f"{k}: nothing", scores(decoder.decode, seen, images.scored, patch_size))
    for name, encoder in encoders.items():
        if f"{k}: {name}, learned" in records.rows:
            continue

        def observe(grid: Grid, _: np.random.Generator, encoder: SetrModel = encoder) -> Grid:
            return client_part(encoder, k, grid)

        linear = regression(images.own, [client_part(encoder, k, grid) for grid in images.own])
        records.add(f"{k}: {name}, linear", scores(linear.decode, seen, images.scored, patch_size))
        inverter = train_inverter(images.own, observe, linear, budget=budget)
        row = scores(inverter.decode, seen, images.scored, patch_size)
        records.add(f"{k}: {name}, learned", row | {"succeeded": inverter.succeeded})


def main() -> None:
    """Runs what is missing, then writes and prints the tables."""
    args = parse_arguments(Arguments, description=__doc__)
    names = ("victims", "prior", "num_victims", "num_scored", "num_prior", "steps")
    facts = {name: getattr(args, name) for name in names}
    records = Records(Path(args.output_dir) / "results.json", facts, writes=True)
    run(args, records)
    leaks, costs = [], []
    for name, row in records.rows.items():
        k, _, attacker = name.rpartition(": ")
        if attacker == "cost":
            megabytes = f"{row['parameters'] * 4 / 1e6:.1f}"
            costs.append([k, f"{row['ms']:.0f}", megabytes, f"{row['bytes'] / 1e6:.2f}"])
        else:
            figures = [f"{row['psnr']:.1f}", f"{row['ssim']:.2f}", f"{row['hp']:.2f}"]
            leaks.append([k, attacker, *figures, "" if row.get("succeeded", True) else "no better than linear"])
    tables = [
        ResultTable("What the server recovers", ["k", "attacker", "PSNR, dB", "SSIM", "hp", "note"], leaks),
        ResultTable("What the client spends", ["k", "ms an image", "weights, MB (fp32)", "upload, MB"], costs),
    ]
    write_tables(Path(args.output_dir) / "client_layers.md", tables, runs=records.runs)
    print_tables(tables, "", [])


if __name__ == "__main__":
    run_script(main)
