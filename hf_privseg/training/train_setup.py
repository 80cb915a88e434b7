"""What a training starts with: its processes, its data, its model and its batches."""

import math
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch.utils.data import DataLoader, Dataset

from ..setr.configuration_setr import SetrConfig
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.modeling_setr import SetrForSemanticSegmentation
from .augmentation import AugmentedDataset, AugmentedStream, JointAugmentation, collate
from .data import evenly_spaced
from .fresh_weights import reinitialize, whiten_embedding
from .grid_crops import GridCrops
from .label_map import LabelMap
from .label_statistics import LabelStatistics
from .rows import check_encryption
from .train_arguments import ENCODERS, TrainArguments

WHITENING_IMAGES = 64  # of the training split, whose blocks a whitened patch embedding is made for


def start_accelerator(args: TrainArguments) -> Accelerator:
    """The processes, devices and precision that `accelerate launch` or the options ask for; everything is seeded."""
    accelerator = Accelerator(
        cpu=args.cpu,
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        log_with="tensorboard",
        project_dir=args.output_dir,
        step_scheduler_with_optimizer=False,
    )
    accelerator.init_trackers("tensorboard")
    set_seed(args.seed)
    return accelerator


@dataclass
class Data:
    """Both splits with their label maps, the names of the classes, and how often each occurs in training.

    Args:
        names: {class: name}.
        train: the split to train on.
        train_map: turns its stored labels into classes.
        statistics: of its classes.
        validation: the split to choose the best checkpoint on.
        validation_map: turns its stored labels into classes.
    """

    names: dict[int, str]
    train: datasets.Dataset | datasets.IterableDataset
    train_map: LabelMap
    statistics: LabelStatistics
    validation: datasets.Dataset
    validation_map: LabelMap


def open_data(args: TrainArguments, accelerator: Accelerator) -> Data:
    """Open both splits and look at their labels."""
    names, quiet = args.load_class_names(), not accelerator.is_main_process
    train = args.load_split(args.train_split, streaming=args.streaming)
    train_map, statistics = args.inspect_labels(args.train_split, train, names, quiet=quiet)
    validation = args.load_split(args.eval_split)
    validation_map, _ = args.inspect_labels(args.eval_split, validation, names, quiet=quiet)
    return Data(names, train, train_map, statistics, validation, validation_map)


@dataclass
class Start:
    """The model before training.

    Args:
        model: with random parts.
        processor: its processor.
        fresh: names of the encoder's parameters that are random.
    """

    model: SetrForSemanticSegmentation
    processor: SetrImageProcessor
    fresh: list[str]


def build_start(args: TrainArguments, data: Data) -> Start:
    """The model that the options ask for, and its processor.

    Raises:
        EncryptionStateError, KeyMismatchError: the data are not encrypted as the model is.
        ValueError: channels, sizes or layers that do not fit.
    """
    model = _build_model(args, data.names)
    for rows in (data.train, data.validation):
        check_encryption(rows, model.config.key_facts)
    fresh = reinitialize(model, embedding=args.fresh_embedding is not None, num_layers=args.fresh_layers)
    if args.from_scratch:
        fresh = [name for name, _ in model.named_parameters()]
    processor = SetrImageProcessor(
        resize_factor=args.resize_factor,
        patch_size=model.config.patch_size,
        num_channels=model.config.num_channels,
        ignore_index=data.train_map.ignore_index,
    )
    if args.fresh_embedding == "whitened":
        rows = data.train.take(WHITENING_IMAGES) if args.streaming else evenly_spaced(data.train, WHITENING_IMAGES)
        whiten_embedding(model, (processor(row["image"], return_tensors="pt")["pixel_values"] for row in rows))
    return Start(model, processor, fresh)


def _build_model(args: TrainArguments, id2label: dict[int, str]) -> SetrForSemanticSegmentation:
    """A ViT with a random decoder, an existing SETR, whose decoder is random if its type or classes change, or all
    at random."""
    fields: dict[str, Any] = {
        name: getattr(args, name) for name in ("use_auxiliary_head", "drop_path_rate", "use_cls_token")
    }
    fields |= {"decoder_type": args.decoder or "naive", "id2label": id2label}
    fields["label2id"] = None  # follows from id2label
    fields["semantic_loss_ignore_index"] = None  # as the number of classes asks for
    palette = args.load_palette()
    if palette is not None:
        fields["palette"] = [list(colour) for colour in palette]
    if args.vit:
        return SetrForSemanticSegmentation.from_vit(args.vit, **fields, num_channels=args.num_channels or 3)
    if args.from_scratch:
        width, layers, heads = ENCODERS[args.from_scratch]
        fields |= {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
        fields |= {"intermediate_size": 4 * width, "image_size": args.crop_size}
        return SetrForSemanticSegmentation(SetrConfig(**fields, num_channels=args.num_channels or 3))
    config = SetrConfig.from_pretrained(str(args.checkpoint))
    if args.num_channels not in (None, config.num_channels):
        raise ValueError(
            f"expected --num-channels {config.num_channels}, as {args.checkpoint} has, got {args.num_channels}; "
            "images of other channels need a model that starts with --vit or --from-scratch"
        )
    fields["decoder_type"] = args.decoder or config.decoder_type
    fields["use_cls_token"] = config.use_cls_token if args.use_cls_token is None else args.use_cls_token
    replaced = {"out_indices", "auxiliary_num_stages"} if config.decoder_type != fields["decoder_type"] else set()
    replaced |= {"palette"} if config.id2label != id2label else set()
    kept = {name: value for name, value in config.to_dict().items() if name not in replaced}
    return SetrForSemanticSegmentation.from_pretrained(
        args.checkpoint, config=SetrConfig(**(kept | fields)), ignore_mismatched_sizes=True, dtype=torch.float32
    )


def build_loader(args: TrainArguments, data: Data, processor: SetrImageProcessor, config: SetrConfig) -> DataLoader:
    """Shuffled, augmented batches; the order and each sample depend on the seed and the epoch alone.

    Args:
        args: the options.
        data: the training split.
        processor: the model's.
        config: the model's, whose key encrypts the data, too.
    """
    key = config.key_facts
    scale_range = args.scale_range[0], args.scale_range[1]
    if args.grid_crops or key is not None:
        augmentation: GridCrops | JointAugmentation = GridCrops(processor, args.crop_size)
    else:
        augmentation = JointAugmentation(
            args.crop_size, args.resize_factor, scale_range, num_channels=processor.num_channels
        )
    given: dict[str, Any] = {"augmentation": augmentation, "label_map": data.train_map, "seed": args.seed, "key": key}
    is_stored = isinstance(data.train, datasets.Dataset)
    if is_stored:
        dataset: Dataset = AugmentedDataset(data.train, **given)
    else:
        dataset = AugmentedStream(data.train, **given, buffer_size=args.shuffle_buffer)
    return DataLoader(
        dataset,
        args.batch_size,
        drop_last=True,
        collate_fn=collate,
        num_workers=args.num_workers,
        shuffle=is_stored or None,
        generator=torch.Generator().manual_seed(args.seed),
    )


def total_updates(args: TrainArguments, loader: DataLoader, batches: int) -> int:
    """The number of updates of so many batches: --max-steps, or that of --epochs passes over the data."""
    if args.max_steps is not None:
        return args.max_steps
    # At least one, so that the loop starts and reports an empty loader.
    return max(math.ceil(len(loader) / batches) * args.epochs, 1)
