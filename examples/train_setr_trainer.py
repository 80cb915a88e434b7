"""Trains SETR on plain images with `transformers.Trainer`, for those who use a Trainer already.

    python examples/train_setr_trainer.py --dataset data/camvid --vit path/to/vit --output_dir outputs/trainer \
        --remove_unused_columns False --num_train_epochs 12 --learning_rate 6e-5 --per_device_train_batch_size 8

All of `transformers.TrainingArguments` are options. Predictions are compared with segmentation maps at the size of the
maps. `batch_eval_metrics` counts batch by batch, so that neither logits nor predictions of the data set are kept.
"""

from dataclasses import dataclass, field

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import EvalPrediction, Trainer, TrainingArguments

from hf_privseg import SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.training.arguments import DataArguments, parse_arguments, run_script
from hf_privseg.training.augmentation import AugmentedDataset, JointAugmentation, collate
from hf_privseg.training.label_map import LabelMap
from hf_privseg.training.metrics import MeanIoU
from hf_privseg.training.rows import read_row


@dataclass(kw_only=True)
class Arguments(DataArguments):
    """The options of the script besides TrainingArguments."""

    vit: str = field(metadata={"help": "Pretrained HF ViT (folder or Hub id) to start from."})
    num_channels: int = field(default=3, metadata={"help": "Channels of the images, for example 1 for grey ones."})
    decoder: str = field(default="naive", metadata={"help": "naive, pup or mla."})
    resize_factor: float = field(default=1.0, metadata={"help": "Up-sampling of images before they are patched."})
    crop_size: int = field(default=512, metadata={"help": "Side of training crops in pixels, a multiple of 16."})


class EvaluationDataset(Dataset):
    """A data set of whole images on the patch grid, with segmentation maps at their own size."""

    def __init__(self, rows: datasets.Dataset, processor: SetrImageProcessor, label_map: LabelMap):
        self.rows, self.processor, self.label_map = rows, processor, label_map

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        levels, labels = read_row(self.rows, index, self.label_map, self.processor.num_channels)
        pixel_values = self.processor(levels, return_tensors="pt").pixel_values[0]
        return {"pixel_values": pixel_values, "labels": torch.from_numpy(labels)}


def predicted_maps(outputs, labels: torch.Tensor) -> torch.Tensor:
    """Logits -> predictions `(batch, height, width)` at the size of the labels."""
    logits = outputs[0] if isinstance(outputs, tuple) else outputs
    return torch.nn.functional.interpolate(logits, size=labels.shape[-2:], mode="bilinear").argmax(dim=1)


class StreamingMetric:
    """A `compute_metrics` for `batch_eval_metrics=True` that counts each batch and computes with the last one."""

    def __init__(self, num_labels: int):
        self.metric = MeanIoU(num_labels)

    def __call__(self, batch: EvalPrediction, compute_result: bool = False) -> dict[str, float]:
        self.metric.add_batch(predictions=np.asarray(batch.predictions), references=np.asarray(batch.label_ids))
        if not compute_result:
            return {}
        result = self.metric.compute()
        return {name: float(result[name]) for name in ("mean_iou", "mean_accuracy", "overall_accuracy")}


def main() -> None:
    arguments, training = parse_arguments(Arguments, TrainingArguments, description=__doc__)
    training.batch_eval_metrics, training.per_device_eval_batch_size = True, 1
    id2label = arguments.load_class_names()
    model = SetrForSemanticSegmentation.from_vit(
        arguments.vit,
        decoder=arguments.decoder,
        id2label=id2label,
        num_channels=arguments.num_channels,
    )
    rows = {name: arguments.load_split(name) for name in ("train", "val")}
    quiet = training.process_index > 0
    maps = {name: arguments.inspect_labels(name, split, id2label, quiet=quiet)[0] for name, split in rows.items()}
    processor = SetrImageProcessor(
        resize_factor=arguments.resize_factor,
        patch_size=model.config.patch_size,
        num_channels=model.config.num_channels,
        ignore_index=maps["train"].ignore_index,
    )
    augmentation = JointAugmentation(arguments.crop_size, arguments.resize_factor, num_channels=arguments.num_channels)
    trainer = Trainer(
        model=model,
        args=training,
        train_dataset=AugmentedDataset(rows["train"], augmentation, maps["train"], seed=training.seed),
        eval_dataset=EvaluationDataset(rows["val"], processor, maps["val"]),
        data_collator=collate,
        processing_class=processor,
        compute_metrics=StreamingMetric(len(id2label)),
        preprocess_logits_for_metrics=predicted_maps,
    )
    trainer.train()
    trainer.save_model()
    print(trainer.evaluate())


if __name__ == "__main__":
    run_script(main)
