"""Which models of transformers can be exported, and how exactly: every tested class, encrypted.

    python benchmarks/exported_census.py --output_dir outputs/exported_census

Each class is built tiny and at random, encrypted, and exported to ONNX and as a program of torch.export. onnxruntime
or PyTorch run the file on encrypted inputs. The error is the largest difference of any output from what the plain
model gives in PyTorch for plain inputs, relative to the largest number of that output. A plain model has the same
graph, with another weight in one place.

The exports of a class have a process of their own and --seconds each, so that none stops the others. It writes
results.json and exported_census.md; a killed run goes on where it stopped.
"""

import multiprocessing
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm

from hf_privseg import SecretKey, encrypt_model
from hf_privseg.any_vit.proof import difference
from hf_privseg.experiments.records import Records
from hf_privseg.experiments.tables import ResultTable, print_tables, write_tables
from hf_privseg.export import FORMATS, export_model
from hf_privseg.export.program import NamedOutputs, Sizes
from hf_privseg.training.arguments import parse_arguments, run_script
from tiny_vision import CASES, Case, randomize
from tiny_vision.measuring import encrypted_inputs, relatives

_FORMATS = ("onnx", "torch")
_KEY = SecretKey(bytes(range(32)), "orthogonal")


@dataclass(kw_only=True)
class Arguments:
    """What the command line takes."""

    output_dir: str = field(metadata={"help": "Where the results go."})
    seconds: float = field(default=600.0, metadata={"help": "That an export may take."})
    size_seconds: float = field(default=60.0, metadata={"help": "After which sizes that vary are given up."})
    jobs: int = field(default=2, metadata={"help": "Processes at a time."})
    models: list[str] = field(default_factory=lambda: list(CASES), metadata={"help": "Names in tiny_vision."})
    relatives: bool = field(default=True, metadata={"help": "Export other classes of their folders, too."})


def classes(model: str) -> Iterator[tuple[str, Case]]:
    """The name of a tiny model -> it and other classes of its folder, each by its name and its backbone's."""
    torch.manual_seed(0)  # for the few numbers that `randomize` leaves
    first = CASES[model]()
    randomize(first.model)
    for case in (first, *relatives(first)):
        backbone = getattr(case.model.config, "backbone_config", None)
        yield type(case.model).__name__ + (f" on {backbone.model_type}" if backbone is not None else ""), case


def all_classes(models: list[str], *, with_relatives: bool) -> dict[str, str]:
    """Names of tiny models -> {class: the tiny model that leads to it}, those that they name themselves first."""
    found = [(place, name, model) for model in models for place, (name, _) in enumerate(classes(model))]
    ordered: dict[str, str] = {}
    for place, name, model in sorted(found, key=lambda each: each[0] > 0):
        if place and not with_relatives:
            break
        ordered.setdefault(name, model)
    return ordered


def exported(case: Case, format: str, size_seconds: float) -> dict[str, Any]:
    """A plain model, which is encrypted -> the error of its file and what may vary, or why there is none."""
    plain = Sizes(case.inputs, 1)
    with TemporaryDirectory() as folder, torch.no_grad():
        try:
            expected = NamedOutputs(case.model, plain)(**plain.example)
            encrypt_model(case.model, _KEY, unverified=True)
            inputs = encrypted_inputs(case, _KEY)
            file = export_model(case.model, Path(folder), inputs, format=format, size_seconds=size_seconds)
        except ValueError as error:
            return {"reason": str(error).partition(f" as {format}: ")[2] or str(error)}
        found = FORMATS[format].load(file.path)(Sizes(inputs, 1).example)
    largest = max(difference(*pair) for pair in zip(found, expected, strict=True))
    return {"varies": file.varies, "error": largest}


def work(model: str, name: str, size_seconds: float, answers: Connection) -> None:
    """In a process of its own: sends (format, result) of a class for each format."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for format in _FORMATS:
        case = next(case for found, case in classes(model) if found == name)
        answers.send((format, exported(case, format, size_seconds)))


def in_process(model: str, name: str, seconds: float, size_seconds: float) -> dict[str, Any]:
    """{format: result} of a class, whatever its exports do."""
    context = multiprocessing.get_context("forkserver")  # which has the imports, and no threads
    ours, theirs = context.Pipe()
    process = context.Process(target=work, args=(model, name, size_seconds, theirs))
    process.start()
    theirs.close()
    found: dict[str, Any] = {}
    reason = f"the export took longer than {seconds:g} s"
    try:
        while len(found) < len(_FORMATS) and ours.poll(seconds):
            format, result = ours.recv()
            found[format] = result
    except EOFError:
        process.join()
        reason = f"the process ended with exit code {process.exitcode}"
    process.kill()
    return {format: found.get(format, {"reason": reason}) for format in _FORMATS}


def table(results: dict[str, Any]) -> ResultTable:
    """A row a class: what may vary, and the errors, or the first reason why there is no file."""
    rows = []
    for name, row in results.items():
        errors = [f"{row[format]['error']:.0e}" if "error" in row[format] else "no" for format in _FORMATS]
        varies, reason = (
            next((row[format][word] for format in _FORMATS if word in row[format]), "")
            for word in ("varies", "reason")
        )
        rows.append([name, *errors, varies, reason])
    good = sum("no" not in row for row in rows)
    return ResultTable(
        f"{good} of {len(rows)} classes", ["class", *_FORMATS, "of the inputs may vary", "refused because"], rows
    )


def main() -> None:
    """Exports what has no result yet, then writes and prints the table."""
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    args = parse_arguments(Arguments, description=__doc__)
    multiprocessing.set_forkserver_preload(["exported_census"])
    records = Records(Path(args.output_dir) / "results.json", {"transformers": transformers.__version__}, writes=True)
    chosen = all_classes(args.models, with_relatives=args.relatives)
    missing = {name: model for name, model in chosen.items() if name not in records.rows}
    with ThreadPoolExecutor(args.jobs) as pool:
        running = {
            pool.submit(in_process, model, name, args.seconds, args.size_seconds): name
            for name, model in missing.items()
        }
        for done in tqdm(as_completed(running), total=len(running), unit="class"):
            records.add(running[done], done.result())
    found = [table({name: records.rows[name] for name in sorted(chosen)})]
    lines = [f"torch {torch.__version__}, transformers {transformers.__version__}"]
    write_tables(Path(args.output_dir) / "exported_census.md", found, lines, runs=records.runs)
    print_tables(found, "Notes", lines)


if __name__ == "__main__":
    run_script(main)
