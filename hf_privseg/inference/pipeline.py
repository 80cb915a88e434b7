"""The image-segmentation pipeline for encrypted models: encrypts plain images on their way in, takes encrypted ones.

The pipeline of transformers works with a plain model. It ignores a `secret_key` without a word, gives a plain image to
an encrypted model, and refuses an `EncryptedImage` ("Incorrect format used for image") without saying what takes it.
This one takes both, and checks:

    pipeline("image-segmentation", model=name, pipeline_class=SetrSegmentationPipeline)(image, secret_key=key)
"""

from typing import Any, cast

import torch
from PIL import Image
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.pipelines.image_segmentation import ImageSegmentationPipeline

from ..setr.encrypted_image import is_encrypted_image
from ..setr.encryption_key import EncryptionKey, as_encryption_key
from ..setr.image_encrypter import AnyImage
from ..setr.image_inputs import PlainImage
from ..setr.image_processing_setr import SetrImageProcessor
from ..setr.modeling_setr import SetrForSemanticSegmentation
from ..setr.public_facts import check_image_fits, check_plain_image_fits, check_processor_fits
from .segmentation import MAX_MAP_PIXELS, check_map_size
from .windows import logits_of


class SetrSegmentationPipeline(ImageSegmentationPipeline):
    """Images, plain or encrypted -> a list `[{"label", "mask", "score"}, ...]` each, one entry a class in the image.

    A mask is a PIL image of mode L and the image's size, 255 where the class is. The score is None, as in the stock
    pipeline for semantic segmentation.

    `pipeline(images, secret_key=key)` encrypts with the model's key; an `EncryptedImage` needs none. What does not fit
    together is refused before the model sees it: a plain image without a key for an encrypted model, a key or an
    encrypted image for a plain model, and those of another key. `pipeline(images, max_pixels=n)` changes how large an
    encrypted image may claim that its segmentation map is.

    Args:
        *args, **kwargs: as for `ImageSegmentationPipeline`: model, image_processor, device, ...

    Raises:
        TypeError: `secret_key` is among the arguments.
        ValueError: the image processor has another patch size or other channels than the model.
    """

    model: SetrForSemanticSegmentation
    image_processor: SetrImageProcessor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "secret_key" in kwargs:
            raise TypeError(
                "secret_key is no setting of a pipeline, which would keep it; pass it to the call: "
                "pipeline(images, secret_key=key)"
            )
        super().__init__(*args, **{"task": "image-segmentation"} | kwargs)
        check_processor_fits(self.image_processor, self.model.config)

    def _sanitize_parameters(
        self, secret_key: EncryptionKey | bytes | None = None, max_pixels: int | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        if secret_key is not None:
            preprocess["secret_key"] = as_encryption_key(secret_key)
        if max_pixels is not None:
            preprocess["max_pixels"] = max_pixels
        return preprocess, forward, postprocess

    def preprocess(  # type: ignore[override] # as in the stock pipeline, the parameters have names
        self,
        image: AnyImage,
        subtask: str | None = None,
        secret_key: EncryptionKey | None = None,
        max_pixels: int = MAX_MAP_PIXELS,
    ) -> dict[str, Any]:
        """One image of any kind that the processor takes -> the model's input, and the sizes for later.

        Raises:
            EncryptionStateError: a plain image without a key for an encrypted model; a key or a ciphertext for a plain
                one.
            KeyMismatchError: the key, or that of the ciphertext, is not the model's.
            CiphertextError: encrypted in blocks of another size, or of a larger map than `max_pixels`.
        """
        config, processor = self.model.config, self.image_processor
        # Not cast to the model's dtype: the projection is in float32, and rounding a ciphertext to 16 bits costs more
        # than the rest of the network does.
        if is_encrypted_image(image):
            check_image_fits(image, config.key_facts, config.patch_size, config.num_channels)
            check_map_size(image, max_pixels)
            inputs = processor(image, secret_key=secret_key, return_tensors="pt")
            return {**inputs, "target_size": [image.original_size], "valid_region": [image.valid_region]}
        check_plain_image_fits(None if secret_key is None else secret_key.facts, config.key_facts)
        levels = processor.to_levels(cast(PlainImage, image))
        inputs = processor(levels, secret_key=secret_key, return_tensors="pt", input_data_format="channels_first")
        return {**inputs, "target_size": [tuple(levels.shape[-2:])], "valid_region": [None]}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        sizes = {name: model_inputs[name] for name in ("target_size", "valid_region")}
        return {"logits": logits_of(self.model, model_inputs["pixel_values"]), **sizes}

    def postprocess(  # type: ignore[override]
        self, model_outputs: dict[str, Any], subtask: str | None = None, **thresholds: Any
    ) -> list[dict[str, Any]]:
        """Logits and sizes of one image -> its masks. `thresholds` are for other tasks, as in the stock pipeline.

        Raises:
            ValueError: a `subtask` other than "semantic".
        """
        if subtask not in ("semantic", None):
            raise ValueError(f"SETR does semantic segmentation, got subtask={subtask!r}; leave it out")
        valid_regions = model_outputs["valid_region"]
        (segmentation,) = self.image_processor.post_process_semantic_segmentation(
            SemanticSegmenterOutput(logits=model_outputs["logits"]),
            target_sizes=model_outputs["target_size"],
            valid_regions=None if None in valid_regions else valid_regions,
        )
        names = cast("dict[int, str]", self.model.config.id2label)
        return [
            {
                "score": None,
                "label": names[index],
                "mask": Image.fromarray((segmentation == index).to(torch.uint8).mul(255).numpy()),
            }
            for index in segmentation.unique().tolist()
        ]


__all__ = ["SetrSegmentationPipeline"]
