"""The model card: says what the weights are at every save, leaves the owner's words alone, and travels with a push."""

import inspect
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.errors import EntryNotFoundError
from transformers.utils import hub

from helpers.leaks import assert_no_secret
from helpers.tiny_setr import DECODERS, make_key, tiny_model
from hf_privseg import SecretKey, SetrModel
from hf_privseg.setr.keys import FAMILIES
from hf_privseg.setr.model_card import write_model_card


def data_of(text):
    data = ModelCard(text).data
    assert isinstance(data, ModelCardData)
    return data


def saved(model, folder):
    model.save_pretrained(folder)
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_plain_model_is_called_plain(decoder, tmp_path):
    model = tiny_model(decoder)
    text = saved(model, tmp_path)
    assert f"| decoder | {decoder} |" in text
    assert "| encoder | ViT, 4 layers, hidden size 32, 2 heads |" in text
    assert "4 x 4 pixels" in text
    assert "| training size | 16 x 16 pixels" in text
    assert f"| parameters | {sum(parameter.numel() for parameter in model.parameters()):,} |" in text
    assert "| encryption | none (plain) |" in text
    assert "This checkpoint is **plain**" in text
    assert "**encrypted**" not in text


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encrypted_model_names_family_and_fingerprint_and_not_the_key(family, tmp_path):
    secret_key = SecretKey.generate(family)
    text = saved(tiny_model().encrypt_model(secret_key), tmp_path)
    assert f"| encryption | {family}, key `{secret_key.fingerprint}` |" in text
    assert f"key family `{family}`, format version 1, key\nfingerprint `{secret_key.fingerprint}`" in text
    assert "**plain**" not in text
    assert_no_secret(text, secret_key)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_the_honest_sentences_are_always_there(encrypted, tmp_path):
    model = tiny_model()
    text = " ".join(saved(model.encrypt_model(make_key()) if encrypted else model, tmp_path).split())
    assert "*visually protected*; this is no encryption in the cryptographic sense" in text
    assert "A public patch embedding voids the protection of every family" in text
    assert "a thumbnail (1/4 of the size)" in text
    assert "until then no licence is granted" in text


def test_the_front_matter_is_valid_and_leaves_the_licence_to_the_owner(tmp_path):
    saved(tiny_model(), tmp_path)
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.library_name, data.pipeline_tag, data.license) == ("transformers", "image-segmentation", None)
    assert {"setr", "semantic-segmentation"} <= set(data.tags)


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("cls", [None, SetrModel], ids=["segmentation", "encoder"])
def test_the_lines_on_how_to_use_it_work(cls, encrypted, tmp_path):
    from PIL import Image

    from hf_privseg import SetrImageProcessor

    model = tiny_model(**({"cls": cls} if cls else {}))
    make_key().to_file(tmp_path / "my.key")
    text = saved(model.encrypt_model(make_key()) if encrypted else model, tmp_path)
    SetrImageProcessor(patch_size=4).save_pretrained(tmp_path)
    code = text.partition("```python\n")[2].partition("```")[0]
    assert len(code.strip().splitlines()) <= 8
    code = code.replace("path/or/name/of/this/model", str(tmp_path)).replace("my.key", str(tmp_path / "my.key"))
    names: dict[str, Any] = {"image": Image.new("RGB", (20, 13))}
    exec(code, names)  # noqa: S102 - the code of our own card
    assert encrypted == ("secret_key" in names)
    if cls is None:
        assert names["maps"][0].shape == (13, 20)
    assert torch.isfinite(names["outputs"][0]).all()


# ------------------------------------------------------------------------------------------- whose words are whose


def test_saving_again_after_encrypting_and_decrypting_states_the_new_state(tmp_path):
    model = tiny_model()
    plain = saved(model, tmp_path)
    encrypted = saved(model.encrypt_model(make_key()), tmp_path)
    assert f"key `{make_key().fingerprint}`" in encrypted
    rekeyed = saved(model.rekey_model(make_key(), make_key("permutation")), tmp_path)
    assert make_key().fingerprint not in rekeyed
    assert make_key("permutation").fingerprint in rekeyed
    assert saved(model.decrypt_model(make_key("permutation")), tmp_path) == plain


def test_what_the_owner_adds_outside_of_the_generated_part_stays(tmp_path):
    model = tiny_model()
    card = saved(model, tmp_path)
    edited = (
        card.replace("library_name: transformers", "library_name: transformers\nlicense: mit") + "\nTrained on X.\n"
    )
    edited = edited.replace("# SETR (naive) for semantic segmentation", "# My model")
    (tmp_path / "README.md").write_text(edited)
    text = saved(model.encrypt_model(make_key()), tmp_path)
    assert "license: mit" in text
    assert "# My model" in text
    assert text.endswith("Trained on X.\n")
    assert f"key `{make_key().fingerprint}`" in text
    assert "**plain**" not in text


