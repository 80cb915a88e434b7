"""mIoU of encrypted models under many keys, as box plots: the paper's Figure 6, and its counterpart with correct keys.

    python examples/figure6.py --dataset data/camvid --ignore_labels 11 --output outputs/figure6
    python examples/figure6.py --dataset data/camvid --ignore_labels 11 --output outputs/figure6 \
        --models naive=outputs/naive pup=outputs/pup mla=outputs/mla --families permutation orthogonal --num_keys 50

Panel (a): the model is encrypted with K, and the queries with other keys K'. Panel (b): model and queries are
encrypted with the same key, for each of these keys. Dashed blue lines are the baselines: plain model, plain images. K
is `SecretKey.from_seed(seed)`, the others are `from_seed(seed + 1)` and so on, so that the same command gives the same
figure.

Boxes reach from the first to the third quartile, whiskers to the furthest values inside [Q1 - 1.5 (Q3 - Q1),
Q3 + 1.5 (Q3 - Q1)], the line is the median, dots are outliers: the paper's rule, and matplotlib's default (whis=1.5).

The script writes OUTPUT.png, OUTPUT.svg, OUTPUT.json and OUTPUT.csv. When the same command is given again, a killed
run goes on with the missing keys; models, families and keys may be added then, and the figure shows all that
OUTPUT.json holds. Several processes share the images.
"""

import copy
import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from tqdm.auto import tqdm

from hf_privseg import SecretKey, SetrForSemanticSegmentation
from hf_privseg.experiments.arguments import ExperimentArguments
from hf_privseg.experiments.plain_models import PlainSetr, plain_models, seeded_key
from hf_privseg.experiments.records import Records, experiment_facts
from hf_privseg.inference.windows import Inference
from hf_privseg.training.arguments import parse_arguments, run_script
from hf_privseg.training.data import evenly_spaced
from hf_privseg.training.evaluation import compute_over_processes, predict_maps
from hf_privseg.training.label_map import LabelMap
from hf_privseg.training.metrics import MeanIoU
from hf_privseg.training.rows import read_row

PANELS = {
    "random": "(a) model under K, queries under random K'",
    "correct": "(b) model and queries under the same key",
}
CSV_COLUMNS = ("model", "family", "panel", "key_seed", "fingerprint", "mean_iou")
# Okabe and Ito's colours without blue, which the baseline has; the hatches tell the boxes apart in grey.
COLOURS = {"permutation": "#E69F00", "signed_permutation": "#009E73", "orthogonal": "#D55E00", "matrix": "#CC79A7"}
HATCHES = {"permutation": "", "signed_permutation": "////", "orthogonal": "....", "matrix": "xxxx"}
BASELINE = "#0072B2"


@dataclass(kw_only=True)
class Arguments(ExperimentArguments):
    """The options of the script."""

    output: str = field(default="outputs/figure6", metadata={"help": "Path of the results, without their endings."})
    num_keys: int = field(default=50, metadata={"help": "Keys of each box."})
    limit: int | None = field(default=12, metadata={"help": "Evenly spaced images to use."})


@dataclass
class Query:
    """A plain image, `(3, height, width)` uint8, and its truth, `(height, width)` int64."""

    image: torch.Tensor
    labels: np.ndarray


def load_queries(dataset: Dataset, label_map: LabelMap) -> list[Query]:
    """All images and their truth, decoded."""
    indices = tqdm(range(len(dataset)), desc="load", leave=False, disable=None)
    return [Query(*read_row(dataset, index, label_map)) for index in indices]


def mean_iou(
    model: SetrForSemanticSegmentation,
    plain: PlainSetr,
    queries: list[Query],
    secret_key: SecretKey | None,
    inference: Inference,
    accelerator: Accelerator,
) -> float:
    """mIoU over the images of all processes, each encrypted with the key, or plain without one."""
    metric = MeanIoU(plain.num_labels)
    images = [query.image for query in queries]
    maps = predict_maps(model, plain.processor, images, secret_key=secret_key, inference=inference, disable=True)
    for prediction, query in zip(maps, queries, strict=True):
        metric.add(prediction=prediction, reference=query.labels)
    return compute_over_processes(metric, accelerator)["mean_iou"]


def jobs(plain: PlainSetr, args: Arguments) -> Iterator[tuple[str, dict]]:
    """(name of the record, its facts) of every point of a model's boxes, baseline first."""
    yield f"{plain.name}: baseline", {"model": plain.name, "family": "", "panel": "baseline"}
    for family in args.families:
        for panel in PANELS:
            for key_seed in range(args.seed + 1, args.seed + 1 + args.num_keys):
                facts = {"model": plain.name, "family": family, "panel": panel, "key_seed": key_seed}
                yield f"{plain.name}: {family}: {panel} {key_seed}", facts


def evaluate_model(
    plain: PlainSetr,
    dataset: Dataset,
    label_map: LabelMap,
    args: Arguments,
    records: Records,
    accelerator: Accelerator,
) -> None:
    """Add the missing records of a model, one by one."""
    todo = list(jobs(plain, args))
    missing = [(name, facts) for name, facts in todo if name not in records.rows]
    queries = load_queries(dataset, label_map) if missing else []
    under_k: dict[str, SetrForSemanticSegmentation] = {}
    silent = not accelerator.is_local_main_process
    bar = tqdm(missing, initial=len(todo) - len(missing), total=len(todo), desc=plain.name, disable=silent)
    for name, facts in bar:
        bar.set_postfix_str(f"{facts['family']} {facts['panel']}")
        model, key, family = plain.model, None, facts["family"]
        if family:
            key = seeded_key(facts["key_seed"], family)
            facts["fingerprint"] = key.fingerprint
            if facts["panel"] == "correct":
                model = copy.deepcopy(plain.model).encrypt_model(key)
            else:
                if family not in under_k:
                    under_k = {family: copy.deepcopy(plain.model).encrypt_model(seeded_key(args.seed, family))}
                model = under_k[family]
        records.add(name, facts | {"mean_iou": mean_iou(model, plain, queries, key, args.inference, accelerator)})


