"""A service with a tiny model, and what a client would send it."""

import numpy as np

from helpers.tiny_setr import projection, randomize, tiny_model
from hf_privseg import SetrImageProcessor
from hf_privseg.service import SegmentationService
from hf_privseg.service.embedding_file import embedding_to_bytes
from hf_privseg.setr.ciphers import cipher_for


def processor():
    return SetrImageProcessor(patch_size=4)


def image(seed=0, height=18, width=30):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def service(**kwargs):
    """A service with a model whose segmentation maps hold three classes, all over the image."""
    return SegmentationService(randomize(tiny_model("mla"), seed=3), processor(), **kwargs)


def embedding_for(key, of, patch_size=4):
    weight = cipher_for(key, patch_size=patch_size).encrypt_weight(projection(of.model).weight)
    return embedding_to_bytes(weight, key.facts)


def register(engine, key, patch_size=4):
    """Have a service know a key."""
    return engine.register(key.fingerprint, embedding_for(key, engine, patch_size))


def ciphertext(key, seed=0):
    return processor().encrypt(image(seed), key).to_bytes()
