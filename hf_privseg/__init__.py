"""Privacy-preserving semantic segmentation with vision transformers, compatible with Hugging Face Transformers.

A model trained on plain images is encrypted with a secret key; a client that holds the key sends encrypted images
only. The method: Kiya et al., J. Imaging 2022, 8(9), 233. What it protects from, and what not, is said in SECURITY.md.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .auto_classes import watch

if TYPE_CHECKING:
    from .any_vit.encrypted_inputs import EncryptedInputs
    from .any_vit.model_encryption import apply_rekey_update, decrypt_model, encrypt_model, rekey_model
    from .any_vit.processor import EncryptingProcessor
    from .inference.checked_inputs import inputs_for
    from .inference.pipeline import SetrSegmentationPipeline
    from .setr.block_cipher import BlockCipher, DenseCipher
    from .setr.ciphers import register_cipher
    from .setr.client_embedding import ClientEmbedding
    from .setr.configuration_setr import SetrConfig
    from .setr.encrypted_image import EncryptedImage
    from .setr.errors import (
        CiphertextError,
        EncryptionStateError,
        InvalidImageError,
        InvalidKeyError,
        KeyMismatchError,
    )
    from .setr.image_processing_setr import SetrImageProcessor
    from .setr.keys import SecretKey
    from .setr.modeling_setr import SetrForSemanticSegmentation, SetrModel
    from .setr.rekey_update import RekeyUpdate

__version__ = "0.2.0.dev0"

__all__ = [
    "BlockCipher",
    "CiphertextError",
    "ClientEmbedding",
    "DenseCipher",
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
    "inputs_for",
    "register_cipher",
    "rekey_model",
]

# Each name is imported when it is first used: keys and encrypted images need no torch, which takes seconds to import.
_MODULES = {
    "BlockCipher": "setr.block_cipher",
    "CiphertextError": "setr.errors",
    "ClientEmbedding": "setr.client_embedding",
    "DenseCipher": "setr.block_cipher",
    "EncryptedImage": "setr.encrypted_image",
    "EncryptedInputs": "any_vit.encrypted_inputs",
    "EncryptingProcessor": "any_vit.processor",
    "EncryptionStateError": "setr.errors",
    "InvalidImageError": "setr.errors",
    "InvalidKeyError": "setr.errors",
    "KeyMismatchError": "setr.errors",
    "RekeyUpdate": "setr.rekey_update",
    "SecretKey": "setr.keys",
    "SetrConfig": "setr.configuration_setr",
    "SetrForSemanticSegmentation": "setr.modeling_setr",
    "SetrImageProcessor": "setr.image_processing_setr",
    "SetrModel": "setr.modeling_setr",
    "SetrSegmentationPipeline": "inference.pipeline",
    "apply_rekey_update": "any_vit.model_encryption",
    "decrypt_model": "any_vit.model_encryption",
    "encrypt_model": "any_vit.model_encryption",
    "inputs_for": "inference.checked_inputs",
    "register_cipher": "setr.ciphers",
    "rekey_model": "any_vit.model_encryption",
}

watch()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"{name} needs {error.name}, which is not installed: pip install 'hf-privseg[models]'"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
