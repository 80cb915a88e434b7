"""What deploy/ holds: commands that the command line takes, limits that fit each other, and the endpoint's handler."""

import base64
import io
import json
import re

import numpy as np
import pytest
import yaml
from PIL import Image

from helpers.module_files import module_of_file
from helpers.paths import ROOT
from helpers.tiny_service import ciphertext, processor
from helpers.tiny_setr import tiny_model
from hf_privseg import KeyMismatchError, SecretKey
from hf_privseg.cli.app import main
from hf_privseg.service import Limits, SegmentationService
from hf_privseg.service.server import Settings

pytest.importorskip("fastapi")
DEPLOY = ROOT / "deploy"


def commands():
    """What each file starts `privseg serve` with."""
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    kubernetes = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
    (container,) = kubernetes[0]["spec"]["template"]["spec"]["containers"]
    (command,) = re.findall(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)
    return {
        "Dockerfile": json.loads(command),
        "compose": compose["services"]["privseg"]["command"],
        "kubernetes": container["args"],
    }


@pytest.mark.parametrize("name", ["Dockerfile", "compose", "kubernetes"])
def test_the_command_line_takes_the_commands(name, monkeypatch, tmp_path, capsys):
    from hf_privseg.service import server

    tiny_model().encrypt_model(SecretKey.generate()).save_pretrained(tmp_path / "model")
    processor().save_pretrained(tmp_path / "model")
    started: list[Settings] = []
    monkeypatch.setattr(server, "serve", started.append)
    arguments = [str(tmp_path / "model") if text == "/model" else text for text in commands()[name]]
    with pytest.raises(SystemExit) as ended:
        main(["serve", *arguments])
    assert not ended.value.code, capsys.readouterr().err
    (settings,) = started
    assert (settings.host, settings.port, settings.page) == ("0.0.0.0", 7860, False)
    assert str(settings.tokens) == "/data/tokens.json"
    assert str(settings.embeddings) == "/data/embeddings"


def test_the_proxy_lets_through_what_the_service_takes_and_hides_its_metrics():
    text = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
    (megabytes,) = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(megabytes) * 2**20 >= max(Limits().max_upload_bytes, Limits().max_embedding_bytes)
    assert re.search(r"location /metrics \{\s+return 404;", text)


def test_the_container_does_not_run_as_root_and_tells_whether_it_is_ready():
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^USER 10001$", text, re.MULTILINE)
    (healthcheck,) = re.findall(r"^HEALTHCHECK .*?(?=^[A-Z])", text, re.MULTILINE | re.DOTALL)
    assert "/readyz" in healthcheck


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    """The handler as an endpoint loads it, from a file in the model's repository, and the model's key and service."""
    folder, key = tmp_path_factory.mktemp("repository"), SecretKey.generate()
    model = tiny_model("mla").encrypt_model(key)
    model.save_pretrained(folder)
    processor().save_pretrained(folder)
    (folder / "handler.py").write_bytes((DEPLOY / "inference-endpoint" / "handler.py").read_bytes())
    module = module_of_file(folder / "handler.py", "handler")
    return module.EndpointHandler(folder), key, SegmentationService(model, processor())


@pytest.mark.parametrize("form", ["base64", "bytes"])
def test_the_endpoint_answers_as_the_service_does(endpoint, form):
    handler, key, service = endpoint
    content = ciphertext(key)
    answer = handler({"inputs": base64.b64encode(content).decode() if form == "base64" else content})
    json.dumps(answer)
    expected = service.segment(content)
    picture = Image.open(io.BytesIO(base64.b64decode(answer["segmentation_map"])))
    np.testing.assert_array_equal(np.array(picture), expected)
    assert (answer["height"], answer["width"]) == expected.shape
    assert sum(entry["share"] for entry in answer["shares"]) == pytest.approx(1)


@pytest.mark.parametrize("inputs", [None, 7, "no base64!", {"a": 1}], ids=repr)
def test_the_endpoint_says_what_it_takes(endpoint, inputs):
    with pytest.raises(ValueError, match=r'^expected \{"inputs": the file of an encrypted image in base64\}, got'):
        endpoint[0]({"inputs": inputs})


def test_the_endpoint_refuses_another_key(endpoint):
    handler, key, _ = endpoint
    other = SecretKey.generate()
    with pytest.raises(KeyMismatchError, match=f"{other.fingerprint}.*{key.fingerprint}"):
        handler({"inputs": ciphertext(other)})
