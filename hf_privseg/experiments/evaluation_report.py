"""Tables, checks and files of `privseg evaluate`."""

from itertools import groupby
from pathlib import Path

from .evaluation_arguments import EvaluationArguments
from .records import Json, Records
from .tables import ResultTable, print_tables, write_csv, write_tables

ENCRYPTED = ("correct K", "No-Enc", "random K'")
FIGURES = ("mean_iou", "mean_accuracy", "overall_accuracy")
_PLAIN_HEADER = ("data set", "model", "mIoU", "mean accuracy", "pixel accuracy")
_PAPER_HEADER = ("data set", "decoder", "family", "baseline", *ENCRYPTED)
_DETAIL_HEADER = ("model", "family", "condition", "equal pixels", "embedding error (first image)")
_CSV_COLUMNS = (
    "dataset", "model", "decoder", "family", "condition", *FIGURES, "equal_pixels", "embedding_error",
)  # fmt: skip


def record_name(model: str, family: str, name: str) -> str:
    """The name of a condition in results.json, for example "naive: permutation: correct K"."""
    return ": ".join(filter(None, (model, family, name)))


def plain_rows(records: Records, dataset: str) -> list[list[str]]:
    """The cells of the table of plain models, one row a model."""
    return [
        [dataset, row["model"], *(f"{row[name]:.4f}" for name in FIGURES)]
        for row in records.rows.values()
        if row["condition"] == "baseline"
    ]


def class_tables(records: Records) -> list[ResultTable]:
    """The IoU of every class, a column a plain model; one table for the models of the same classes."""
    plain = [row for row in records.rows.values() if row["condition"] == "baseline"]
    tables = []
    for classes, group in groupby(plain, key=lambda row: row["classes"]):
        models = list(group)
        columns = zip(*(map(_figure, row["per_category_iou"]) for row in models), strict=True)
        rows = [[name, *figures] for name, figures in zip(classes, columns, strict=True)]
        tables.append(ResultTable("IoU of each class", ("class", *(row["model"] for row in models)), rows))
    return tables


def _figure(value: float | None) -> str:
    """A figure with four digits; None, of a class that does not occur, as a dash."""
    return "-" if value is None else f"{value:.4f}"


def paper_rows(records: Records, dataset: str) -> list[list[str]]:
    """The cells of the paper's table, one row a model and family, blank where nothing was evaluated."""
    rows = []
    for model, facts in records.models.items():
        decoder = facts["decoder"] if facts["decoder"] == model else f"{facts['decoder']} ({model})"
        families = dict.fromkeys(row["family"] for row in records.rows.values() if row["model"] == model)
        for family in [name for name in families if name]:
            names = [record_name(model, "", "baseline"), *(record_name(model, family, name) for name in ENCRYPTED)]
            found = [records.rows.get(name) for name in names]
            rows.append(
                [dataset, decoder, family, *("" if row is None else f"{row['mean_iou']:.4f}" for row in found)]
            )
    return rows


def detail_rows(records: Records) -> list[list[str]]:
    """The cells of the second table: how far maps and embeddings are from the baseline's."""
    return [
        [row["model"], row["family"], row["condition"], f"{row['equal_pixels']:.7f}", f"{row['embedding_error']:.1e}"]
        for row in records.rows.values()
    ]


def checks(records: Records) -> list[str]:
    """One line for each encrypted condition: whether its result is as in the paper."""
    lines = []
    for row in records.rows.values():
        if row["condition"] == "baseline":
            continue
        baseline, found = records.rows[record_name(row["model"], "", "baseline")]["mean_iou"], row["mean_iou"]
        if row["condition"] == "correct K":
            passed, claim = f"{found:.4f}" == f"{baseline:.4f}", "equals baseline to 4 digits"
        else:
            passed, claim = found < baseline / 3, "is below a third of baseline"
        subject = record_name(row["model"], row["family"], row["condition"])
        lines.append(f"{'yes' if passed else 'NO '}  {subject} {claim}: {found:.6f}, baseline {baseline:.6f}")
    return lines


def report(args: EvaluationArguments, records: Records, num_images: int) -> None:
    """Write results.json, results.csv and results.md, and print tables and checks."""
    folder, dataset = Path(args.output_dir), Path(args.dataset).name
    of_images = f"{args.split} (images: {num_images})"
    tables = [ResultTable(f"Plain models, {of_images}", _PLAIN_HEADER, plain_rows(records, dataset))]
    tables += class_tables(records)
    lines = checks(records)
    if lines:
        tables += [
            ResultTable(f"mIoU, {of_images}", _PAPER_HEADER, paper_rows(records, dataset)),
            ResultTable("Against the baseline", _DETAIL_HEADER, detail_rows(records)),
        ]
    records.write(checks=lines)
    rows: list[Json] = [{"dataset": dataset} | row for row in records.rows.values()]
    write_csv(folder / "results.csv", _CSV_COLUMNS, rows)
    write_tables(folder / "results.md", tables, lines, runs=records.runs, forms=(".md", ".tex"))
    print_tables(tables, "As in the paper?" if lines else f"Wrote {folder / 'results.md'}.", lines)
