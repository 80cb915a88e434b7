"""The whole way of a key through the package: nothing that is written, shown, logged, pickled or raised carries it."""

import copy
import io
import json
import logging
import pickle
import traceback

import numpy as np
import pytest
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers.utils import logging as transformers_logging

from helpers.leaks import assert_no_secret
from helpers.tiny_setr import tiny_model
from hf_privseg import (
    EncryptedImage,
    RekeyUpdate,
    SecretKey,
    SetrConfig,
    SetrForSemanticSegmentation,
    SetrImageProcessor,
)
from hf_privseg import SetrSegmentationPipeline as Pipeline
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.keys import FAMILIES


@pytest.fixture
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8))


@pytest.fixture
def everything_logged(caplog):
    """All loggers at DEBUG, transformers' own among them, which do not propagate by themselves."""
    transformers_logging.enable_propagation()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_debug()
    caplog.set_level(logging.DEBUG)
    yield caplog
    transformers_logging.set_verbosity(verbosity)
    transformers_logging.disable_propagation()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_way_of_a_key(family, image, tmp_path, everything_logged, capfd):
    key, other = SecretKey.generate(family), SecretKey.generate(family)
    key.to_file(tmp_path / "secret.key")
    public = tmp_path / "public"
    model, processor = tiny_model(), SetrImageProcessor(patch_size=4)
    update = RekeyUpdate.between(other, key, patch_size=4)
    model.encrypt_model(key).rekey_model(key, other).apply_rekey_update(update)
    model.save_pretrained(public / "model")
    processor.save_pretrained(public / "model")
    inputs = processor(image, secret_key=key, return_tensors="pt")
    encrypted = processor.encrypt(image, key)
    encrypted.to_file(public / f"image{encrypted.suffix}")
    loaded = SetrForSemanticSegmentation.from_pretrained(public / "model")
    outputs = loaded(**inputs)
    segment = Pipeline(model=loaded, image_processor=SetrImageProcessor.from_pretrained(public / "model"))
    masks = segment(image, secret_key=key)

    update.to_file(public / "next.rekey")

    shown = [
        key,
        repr(key),
        update,
        vars(update),
        model,
        model.config,
        processor,
        inputs,
        encrypted,
        outputs,
        segment,
        vars(segment),
        masks,
    ]
    shown += [vars(processor), vars(model), processor.to_json_string(), model.config.to_json_string(), vars(encrypted)]
    shown += [cipher_for(key, patch_size=4), EncryptedImage.from_bytes(encrypted.to_bytes())]
    for thing in shown:
        assert_no_secret(f"{thing!r} {thing}", key)
    for thing in (model.state_dict(), model.config, dict(inputs), encrypted, processor, masks):
        assert_no_secret(pickle.dumps(thing), key)
    files = [path for path in public.rglob("*") if path.is_file()]
    assert {"config.json", "preprocessor_config.json", "README.md", "model.safetensors"} <= {f.name for f in files}
    for path in files:
        assert_no_secret(path.read_bytes(), key)
    assert everything_logged.records, "nothing was logged, so this test would not see a leak"
    assert_no_secret(everything_logged.text, key)
    assert_no_secret("".join(capfd.readouterr()), key)


REFUSED = {
    "another key for the model": lambda key, model, image: model.decrypt_model(SecretKey.generate(key.family)),
    "encrypting twice": lambda key, model, image: model.encrypt_model(key),
    "text of a key": lambda key, model, image: model.decrypt_model(key.to_text()),
    "text of a key, damaged": lambda key, model, image: SecretKey.from_text(key.to_text()[:-3] + "!!!"),
    "text of a key as a path": lambda key, model, image: SecretKey.from_file(key.to_text()),
    "text of a key as an image": lambda key, model, image: SetrImageProcessor()(key.to_text(), return_tensors="pt"),
    "a key in a configuration": lambda key, model, image: SetrConfig(**{"secret_key": key.to_text()}),
    "a key as facts": lambda key, model, image: SetrConfig(encryption={"key": key.to_text()}),
    "a key as a setting": lambda key, model, image: SetrImageProcessor(**{"secret_key": key.to_text()}),
    "a key for a pipeline": lambda key, model, image: Pipeline(model=model, secret_key=key.to_text()),
    "a key for an encrypted image": lambda key, model, image: SetrImageProcessor()(
        SetrImageProcessor().encrypt(image, key), secret_key=key
    ),
    "statistics": lambda key, model, image: SetrImageProcessor(image_mean=[0.4, 0.5, 0.6])(image, secret_key=key),
    "pickling": lambda key, model, image: pickle.dumps(key),
    "copying": lambda key, model, image: copy.deepcopy({"key": key}),
    "JSON": lambda key, model, image: json.dumps({"key": key}),
    "text of a key as an update": lambda key, model, image: RekeyUpdate.from_bytes(key.to_text().encode()),
    "an update from a key to itself": lambda key, model, image: RekeyUpdate.between(key, key, patch_size=4),
    "pickling an update": lambda key, model, image: pickle.dumps(
        RekeyUpdate.between(key, SecretKey.generate(), patch_size=4)
    ),
    "pickling a cipher": lambda key, model, image: pickle.dump(cipher_for(key, patch_size=4), io.BytesIO()),
}


@pytest.mark.parametrize("mistake", REFUSED)
def test_no_exception_carries_a_key(mistake, image):
    key = SecretKey.generate()
    model = tiny_model().encrypt_model(key)
    with pytest.raises((ValueError, TypeError, RuntimeError, StrictDataclassError)) as caught:
        REFUSED[mistake](key, model, image)
    # source lines are part of a traceback, values of variables are not
    assert_no_secret("".join(traceback.format_exception(caught.value)), key)
