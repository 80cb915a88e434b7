"""The options of `privseg train`. Nothing here needs torch, so that help and mistakes cost little."""

from dataclasses import asdict, dataclass, field

from .arguments import DataArguments, OptimizationArguments

DESCRIPTION = """Train SETR on your own images, in one process or several, on CPUs or GPUs.

    privseg train --dataset data/mine --from-scratch small --output-dir outputs/setr
    privseg train --dataset data/mine --vit path/to/vit --output-dir outputs/setr
    privseg train --dataset path/to/cityscapes --preset cityscapes --crop-size 768 --vit ...
    privseg train --dataset path/to/ADEChallengeData2016 --preset ade20k --train-split training \\
        --eval-split validation --vit ...
    accelerate launch -m hf_privseg.cli train ...
    torchrun --standalone --nproc_per_node 2 -m hf_privseg.cli train --cpu ...

A data set is a folder with images/<split> and annotations/<split>, whose files have the same stems
(--annotation-pattern describes other names), or whatever `datasets` loads. Segmentation maps are as large as their
images and in a lossless format. The names of the classes come from --preset, --id2label or the folder's classes.json.
Before anything is trained, the classes in a sample of both splits are counted and printed, and what looks wrong is a
warning. Segmentation maps of 0 and 255, for example, need --label-map FILE with {"0": 0, "255": 1}, because 255
otherwise stands for pixels without a class. Images of other than three channels, grey ones or TIFF files of one page a
channel, need --num-channels.

The model starts from --vit, a pretrained ViT; from --checkpoint, a SETR; or --from-scratch, all of it drawn at random,
which needs far more images and updates. --fresh-embedding and --fresh-layers draw parts of a given encoder anew, which
then learn as fast as the decoder, so that no public patch embedding is near the model's.

The trained model is plain. `privseg encrypt-model` encrypts it afterwards, without further training.

An encrypted checkpoint is trained on ciphertexts of its key, which `privseg encrypt-dataset` makes, without the key.
`privseg decrypt-model` gives the plain model afterwards. Of the augmentation crops on the patch grid remain.

When the same command is given again, a run that was stopped goes on from its last checkpoint, and ends with the
weights of an uninterrupted run; other options are refused there. The output folder then holds the final model, `best`
(the highest validation mIoU), `checkpoints`, TensorBoard logs and log.jsonl.

Options may be written with hyphens or underscores. Training needs the extra `train`: pip install 'hf-privseg[train]'.
"""

# ViT encoders (Dosovitskiy et al., ICLR 2021, and Touvron et al., ICML 2021): width, layers, heads.
ENCODERS = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}

# What may differ when a run goes on, on another machine too.
_FREE = (
    *("output_dir", "mixed_precision", "checkpoint_every", "num_workers", "cpu"),
    *("eval_every", "half_weights", "push_to_hub", "hub_private"),
)


@dataclass(kw_only=True)
class TrainArguments(OptimizationArguments, DataArguments):
    """The options of a training."""

    output_dir: str = field(metadata={"help": "Where the model, checkpoints and logs go."})
    vit: str | None = field(default=None, metadata={"help": "Pretrained HF ViT (folder or Hub id) to start from."})
    checkpoint: str | None = field(default=None, metadata={"help": "SETR checkpoint to start from instead."})
    from_scratch: str | None = field(
        default=None,
        metadata={
            "help": "Start from random weights instead: an encoder of the size of ViT-Ti/16, ViT-S/16, ViT-B/16 or "
            "ViT-L/16.",
            "choices": list(ENCODERS),
        },
    )

    train_split: str = field(default="train", metadata={"help": "Split to train on."})
    eval_split: str = field(default="val", metadata={"help": "Split to choose the best checkpoint on."})
    streaming: bool = field(default=False, metadata={"help": "Fetch training images one by one; needs --max-steps."})
    shuffle_buffer: int = field(default=1000, metadata={"help": "Rows that a streamed data set is shuffled within."})

    num_channels: int | None = field(
        default=None, metadata={"help": "Channels of the images. Default: those of --checkpoint, or 3."}
    )
    decoder: str | None = field(
        default=None,
        metadata={"help": "The decoder. Default: that of --checkpoint, or naive.", "choices": ["naive", "pup", "mla"]},
    )
    use_cls_token: bool | None = field(default=None, metadata={"help": "Keep the class token. Default: as published."})
    use_auxiliary_head: bool = field(default=True, metadata={"help": "Auxiliary losses on intermediate layers."})
    fresh_embedding: str | None = field(
        default=None,
        metadata={
            "help": "Draw patch and position embeddings anew, far from those of the weights given: random as "
            "transformers are initialised, or whitened, at random with equal variance in every direction.",
            "choices": ["random", "whitened"],
        },
    )
    fresh_layers: int = field(default=0, metadata={"help": "Draw so many of the encoder's first layers, too."})
    drop_path_rate: float = field(default=0.1, metadata={"help": "Stochastic depth of the last layer."})

    resize_factor: float = field(default=1.0, metadata={"help": "Up-sampling of images before they are patched."})
    crop_size: int = field(default=512, metadata={"help": "Side of training crops in pixels, a multiple of 16."})
    grid_crops: bool = field(
        default=False,
        metadata={"help": "Augment by crops on the patch grid alone. Ciphertexts allow nothing else in any case."},
    )
    scale_range: list[float] = field(default_factory=lambda: [0.5, 2.0], metadata={"help": "Random scale, relative."})

    max_steps: int | None = field(default=None, metadata={"help": "Updates in all, instead of epochs."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Batches that make one update."})

    eval_every: int = field(default=4, metadata={"help": "Epochs between evaluations."})
    seed: int = field(default=0, metadata={"help": "Seed of initial heads, order and augmentation."})
    half_weights: bool = field(default=True, metadata={"help": "Store final weights as fp16 (loaded as fp32)."})
    push_to_hub: str | None = field(default=None, metadata={"help": "Hub repository (owner/name) for the result."})
    hub_private: bool = field(
        default=True, metadata={"help": "Create it as private. Whoever reads the plain model can invert ciphertexts."}
    )

    def definition(self) -> dict[str, object]:
        """The options that decide which weights come out, as JSON has them; a run that goes on keeps them."""
        return {name: value for name, value in asdict(self).items() if name not in _FREE}

    def __post_init__(self) -> None:
        starts = {"--vit": self.vit, "--checkpoint": self.checkpoint, "--from-scratch": self.from_scratch}
        given = [option for option, value in starts.items() if value]
        if len(given) != 1:
            raise ValueError(
                "expected one of --vit (a pretrained ViT), --checkpoint (a SETR) and --from-scratch (random weights), "
                f"got {' and '.join(given) or 'none of them'}"
            )
        if self.from_scratch and self.fresh_layers:
            raise ValueError(
                "expected --fresh-layers with --vit or --checkpoint alone, got it with --from-scratch, which draws "
                "all layers; leave it out"
            )
        if self.streaming and self.max_steps is None:
            raise ValueError("a streamed data set does not know its length: give --max-steps, the number of updates")
