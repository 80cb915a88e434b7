"""The image-segmentation pipeline for encrypted models: encrypts photos on their way in, and takes ciphertexts as is.

The stock pipeline works with a plain model, but silently ignores a `secret_key`. This one takes it with the call.
"""

from typing import Any

import numpy as np
from PIL import Image
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.pipelines.image_segmentation import ImageSegmentationPipeline

from ..setr.encrypted_image import is_encrypted_image
from ..setr.encryption_key import EncryptionKey, as_encryption_key
from ..setr.image_inputs import flat_images, image_to_levels
from ..setr.public_facts import check_image_fits, check_plain_image_fits


class SetrSegmentationPipeline(ImageSegmentationPipeline):
    """Photos or encrypted images -> a list `[{"label", "mask", "score"}, ...]` each, one entry a class in the image.

    A mask is a PIL image of mode L and the photo's size, 255 where the class is. The score is None, as in the stock
    pipeline for semantic segmentation.

    `pipeline(images, secret_key=key)` encrypts with the model's key; an `EncryptedImage` needs none. What does not fit
    together is refused before the model sees it: a photo without a key for an encrypted model, a key or an encrypted
    image for a plain model, and those of another key.

    Args:
        *args, **kwargs: as for `ImageSegmentationPipeline`: model, image_processor, device, ...

    Raises:
        TypeError: `secret_key` is among the arguments.
    """

    model: Any
    image_processor: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "secret_key" in kwargs:
            raise TypeError(
                "secret_key is no setting of a pipeline, which would keep it; pass it to the call: "
                "pipeline(images, secret_key=key)"
            )
        super().__init__(*args, **{"task": "image-segmentation"} | kwargs)

    def _sanitize_parameters(
        self, secret_key: EncryptionKey | bytes | None = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        if secret_key is not None:
            preprocess["secret_key"] = as_encryption_key(secret_key)
        return preprocess, forward, postprocess

    def preprocess(  # type: ignore[override] # as in the stock pipeline, the parameters have names
        self, image: Any, subtask: str | None = None, secret_key: EncryptionKey | None = None
    ) -> dict[str, Any]:
        """One photo (whatever the processor takes) or `EncryptedImage` -> the model's input, and the sizes for later.

        Raises:
            EncryptionStateError: a photo without a key for an encrypted model; a key or a ciphertext for a plain one.
            KeyMismatchError: the key, or that of the ciphertext, is not the model's.
            CiphertextError: encrypted in blocks of another size.
        """
        config = self.model.config
        if is_encrypted_image(image):
            check_image_fits(image, config.key_facts, config.patch_size)
            target_size, valid_region = image.original_size, image.valid_region
        else:
            check_plain_image_fits(None if secret_key is None else secret_key.facts, config.key_facts)
            (plain,) = flat_images(image)
            image = image_to_levels(plain)
            target_size, valid_region = tuple(image.shape[-2:]), None
        # Not cast to the model's dtype: the projection is in float32, and rounding a ciphertext to 16 bits costs more
        # than the rest of the network does.
        inputs = self.image_processor(images=[image], secret_key=secret_key, return_tensors="pt")
        return {**inputs, "target_size": [target_size], "valid_region": [valid_region]}

    def _forward(self, model_inputs: dict[str, Any]) -> Any:  # type: ignore[override]
        sizes = {name: model_inputs.pop(name) for name in ("target_size", "valid_region")}
        return {"logits": self.model(**model_inputs).logits, **sizes}

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
        return [
            {
                "score": None,
                "label": self.model.config.id2label[index],
                "mask": Image.fromarray(((segmentation == index) * 255).numpy().astype(np.uint8)),
            }
            for index in segmentation.unique().tolist()
        ]


__all__ = ["SetrSegmentationPipeline"]
