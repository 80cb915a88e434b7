"""Every parser of strangers' files: a mutated input is read, or refused with the documented error, within seconds.

    pytest tests/fuzz --fuzz-inputs 1000000 -s

tries that many inputs over all parsers instead of a few hundred each, and prints what became of them.
"""

import collections
import io
import random
import time
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.mutations import mutated_bytes, mutated_json, mutated_safetensors, mutated_value
from helpers.sources import mmseg_source
from helpers.tiny_setr import tiny_config, tiny_model
from hf_privseg import ClientEmbedding, EncryptedImage, EncryptedInputs, SecretKey, SetrConfig, SetrImageProcessor
from hf_privseg.client.http_calls import parsed
from hf_privseg.client.preparation import Preparation
from hf_privseg.client.service_info import ServiceInfo
from hf_privseg.convert import Checkpoint, ConversionError, mmseg, pickle_child
from hf_privseg.convert.mmseg_config import read_config_file
from hf_privseg.convert.normalization import find_statistics
from hf_privseg.service.embedding_file import embedding_from_bytes, embedding_to_bytes
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.errors import CiphertextError, InvalidImageError, InvalidKeyError, ServiceError
from hf_privseg.setr.image_inputs import image_to_levels
from hf_privseg.setr.public_facts import FAMILIES
from hf_privseg.setr.rekey_update import RekeyUpdate
from hf_privseg.setr.transform_code import TransformCode
from hf_privseg.storage.inspection import inspect

MAX_SECONDS = 5  # for one input, on a busy machine
KEYS = {family: SecretKey(bytes(range(32)), family) for family in FAMILIES}
OTHER = SecretKey(bytes(32), "orthogonal")
PHOTO = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def with_code(embedding):
    """A client embedding -> the same with a transform code."""
    transform = np.random.default_rng(0).normal(size=(embedding.shape[1],) * 2)
    return embedding.with_code(TransformCode(transform, np.array([0.5, 1.0]), np.array([100.0, 20.0])))


class Target:
    """A parser with its sound inputs: `make` mutates one of them, and `parse` raises nothing but `documented`."""

    documented: type[Exception] | tuple[type[Exception], ...] = ValueError
    share = 1.0  # of the inputs, against other parsers

    def __init__(self, folder):
        self.folder = folder

    def from_file(self, data, name):
        path = self.folder / name
        path.write_bytes(data)
        return path


class KeyText(Target):
    documented = InvalidKeyError
    share = 3

    def make(self, rng):
        text = rng.choice(list(KEYS.values())).to_text().encode()
        return mutated_bytes(text, rng) if rng.random() < 0.9 else text

    def parse(self, data):
        SecretKey._from_file_content(data)


class Container(Target):
    documented = CiphertextError
    share = 3

    def __init__(self, folder):
        super().__init__(folder)
        processor = SetrImageProcessor(patch_size=4)
        self.sound = [processor.encrypt([PHOTO], key)[0].to_bytes() for key in KEYS.values()]
        embedding = ClientEmbedding.generate(tiny_model())
        self.sound.append(processor.encrypt([PHOTO], embedding)[0].to_bytes())
        self.sound.append(processor.encrypt([PHOTO], with_code(embedding), bits_per_block=60)[0].to_bytes())
        self.sound += [
            processor.encrypt([PHOTO], key, bits=8)[0].to_bytes() for key in (KEYS["orthogonal"], embedding)
        ]

    def make(self, rng):
        data = rng.choice(self.sound)
        return mutated_bytes(data, rng) if data.startswith(b"\x89") else mutated_safetensors(data, rng)

    def parse(self, data):
        EncryptedImage.from_bytes(data, max_pixels=2**16)


