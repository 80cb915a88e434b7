"""The options of `privseg evaluate`. Nothing here needs torch, so that help and mistakes cost little."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..training.arguments import parse_arguments
from .arguments import ExperimentArguments, model_sources

DESCRIPTION = """Measure the mIoU of models on a labelled data set and, with --encrypted, of their encrypted copies.

    privseg evaluate MODEL --dataset data/camvid --preset camvid --output-dir outputs/mine
    privseg evaluate naive=PATH mla=PATH --dataset data/camvid --preset camvid --output-dir outputs/two
    privseg evaluate MODEL --dataset path/to/cityscapes --preset cityscapes --split val --window 768 --stride 512 \\
        --scales 0.5 0.75 1 1.25 1.5 1.75 --flip --output-dir outputs/multi_scale
    privseg evaluate MODEL --dataset data/camvid --preset camvid --encrypted --families orthogonal --output-dir ...
    accelerate launch -m hf_privseg.cli evaluate MODEL --dataset ...

MODEL is a folder, a Hub id or "default", the embedded checkpoint; several are given as NAME=MODEL. It is a SETR, or of
any other class that can be encrypted and whose processor does semantic segmentation.

The whole image is segmented by default. --window cuts windows of it, as the published models are evaluated; --scales
and --flip average the softmax probabilities of resized and mirrored views, as mmsegmentation's SegTTAModel does.
Windows, scales and mirroring are for SETR; other models prepare an image as their processor says.

--encrypted adds what the paper compares (Kiya et al. 2022, Table 1), for every key family in --families:

    correct K  model and image encrypted with one key: the accuracy must be the plain model's
    No-Enc     encrypted model, plain image: must be useless
    random K'  encrypted model, image encrypted with another key: must be useless

The keys are seeded, so that the same command gives the same table. The output folder gets results.json, results.csv
(one row a condition) and results.md. When the command is given again, a killed run goes on, in the middle of a
condition too; models, --encrypted and families may be added then. Several processes share the images.

Options may be written with hyphens or underscores. The extra `train` is needed: pip install 'hf-privseg[train]'.
"""


@dataclass(kw_only=True)
class EvaluationArguments(ExperimentArguments):
    """The options of an evaluation."""

    output_dir: str = field(metadata={"help": "Where results.json, results.csv and results.md go."})
    encrypted: bool = field(
        default=False, metadata={"help": "Also measure encrypted copies, with the right key, none, and a wrong one."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.model and not self.models:
            raise ValueError("expected MODEL first: a folder, a Hub id, or default for the embedded checkpoint")
        model_sources(self)


def evaluation_arguments(words: Sequence[str], prog: str) -> EvaluationArguments:
    """The command line, which begins with one model or several, each NAME=MODEL -> the options."""
    count = next((index for index, word in enumerate(words) if word.startswith("-")), len(words))
    models = list(words[:count])
    option = ["--models"] if len(models) > 1 or any("=" in model for model in models) else ["--model"]
    given = [*(option if models else []), *models, *words[count:]]
    return parse_arguments(EvaluationArguments, description=DESCRIPTION, given=given, prog=prog)
