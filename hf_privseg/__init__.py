"""Privacy-preserving semantic segmentation with vision transformers, compatible with Hugging Face Transformers.

A model trained on plain images is encrypted with a secret key; a client that holds the key sends encrypted images
only. The method: Kiya et al., J. Imaging 2022, 8(9), 233. What it protects from, and what not, is said in SECURITY.md.
"""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForSemanticSegmentation

from .any_vit.encrypted_inputs import EncryptedInputs
from .any_vit.model_encryption import apply_rekey_update, decrypt_model, encrypt_model, rekey_model
from .any_vit.processor import EncryptingProcessor
from .inference.pipeline import SetrSegmentationPipeline
from .setr.client_embedding import ClientEmbedding
from .setr.configuration_setr import SetrConfig
from .setr.encrypted_image import EncryptedImage
from .setr.errors import CiphertextError, EncryptionStateError, InvalidImageError, InvalidKeyError, KeyMismatchError
from .setr.image_processing_setr import SetrImageProcessor
from .setr.keys import SecretKey
from .setr.modeling_setr import SetrForSemanticSegmentation, SetrModel
from .setr.rekey_update import RekeyUpdate

__version__ = "0.2.0.dev0"

AutoConfig.register("setr", SetrConfig, exist_ok=True)
AutoModel.register(SetrConfig, SetrModel, exist_ok=True)
AutoModelForSemanticSegmentation.register(SetrConfig, SetrForSemanticSegmentation, exist_ok=True)
AutoImageProcessor.register(SetrConfig, image_processor_classes={"torchvision": SetrImageProcessor}, exist_ok=True)

__all__ = [
    "CiphertextError",
    "ClientEmbedding",
    "EncryptedImage",
    "EncryptedInputs",
    "EncryptingProcessor",
    "EncryptionStateError",
    "InvalidImageError",
    "InvalidKeyError",
    "KeyMismatchError",
    "RekeyUpdate",
    "SecretKey",
    "SetrConfig",
    "SetrForSemanticSegmentation",
    "SetrImageProcessor",
    "SetrModel",
    "SetrSegmentationPipeline",
    "__version__",
    "apply_rekey_update",
    "decrypt_model",
    "encrypt_model",
    "rekey_model",
]
