"""Options that the paper's experiments have in common."""

from dataclasses import dataclass, field

from ..inference.windows import Inference
from ..setr.keys import FAMILIES
from ..training.arguments import DataArguments


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

    @property
    def inference(self) -> Inference:
        """The options about windows, scales and mirroring as an `Inference`."""
        return Inference(self.window, self.stride, tuple(self.scales), self.flip)