class Batch(Target):
    documented = CiphertextError
    share = 3

    def __init__(self, folder):
        super().__init__(folder)
        embedding, size = ClientEmbedding.generate(tiny_model()), tiny_config().patch_size
        noise = torch.randn(2, 3, 4 * size, 2 * size, generator=torch.Generator().manual_seed(0))
        self.sound = []
        for key in (KEYS["orthogonal"], embedding):
            pixels = cipher_for(key, patch_size=size).encrypt(noise)
            inputs = {"pixel_values": pixels, "prompt_masks": [pixels], "input_ids": torch.ones(2, 3), "flag": True}
            self.sound.append(EncryptedInputs(inputs, key.facts, size, 3, [(9, 8), (7, 6)]).to_bytes())

    def make(self, rng):
        return mutated_safetensors(rng.choice(self.sound), rng)

    def parse(self, data):
        EncryptedInputs.from_bytes(data)


class Rekeying(Target):
    share = 2

    def __init__(self, folder):
        super().__init__(folder)
        pairs = [(KEYS["permutation"], KEYS["signed_permutation"]), (KEYS["orthogonal"], OTHER)]
        self.sound = [RekeyUpdate.between(*pair, patch_size=2, num_channels=3).to_bytes() for pair in pairs]

    def make(self, rng):
        return mutated_safetensors(rng.choice(self.sound), rng)

    def parse(self, data):
        RekeyUpdate.from_bytes(data)


class Registration(Target):
    share = 2

    def __init__(self, folder):
        super().__init__(folder)
        self.sound = embedding_to_bytes(torch.ones(4, 3, 2, 2), KEYS["orthogonal"].facts)

    def make(self, rng):
        return mutated_safetensors(self.sound, rng)

    def parse(self, data):
        embedding_from_bytes(data)


class Embedding(Target):
    documented = InvalidKeyError
    share = 2

    def __init__(self, folder):
        super().__init__(folder)
        embedding = ClientEmbedding.generate(tiny_model())
        self.sound = [embedding.to_bytes(), with_code(embedding).to_bytes()]

    def make(self, rng):
        return mutated_safetensors(rng.choice(self.sound), rng)

    def parse(self, data):
        ClientEmbedding.from_bytes(data)


class Info(Target):
    documented = (ValueError, OSError)

    def __init__(self, folder):
        super().__init__(folder)
        self.targets = [KeyText(folder), Container(folder), Batch(folder), Rekeying(folder), Embedding(folder)]
        self.model = folder / "model"
        tiny_model().save_pretrained(self.model)
        SetrImageProcessor(patch_size=4).save_pretrained(self.model)
        self.weights = (self.model / "model.safetensors").read_bytes()

    def make(self, rng):
        if rng.random() < 0.3:
            return "model", mutated_safetensors(self.weights, rng)
        return "file", rng.choice(self.targets).make(rng)

    def parse(self, case):
        kind, data = case
        if kind == "model":
            (self.model / "model.safetensors").write_bytes(data)
            inspect(str(self.model))
        else:
            path = self.from_file(data, "stranger")
            path.chmod(0o600)
            inspect(str(path))


class Answers(Target):
    documented = (ServiceError, ValueError, RuntimeError)

    def __init__(self, folder):
        super().__init__(folder)
        self.key = KEYS["orthogonal"]
        self.facts = {
            "version": 1, "encryption": self.key.facts.to_dict(), "patch_size": 4, "num_channels": 3,
            "labels": {"0": "sky", "1": "road"}, "palette": [[0, 0, 0], [255, 255, 255]], "max_pixels": 2**20,
            "max_upload_bytes": 2**20,
            "preprocessor": {
                "patch_size": 4, "num_channels": 3, "do_resize": True, "size": {"height": 16, "width": 24},
                "resize_factor": 1.0, "resample": 2, "do_pad": False, "pad_value": 0.0, "do_rescale": True,
                "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
            },
        }  # fmt: skip
        buffer = io.BytesIO()
        Image.fromarray(np.zeros((16, 24), np.uint8)).save(buffer, "PNG")
        self.map = buffer.getvalue()

    def make(self, rng):
        if rng.random() < 0.3:
            return b"map" + mutated_bytes(self.map, rng)
        return mutated_json(self.facts, rng)

    def parse(self, data):
        url = "http://127.0.0.1:1"
        answer = self.facts if data.startswith(b"map") else parsed(data, url)
        preparation = Preparation(ServiceInfo.from_json(answer, url), url, own_processor=None, patch_size=4)
        encrypted = preparation.encrypt(PHOTO, self.key)
        preparation.segmentation_map(data.removeprefix(b"map") if data.startswith(b"map") else self.map, encrypted)


