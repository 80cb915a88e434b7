"""The conventional method that the paper compares with: a convolutional network and block ciphers (Table 2).

The network is trained and tested on encrypted images, where SETR is trained on plain ones and encrypted afterwards.
"""

from .ciphers import BLOCKWISE_CIPHERS, BlockwiseCipher, FfxCipher, NpCipher, ShfCipher
from .fcn import RESNETS, FcnConfig, FcnForSemanticSegmentation
from .restricted import RestrictedCipher

__all__ = [
    "BLOCKWISE_CIPHERS",
    "RESNETS",
    "BlockwiseCipher",
    "FcnConfig",
    "FcnForSemanticSegmentation",
    "FfxCipher",
    "NpCipher",
    "RestrictedCipher",
    "ShfCipher",
]
