"""What a training leaves behind: the model, its card with the recipe, and a copy on the Hub if asked for."""

import json
import shlex
from dataclasses import MISSING, asdict, fields, replace
from importlib.metadata import version
from pathlib import Path

from accelerate import Accelerator
from huggingface_hub import create_repo, upload_folder

from ..reporting.tables import markdown_table
from ..storage.model_cards import describe_model
from .label_statistics import TABLE_HEADER, LabelStatistics
from .train_arguments import TrainArguments

_PATHS = ("dataset", "output_dir", "vit", "checkpoint", "id2label", "label_map")


def save_model(accelerator: Accelerator, model, processor, folder: Path, half_weights: bool) -> None:
    """Write model and processor as `from_pretrained` reads them, the weights as they are or as fp16."""
    plain = accelerator.unwrap_model(model)
    state = accelerator.get_state_dict(model)
    if half_weights:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    if accelerator.is_main_process:
        plain.save_pretrained(folder, state_dict=state)
        processor.save_pretrained(folder)


def command_of(args: TrainArguments, num_processes: int = 1) -> str:
    """The options of a training -> a command line that gives them, for a shell.

    It is published with the model. So an absolute path is shown by its last part alone, and whoever pastes the command
    does so in a folder that holds it; relative paths and Hub ids stay. Options at their default are left out.
    """
    words = ["privseg", "train"]
    if num_processes > 1:
        words = f"torchrun --standalone --nproc_per_node {num_processes} -m hf_privseg.cli train".split()
    for option in fields(args):
        value = getattr(args, option.name)
        default = option.default if option.default_factory is MISSING else option.default_factory()
        if value != default:
            words += _words(option.name.replace("_", "-"), _shown(option.name, value))
    return shlex.join(words)


def _words(name: str, value: object) -> list[str]:
    """An option and its value, as the parser of the options takes them."""
    if value is True:
        return [f"--{name}"]
    if isinstance(value, list):
        return [f"--{name}", *map(str, value)]
    # One word, so that a value that begins with a hyphen is not taken for an option.
    return [f"--{name}={value}"] if str(value).startswith("-") else [f"--{name}", str(value)]


def _shown(name: str, value: object) -> object:
    """The value of an option as it is published."""
    return Path(value).name if name in _PATHS and isinstance(value, str) and Path(value).is_absolute() else value


def describe_training(
    folder: Path, args: TrainArguments, num_processes: int, progress: dict, statistics: LabelStatistics
) -> None:
    """Write training.json, and a section of the model card: the recipe, the evaluations and the classes."""
    history = progress["history"]
    recipe = {"arguments": asdict(args), "processes": num_processes, "history": history, "runs": progress["runs"]}
    (folder / "training.json").write_text(json.dumps(recipe, indent=1))
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8").partition("\n## Training\n")[0]
    evaluations = [row for row in history if "mean_iou" in row]
    rows = [[str(row["epoch"]), f"{row['loss']:.4f}", f"{row['mean_iou']:.4f}"] for row in evaluations]
    figures = markdown_table(("epoch", "training loss", "validation mIoU"), rows)
    classes = markdown_table(TABLE_HEADER, statistics.rows())
    card.write_text(
        f"{text.rstrip()}\n\n## Training\n\nBy hf-privseg {version('hf-privseg')}, in {num_processes} process(es):\n\n"
        f"```sh\n{command_of(args, num_processes)}\n```\n\n"
        f"Evaluated on the split `{args.eval_split}`, at the size of the labels, single scale, no flip:\n\n"
        f"{figures}\nThe classes in {statistics.stored.describe()}:\n\n{classes}",
        encoding="utf-8",
    )
    if evaluations:
        metrics = {"mean_iou": round(evaluations[-1]["mean_iou"], 4)}
        describe_model(folder, dataset=Path(args.dataset).name, split=args.eval_split, metrics=metrics)


def finish(
    accelerator: Accelerator, model, processor, progress: dict, statistics: LabelStatistics, args: TrainArguments
) -> None:
    """Write the final model with its card, and publish it on the Hub if asked; checkpoints stay local."""
    output_dir = Path(args.output_dir)
    save_model(accelerator, model, processor, output_dir, args.half_weights)
    if accelerator.is_main_process:
        args = replace(
            args, mixed_precision=args.mixed_precision or accelerator.mixed_precision
        )  # a launcher's choice
        describe_training(output_dir, args, accelerator.num_processes, progress, statistics)
        if args.push_to_hub:
            create_repo(args.push_to_hub, private=args.hub_private, exist_ok=True)
            files = ["*.json", "*.safetensors", "README.md"]
            ignored = ["best/*", "checkpoints/*", "training.json"]  # training.json holds local paths
            upload_folder(
                repo_id=args.push_to_hub, folder_path=output_dir, allow_patterns=files, ignore_patterns=ignored
            )
    accelerator.end_training()
