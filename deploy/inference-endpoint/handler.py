"""An encrypted SETR as a Hugging Face Inference Endpoint: copy this folder's files into the model's repository.

The endpoint takes JSON, {"inputs": the file of an encrypted image in base64}, and answers with
{"segmentation_map": an indexed PNG in base64, "height", "width", "shares"}. It has no key and sees no plain image. The
endpoint's own reading of images would drop the header of an encrypted one; base64 passes through.
"""

import base64
import binascii
import json
from typing import Any

from hf_privseg.service import SegmentationService
from hf_privseg.service.answers import JSON, PNG, encoded
from hf_privseg.storage.models import load_model


class EndpointHandler:
    """What the endpoint loads: the model's service, in one process.

    Args:
        path: the folder of the encrypted model.
    """

    def __init__(self, path: str = "") -> None:
        self._service = SegmentationService(*load_model(path or "."))

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """{"inputs": base64 text or bytes} -> the segmentation map and the share of each class.

        Raises:
            ValueError: the input is no encrypted image of the model's key; the endpoint answers with status 400.
        """
        image = self._service.segment(_content(data.get("inputs")))
        answer: dict[str, Any] = json.loads(encoded(image, JSON, self._service))
        return {**answer, "segmentation_map": base64.b64encode(encoded(image, PNG, self._service)).decode()}


def _content(inputs: Any) -> bytes:
    if isinstance(inputs, bytes):
        return inputs
    try:
        return base64.b64decode(inputs, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise ValueError(
            'expected {"inputs": the file of an encrypted image in base64}, got something else; privseg encrypt makes '
            "such files"
        ) from None