def values(records: Records, args: Arguments, model: str, family: str, panel: str) -> np.ndarray:
    """The mIoU under every key of one box."""
    wanted, last = (model, family, panel), args.seed + args.num_keys
    rows = [row for row in records.rows.values() if (row["model"], row["family"], row["panel"]) == wanted]
    return np.array([row["mean_iou"] for row in rows if row.get("key_seed", last) <= last])


def families_of(records: Records, model: str) -> list[str]:
    """The families that a model was evaluated with, in the order of the legend."""
    return [
        name
        for name in COLOURS
        if any(row["family"] == name for row in records.rows.values() if row["model"] == model)
    ]


def draw(records: Records, args: Arguments, caption: str) -> None:
    """Draw the two panels with all that the records hold, as PNG and SVG."""
    boxes = {model: families_of(records, model) for model in records.models}
    width = max(0.55 * sum(len(families) + 1 for families in boxes.values()) + 0.6, 4.0)
    figure = Figure(figsize=(2 * width + 0.9, 5.6), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (panel, title) in zip(figure.subplots(1, 2, sharey=True), PANELS.items(), strict=True):
        furthest, position, centres = 0.0, 0, []
        for model, families in boxes.items():
            (baseline,) = values(records, args, model, "", "baseline")
            span = (position - 0.7, position + len(families) - 0.3)
            axes.hlines(baseline, *span, colors=BASELINE, linestyles="dashed", linewidth=2.2, zorder=1)
            centres.append(position + (len(families) - 1) / 2)
            for family in families:
                sample = values(records, args, model, family, panel)
                draw_box(axes, sample, position, family)
                furthest, position = max(furthest, abs(sample - baseline).max()), position + 1
            position += 1
        note = f"\nat most {furthest:.1e} from the baseline"
        axes.set_title(title if panel == "random" else title + note, fontsize=12)
        axes.set_xticks(centres, list(boxes), fontsize=12)
        axes.set_xlim(-1, position - 1)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color="#dddddd", linewidth=0.7, zorder=0)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("mIoU", fontsize=12)
    shown = [family for family in COLOURS if any(family in families for families in boxes.values())]
    patches = [Patch(facecolor=COLOURS[f], hatch=HATCHES[f], edgecolor="#333333", label=f) for f in shown]
    line = Line2D([], [], color=BASELINE, linestyle="dashed", linewidth=2.2, label="baseline (plain)")
    figure.legend(handles=[line, *patches], loc="outside upper center", ncols=3, frameon=False, fontsize=11)
    figure.supxlabel(caption, fontsize=9, color="#555555")
    for suffix in (".png", ".svg"):
        figure.savefig(f"{args.output}{suffix}", dpi=160)


def draw_box(axes: Axes, sample: np.ndarray, position: float, family: str) -> None:
    """Draw one box, by the rule that the docstring of the script states."""
    drawn = axes.boxplot(
        [sample],
        positions=[position],
        widths=0.6,
        whis=1.5,
        patch_artist=True,
        manage_ticks=False,
        zorder=3,
        medianprops={"color": "black", "linewidth": 2},
        flierprops={"marker": "o", "markersize": 3.5, "markerfacecolor": "#333333", "markeredgewidth": 0},
    )
    drawn["boxes"][0].set(facecolor=COLOURS[family], hatch=HATCHES[family], edgecolor="#333333")


def report(records: Records, args: Arguments) -> None:
    """Write the figure and the CSV file, and print a line for each family."""
    with Path(f"{args.output}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, CSV_COLUMNS)
        writer.writeheader()
        writer.writerows(records.rows.values())
    for model in records.models:
        (baseline,) = values(records, args, model, "", "baseline")
        print(f"{model}: baseline {baseline:.4f}")
        for family in families_of(records, model):
            wrong, right = (values(records, args, model, family, panel) for panel in PANELS)
            print(
                f"  {family}: {len(wrong)} random keys, mIoU {wrong.min():.4f} to {wrong.max():.4f}, median "
                f"{np.median(wrong):.4f}; {len(right)} correct keys, at most {abs(right - baseline).max():.1e} from it"
            )
    data = f"{Path(args.dataset).name}, {args.split} (images: {records.facts['num_images']})"
    rule = "Box: quartiles and median; whiskers: furthest values within 1.5 interquartile ranges; dots: outliers."
    draw(records, args, f"{args.num_keys} keys a box, {data}.\n{rule}")
    print(f"Wrote {args.output}.png, .svg, .json and .csv")


def main() -> None:
    args = parse_arguments(Arguments, description=__doc__)
    accelerator = Accelerator(cpu=args.cpu)
    dataset = evenly_spaced(args.load_split(args.split), args.limit)
    records = Records(Path(f"{args.output}.json"), experiment_facts(args, dataset), writes=accelerator.is_main_process)
    accelerator.wait_for_everyone()
    share = dataset.shard(accelerator.num_processes, accelerator.process_index, contiguous=False)
    for plain in plain_models(args, accelerator.device):
        records.bind(plain)
        quiet = not accelerator.is_main_process
        label_map, _ = args.inspect_labels(args.split, dataset, plain.names, quiet=quiet)
        evaluate_model(plain, share, label_map, args, records, accelerator)
    if accelerator.is_main_process:
        report(records, args)


if __name__ == "__main__":
    run_script(main)