@pytest.mark.parametrize(
    "content",
    [b"# My own card\n", b"---\nbroken: [yaml\n---\ntext", b"caf\xe9 in another encoding", b"<!-- privseg:end -->"],
    ids=["text", "broken_yaml", "latin1", "half_a_marker"],
)
def test_a_card_without_our_markers_is_never_touched(content, tmp_path):
    (tmp_path / "README.md").write_bytes(content)
    tiny_model().encrypt_model(make_key()).save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_bytes() == content


def test_processes_other_than_the_main_one_write_no_card(tmp_path):
    tiny_model().save_pretrained(tmp_path, is_main_process=False)
    assert not (tmp_path / "README.md").exists()


# ---------------------------------------------------------------------------------------------------------- pushing


class FakeHub:
    """The network boundary: what HfApi and the card's download would do, without a network."""

    def __init__(self, card=None):
        self.card = card
        self.uploaded = {}

    def create_repo(self, repo_id, **_):
        return type("Repo", (), {"repo_id": repo_id})()

    def create_commit(self, operations, **_):
        for operation in operations:
            with operation.as_file() as file:
                self.uploaded[operation.path_in_repo] = file.read()

    def load_card(self, repo_id, **_):
        if self.card is None:
            raise EntryNotFoundError("no README.md")
        return ModelCard(self.card)


@pytest.fixture
def push(monkeypatch):
    def run(model, card=None, **kwargs):
        remote = FakeHub(card)
        monkeypatch.setattr(hub, "hf_api", lambda: remote)
        monkeypatch.setattr("transformers.modeling_utils.hf_api", lambda: remote)
        monkeypatch.setattr(ModelCard, "load", remote.load_card)
        model.push_to_hub("someone/model", **kwargs)
        return remote.uploaded["README.md"].decode()

    return run


def empty_card(tags=None):
    source = inspect.getsource(hub.create_and_tag_model_card)
    description = source.partition('model_description = "')[2].partition('"')[0]
    assert description
    return str(ModelCard.from_template(ModelCardData(tags=tags), model_description=description))


def test_a_push_carries_the_card(push):
    text = push(tiny_model().encrypt_model(make_key()), tags=["camvid"])
    assert make_key().fingerprint in text
    assert "[More Information Needed]" not in text
    assert {"camvid", "setr"} <= set(data_of(text).tags)


def test_a_push_replaces_the_empty_card_that_a_push_of_the_processor_made(push):
    text = push(tiny_model(), card=empty_card(tags=["mine"]))
    assert "This checkpoint is **plain**" in text
    assert "mine" in data_of(text).tags


@pytest.mark.parametrize(
    "card", ["---\nlicense: mit\n---\n\n# Mine\n", "\n\nMy own words.\n"], ids=["own", "edited_empty_card"]
)
def test_a_push_leaves_the_owners_card_alone(push, card):
    card = card if "Mine" in card else empty_card() + card
    assert push(tiny_model().encrypt_model(make_key()), card=card).strip() == card.strip()


def test_a_push_updates_the_card_of_an_earlier_push(push):
    earlier = push(tiny_model())
    text = push(tiny_model().encrypt_model(make_key()), card=earlier.replace("tags:", "license: mit\ntags:"))
    assert data_of(text).license == "mit"
    assert "This checkpoint is **plain**" not in text
    assert make_key().fingerprint in text


def test_saving_and_pushing_at_once_carries_the_card(push, tmp_path, monkeypatch):
    remote = FakeHub()
    monkeypatch.setattr("transformers.modeling_utils.hf_api", lambda: remote)
    monkeypatch.setattr(hub, "hf_api", lambda: remote)
    monkeypatch.setattr(ModelCard, "load", remote.load_card)
    tiny_model().encrypt_model(make_key()).save_pretrained(tmp_path / "model", push_to_hub=True)
    assert remote.uploaded["README.md"] == (tmp_path / "model" / "README.md").read_bytes()
    assert make_key().fingerprint in remote.uploaded["README.md"].decode()


def test_writing_the_card_twice_changes_nothing(tmp_path):
    write_model_card(tiny_model(), tmp_path)
    first = (tmp_path / "README.md").read_bytes()
    write_model_card(tiny_model(), tmp_path)
    assert (tmp_path / "README.md").read_bytes() == first