class Config(Target):
    def __init__(self, folder):
        super().__init__(folder)
        self.settings = tiny_config().to_dict() | {"id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}
        self.settings |= {"encryption": KEYS["orthogonal"].facts.to_dict(), "dtype": "float32"}

    def make(self, rng):
        return mutated_json(self.settings, rng)

    def parse(self, data):
        SetrConfig.from_pretrained(self.from_file(data, "config.json").parent).to_json_string()


class Preprocessor(Target):
    documented = (ValueError, OSError)  # the library's is OSError for what is no JSON

    def __init__(self, folder):
        super().__init__(folder)
        self.settings = SetrImageProcessor(patch_size=4, size={"height": 16, "width": 24}).to_dict()

    def make(self, rng):
        return mutated_json(self.settings, rng)

    def parse(self, data):
        processor = SetrImageProcessor.from_pretrained(self.from_file(data, "preprocessor_config.json").parent)
        processor([PHOTO], return_tensors="pt")


CONFIGURATION = {
    "norm_cfg": {"type": "SyncBN"},
    "img_norm_cfg": {"mean": [51.0, 102.0, 153.0], "std": [25.5, 51.0, 76.5]},
    "data_preprocessor": {"mean": [51.0, 102.0, 153.0], "std": [25.5, 51.0, 76.5]},
    "model": {
        "backbone": {
            "num_heads": 4, "out_indices": [0, 1, 2, 3], "with_cls_token": True, "interpolate_mode": "bicubic",
            "norm_cfg": {"eps": 1e-5},
        },
        "decode_head": {"align_corners": False},
    },
}  # fmt: skip


class Metadata(Target):
    documented = ConversionError

    def __init__(self, folder):
        super().__init__(folder)
        self.weights = mmseg_source(out_indices=[0, 1, 2, 3])[1]

    def make(self, rng):
        settings = mutated_value(CONFIGURATION, rng)
        settings = settings if isinstance(settings, dict) else {"model": settings}
        text = "\n".join(f"{name} = {value!r}" for name, value in settings.items())
        if rng.random() < 0.3:
            text = mutated_bytes(text.encode("utf-8", "replace"), rng).decode(errors="replace")
        described = {
            "dataset_meta": {"classes": ["a", "b"], "palette": [[1, 2, 3], [4, 5, 6]]},
            **{"CLASSES": ["a", "b"], "PALETTE": [[1, 2, 3], [4, 5, 6]]},
        }
        described = mutated_value(described, rng) if rng.random() < 0.5 else described
        return {"cfg": text} | (described if isinstance(described, dict) else {})

    def parse(self, meta):
        checkpoint = Checkpoint(self.weights, meta=meta)
        mmseg.read_fields(checkpoint, None)
        mmseg.classes_of(meta)
        find_statistics(checkpoint, None, None, 3)


class Pickle(Target):
    documented = pickle_child.Refused

    def __init__(self, folder):
        super().__init__(folder)
        content = {
            "state_dict": {"a": torch.ones(2, 3), "b": torch.ones(3).half()},
            "meta": {"CLASSES": ("a", "b"), "lr": 0.1, "array": np.arange(3), "scalar": np.float32(1)},
        }
        self.sound = []
        for zipped in (True, False):
            buffer = io.BytesIO()
            torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
            self.sound.append(buffer.getvalue())

    def make(self, rng):
        data = rng.choice(self.sound)
        return mutated_bytes(data, rng)

    def parse(self, data):
        pickle_child.read_pickle(self.from_file(data, "stranger.pth"))


class ArrayFile(Target):
    documented = InvalidImageError
    share = 2

    def __init__(self, folder):
        super().__init__(folder)
        self.sound = []
        for array in (PHOTO, PHOTO[..., 0].astype(">u2") // 300, np.asfortranarray(PHOTO / 255), np.array([[None]])):
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=True)
            self.sound.append(buffer.getvalue())

    def make(self, rng):
        data = rng.choice(self.sound)
        if rng.random() < 0.5:  # another value in the header, of the length that it says
            text = data[10:128].replace(b"16", rng.choice((b"0", b"-1", b"2**9", b"9" * 30, b"True", b"(1,)", b"1e3")))
            data = data[:8] + len(text).to_bytes(2, "little") + text + data[128:]
        return mutated_bytes(data, rng)

    def parse(self, data):
        levels = image_to_levels(self.from_file(data, "stranger.npy"))
        assert levels.ndim == 3


class MmsegConfig(Target):
    documented = (ConversionError, FileNotFoundError)

    def __init__(self, folder):
        super().__init__(folder)
        self.from_file(b"a = dict(b=1)\nlist_ = [1, 2.0, 'x']", "base.py")
        self.sound = (
            b"_base_ = ['base.py']\nn = {'a': -1, 'b': (2 * 3, not 0) }\nn0 = None\nm = dict(**_base_.a, c=f'{3}x')\n"
            b"x = [dict(s=r) for r in _base_.list_]\ny = {{_base_.a.b}}\na = dict(_delete_=True, b=dict(b=x[0]))\n"
        )
        self.parts = [
            b"(",
            b")",
            b"[",
            b"{{",
            b"}}",
            b"**",
            b"_base_",
            b"'base.py'",
            b"lambda:",
            b"for r in",
            b"x",
            b"=",
        ]

    def make(self, rng):
        if rng.random() < 0.5:
            return mutated_bytes(self.sound, rng)
        words = self.sound.split(b" ")
        words[rng.randrange(len(words))] = rng.choice(self.parts)
        return b" ".join(words)

    def parse(self, data):
        read_config_file(self.from_file(data, "stranger.py"))


TARGETS = Target.__subclasses__()


@pytest.mark.parametrize("cls", TARGETS, ids=lambda cls: cls.__name__.lower())
def test_a_mutated_input_is_read_or_refused(cls, tmp_path, request):
    total = request.config.getoption("--fuzz-inputs")
    num_inputs = round(total * cls.share / sum(target.share for target in TARGETS)) if total else round(60 * cls.share)
    target, rng = cls(tmp_path), random.Random(num_inputs)
    outcomes: collections.Counter[str] = collections.Counter()
    escapes: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(num_inputs):
            case = target.make(rng)
            start = time.perf_counter()
            try:
                target.parse(case)
                outcomes["read"] += 1
            except target.documented as error:
                outcomes[f"refused: {type(error).__name__}"] += 1
            except Exception as error:  # what must not happen
                kind = f"{type(error).__name__}: {error!s:.80}"
                outcomes[f"ESCAPED {type(error).__name__}"] += 1
                escapes.setdefault(kind, f"{case!r:.600}")
            if time.perf_counter() - start > MAX_SECONDS:
                escapes.setdefault(f"over {MAX_SECONDS} s", f"{case!r:.600}")
    print(f"\n{cls.__name__}: {num_inputs} inputs, {dict(outcomes)}, {len(escapes)} kinds of escapes")
    assert not escapes, "\n".join(f"{kind}\n    {case}" for kind, case in list(escapes.items())[:20])
    assert outcomes["read"] < num_inputs
    assert outcomes.total() == num_inputs
