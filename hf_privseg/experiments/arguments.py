"""Options that the paper's experiments have in common."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..checkpoints import default_checkpoint
from ..setr.keys import FAMILIES
from ..training.arguments import DataArguments

if TYPE_CHECKING:
    from ..inference.windows import Inference


@dataclass(kw_only=True)
class ExperimentArguments(DataArguments):
    """Options of the paper's experiments: plain models, images to evaluate them on, families and keys."""

    split: str = field(default="test", metadata={"help": "Split to evaluate."})
    model: str | None = field(default=None, metadata={"help": "Plain checkpoint. Default: the embedded one."})
    models: list[str] = field(
        default_factory=list, metadata={"help": "Several plain checkpoints instead: naive=PATH pup=PATH mla=PATH."}
    )
    id2label: str | None = field(
        default=None,
        metadata={"help": "JSON file {id: name}; the models' classes must be these. Default: the models' classes."},
    )
    families: list[str] = field(default_factory=lambda: list(FAMILIES), metadata={"help": "Key families."})
    limit: int | None = field(default=None, metadata={"help": "Evenly spaced images to use. Default: all."})
    seed: int = field(default=0, metadata={"help": "Seed of the experiment's keys (not for private images)."})
    window: int | None = field(default=None, metadata={"help": "Side of sliding windows. Default: the whole image."})
    stride: int | None = field(default=None, metadata={"help": "Their stride. Default: two thirds of their side."})
    scales: list[float] = field(default_factory=lambda: [1.0], metadata={"help": "Sizes to average over, relative."})
    flip: bool = field(default=False, metadata={"help": "Average over the mirrored image too."})
    cpu: bool = field(default=False, metadata={"help": "Use the CPU even where there is a GPU."})

    def __post_init__(self) -> None:
        unknown = sorted(set(self.families) - set(FAMILIES))
        if unknown:
            raise ValueError(f"expected --families among {', '.join(FAMILIES)}, got {', '.join(unknown)}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"expected --limit to be a number of images of at least 1, got {self.limit}")
        if self.stride is not None and self.window is None:
            raise ValueError(f"expected --stride together with --window, got --stride {self.stride} alone")
        if self.stride is not None and self.window is not None and not 1 <= self.stride <= self.window:
            raise ValueError(
                f"expected --stride of 1 to --window {self.window}, which leaves no gap, got --stride {self.stride}"
            )
        if not self.scales or not all(0 < scale < float("inf") for scale in self.scales):
            raise ValueError(f"expected --scales to be positive numbers, such as 0.5 1, got {self.scales}")

    @property
    def inference(self) -> "Inference":
        """The options about windows, scales and mirroring as an `Inference`."""
        from ..inference.windows import Inference

        return Inference(self.window, self.stride, tuple(self.scales), self.flip)


def model_sources(args: ExperimentArguments) -> dict[str, str]:
    """The options --model and --models -> {name: folder or Hub id}; one model without a name is called "".

    Raises:
        ValueError: both options, an entry without a name, or one name twice.
    """
    if args.models and args.model:
        raise ValueError("expected either --model or --models, got both")
    if not args.models:
        return {"": _found(args.model or "default")}
    pairs = [entry.partition("=") for entry in args.models]
    names = [name for name, _, _ in pairs]
    if not all(name and path for name, _, path in pairs) or len(set(names)) < len(names):
        raise ValueError(
            f"expected --models to be different names with their paths, as in naive=PATH mla=PATH, got {args.models}"
        )
    return {name: _found(path) for name, _, path in pairs}


def _found(source: str) -> str:
    return str(default_checkpoint()) if source == "default" else source
