"""Checkpoints that bring their code along, for `trust_remote_code=True` where this package is not installed."""

from ..setr.configuration_setr import SetrConfig
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.modeling_setr import SetrForSemanticSegmentation, SetrModel


def register_remote_code() -> None:
    """From now on in this process, `save_pretrained` and `push_to_hub` copy our code beside the weights.

    Save or push the model and the image processor to the same place; then `AutoModelForSemanticSegmentation`,
    `AutoModel`, `AutoConfig` and `AutoImageProcessor` load them with `trust_remote_code=True`. Without this call no
    checkpoint holds code: a copy of it would go out of date, and whoever loads it has to trust it.
    """
    SetrConfig.register_for_auto_class("AutoConfig")
    SetrModel.register_for_auto_class("AutoModel")
    SetrForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
    SetrImageProcessor.register_for_auto_class("AutoImageProcessor")
