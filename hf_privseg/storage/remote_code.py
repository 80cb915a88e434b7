"""Checkpoints that carry their code, for people who load them with `trust_remote_code=True` without this package."""

from ..setr.configuration_setr import SetrConfig
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.modeling_setr import SetrForSemanticSegmentation, SetrModel


def register_remote_code() -> None:
    """Make `save_pretrained` and `push_to_hub` copy the files of `hf_privseg/setr` beside the weights.

    It holds for this process, from the call on. Save the model and the image processor to the same folder:
    `AutoModelForSemanticSegmentation`, `AutoModel`, `AutoConfig` and `AutoImageProcessor` then load them with
    `trust_remote_code=True`. Without this call no checkpoint holds code, since a copy goes out of date and whoever
    loads it has to trust it.
    """
    SetrConfig.register_for_auto_class("AutoConfig")
    SetrModel.register_for_auto_class("AutoModel")
    SetrForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")
    SetrImageProcessor.register_for_auto_class("AutoImageProcessor")
