"""A client needs neither torch nor transformers: its commands run where both cannot be imported.

transformers' Auto classes know SETR all the same, whatever is imported first.
"""

import os
import socket
import threading
import tomllib

import numpy as np
import pytest
from PIL import Image

from helpers import preloaded
from helpers.paths import ROOT
from helpers.tiny_setr import make_key
from hf_privseg import EncryptedImage, SetrImageProcessor

HEAVY = ("torch", "torchvision", "transformers", "scipy", "huggingface_hub", "matplotlib", "tqdm")
BLOCKED = f"""
import sys
class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {HEAVY}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])
sys.meta_path.insert(0, Blocked())
"""
COMMAND = f"{BLOCKED}from hf_privseg.cli.app import main; main()"
IS_KNOWN = "print(AutoConfig.for_model('setr').__class__.__module__)"


def run(code, *arguments, cwd=None, **variables):
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    return preloaded.run("client", "-c", code, *arguments, env=environment, cwd=cwd)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A key, an image, and the settings of an encrypted model, as its owner gives them to a client."""
    folder = tmp_path_factory.mktemp("client")
    key, rng = make_key(), np.random.default_rng(0)
    key.to_file(folder / "secret.key")
    make_key(first_byte=7).to_file(folder / "other.key")
    Image.fromarray(rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)).save(folder / "image.png")
    (folder / "model").mkdir()
    entries = '"model_type": "setr", "decoder_type": "mla", "patch_size": 8, "num_channels": 3, "hidden_size": 32, '
    entries += '"num_hidden_layers": 2, "image_size": 64, "id2label": {"0": "sky", "1": "road"}'
    facts = f'{{"family": "{key.family}", "version": 1, "fingerprint": "{key.fingerprint}"}}'
    (folder / "model/config.json").write_text(f'{{{entries}, "encryption": {facts}}}')
    SetrImageProcessor(patch_size=8, do_pad=True).save_pretrained(folder / "model")
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ("--help", 0, "Semantic segmentation"),
        ("segment --help", 0, "--server"),
        ("frobnicate", 2, "No such command"),
        ("keygen new.key", 0, "readable by you alone"),
        ("info secret.key", 0, "secret key"),
        ("info model", 0, "labels                 0 sky, 1 road"),
        ("info nowhere.key", 1, "nowhere.key, which is no file either"),
        ("encrypt image.png -k secret.key -o out", 0, "Wrote out/image.encrypted.safetensors"),
        ("encrypt image.png -k secret.key -o out --model nowhere", 1, "got nowhere"),
        ("encrypt image.png -k none.key -o out", 1, "expected a key file, but none.key does not exist"),
        ("segment image.png -k secret.key -o out --server http://127.0.0.1:9 --timeout 1", 1, "http://127.0.0.1:9"),
        ("segment image.png -o maps --model model", 1, "image.png is plain, but the model model is encrypted"),
        ("segment image.png -o maps --model model -k other.key", 1, "do not belong together"),
        ("encrypt-model default out_model -k secret.key", 1, "is not installed: pip install 'hf-privseg[models]'. "),
        ("encrypt-model nowhere out_model -k secret.key", 1, "got nowhere"),
        ("info owner/name", 1, "needs huggingface_hub, which is not installed; pip install 'hf-privseg[models]'"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else None,
)
def test_a_clients_commands_and_errors_need_no_torch(folder, arguments, code, text):
    done = run(COMMAND, *arguments.split(), cwd=folder)
    assert done.returncode == code, done.stderr
    assert text in " ".join((done.stdout + done.stderr).split("\n")), done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_client_encrypts_for_a_model_is_what_the_models_processor_encrypts(folder):
    done = run(COMMAND, *["encrypt", "image.png", "-k", "secret.key", "-o", "here", "--model", "model"], cwd=folder)
    assert done.returncode == 0, done.stderr
    processor = SetrImageProcessor.from_pretrained(folder / "model")
    expected = processor.encrypt(Image.open(folder / "image.png"), make_key())
    assert (folder / "here/image.encrypted.safetensors").read_bytes() == expected.to_bytes()
    assert EncryptedImage.from_bytes(expected.to_bytes()).valid_region == (37, 53)


def test_names_that_need_torch_say_what_to_install():
    done = run(f"{BLOCKED}import hf_privseg; hf_privseg.SecretKey.generate(); hf_privseg.SetrModel")
    assert done.stderr.splitlines()[-1] == (
        "ImportError: SetrModel needs torch, which is not installed: pip install 'hf-privseg[models]'"
    )


@pytest.mark.parametrize(
    "code",
    [
        "import hf_privseg; from transformers import AutoConfig",
        "from transformers import AutoConfig; import hf_privseg",
        "import transformers, hf_privseg; from transformers import AutoConfig",
        "from hf_privseg import SetrConfig; from transformers import AutoConfig",
        "import hf_privseg.storage.models; from transformers import AutoConfig",
        "import hf_privseg.setr.image_processing_setr; from transformers import AutoConfig",
        "import hf_privseg.any_vit.processor; from transformers import AutoConfig",
    ],
)
def test_the_auto_classes_know_setr_whatever_is_imported_first(code):
    done = preloaded.run("torch", "-c", f"{code}; {IS_KNOWN}")
    assert done.stdout.split() == ["hf_privseg.setr.configuration_setr"], done.stderr


def test_a_hub_that_hangs_up_is_not_asked_for_long_and_the_model_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as hub:
        calls = []

        def hang_up():
            while True:
                try:
                    connection, _ = hub.accept()
                except OSError:
                    return
                calls.append(1)
                connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        where = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.getsockname()[1]}", "HF_HOME": str(tmp_path)}
        done = run("from hf_privseg.cli.app import main; main()", "info", "owner/name", HF_HUB_OFFLINE="0", **where)
    assert done.returncode == 1
    assert "error: owner/name is no folder here, and could not be read as a model of the Hub (" in done.stderr
    assert len(calls) <= 2  # a download would ask six times, for half a minute


def test_the_program_that_is_installed():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["scripts"] == {"privseg": "hf_privseg.cli.app:main"}
