"""The audit on a small model and crops of a photo: every attack is run, scored, and told as it is."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("skimage", reason="the attacks extra is not installed")

from helpers.tiny_setr import tiny_model
from hf_privseg import SecretKey, SetrImageProcessor
from hf_privseg.attacks.learned_inversion import Budget
from hf_privseg.attacks.tools.blocks import to_grid
from hf_privseg.attacks.tools.priors import image_prior
from hf_privseg.audit.audit import FAMILIES, audit, embedding_matrix_of, fresh_keys, load_embedding
from hf_privseg.audit.findings import ATTACKERS
from hf_privseg.audit.scene import Scene
from hf_privseg.audit.target import Target
from hf_privseg.audit.trials import all_trials, seed_trial
from hf_privseg.catalog.sample_images import sample_image
from hf_privseg.cli.app import app

PATCH_SIZE = 4


@pytest.fixture(scope="module")
def model():
    return tiny_model(hidden_size=32, patch_size=PATCH_SIZE)


@pytest.fixture(scope="module")
def processor():
    return SetrImageProcessor(do_resize=False, patch_size=PATCH_SIZE)


@pytest.fixture(scope="module")
def crops():
    """Victims from one photo, and the attacker's own from another one."""

    def cut(name, count):
        photo = sample_image(name).resize((320, 240))
        places = [(64 * (n % 4), 64 * (n // 4)) for n in range(count)]
        return [photo.crop((left, top, left + 64, top + 64)) for left, top in places]

    return cut("china", 4), cut("coffee", 6)


@pytest.fixture(scope="module")
def report(model, processor, crops):
    victims, others = crops
    base = embedding_matrix_of(model)
    return audit(model, victims, processor=processor, prior_images=others, public_base=base, progress=False)


def rows(report, **fields):
    return [f for f in report.findings if all(getattr(f, name) == value for name, value in fields.items())]


def test_every_family_and_every_attacker_occurs(report):
    assert {f.family for f in report.findings} == {"any", *FAMILIES}
    assert {f.attacker for f in report.findings} == set(ATTACKERS)
    for family in FAMILIES:
        assert {f.prior for f in rows(report, family=family, attacker="ciphertexts")} >= {
            "synthetic", "photos", "in-domain"
        }  # fmt: skip


@pytest.mark.parametrize("family", ["permutation", "signed_permutation"])
@pytest.mark.parametrize("attacker", ["known plaintext", "chosen plaintext", "public base"])
def test_a_permutation_falls_as_a_whole_where_more_than_ciphertexts_is_known(report, family, attacker):
    (found,) = rows(report, family=family, attacker=attacker)
    assert found.metrics["exact"] >= (0.9 if attacker == "known plaintext" else 1.0)
    assert found.metrics["hp"] > 0.95
    assert found.level == "the photographs"
    if family == "signed_permutation":
        assert found.metrics["signs"] >= 0.95


@pytest.mark.parametrize("family", FAMILIES)
def test_a_chosen_image_decodes_every_family_down_to_what_it_sends(report, family):
    (found,) = rows(report, family=family, attacker="chosen plaintext")
    if family == "embedding":  # 32 of 48 numbers a block are sent
        assert 0.3 < found.metrics["hp"] < 1.0
    else:
        assert found.metrics["psnr"] > 60


def test_the_public_base_decodes_what_the_server_computes_whatever_the_family(report):
    found = rows(report, family="any", attacker="public base")
    grey = next(f for f in report.findings if f.attack == "constant grey")
    assert len(found) == 3
    assert all(f.metrics["psnr"] > grey.metrics["psnr"] + 5 for f in found)


def test_baselines_stand_beside(report):
    means = next(f for f in report.findings if f.attack == "block means")
    grey = next(f for f in report.findings if f.attack == "constant grey")
    assert grey.metrics["hp"] == 0
    assert means.metrics["psnr"] > grey.metrics["psnr"]
    raw = [f for f in report.findings if f.attack == "ciphertext as it is"]
    assert [f.family for f in raw] == list(FAMILIES)
    assert all(f.metrics["hp"] < 0.5 for f in raw)


def test_the_subject_and_the_advice_are_about_this_deployment(report):
    assert report.subject["num_images"] == 4
    assert report.subject["drift_from_public_base"] == 0
    assert report.advice.reasons[0].startswith("The patch embedding is public")
    assert report.original.shape == (64, 64, 3)


def test_agreement_is_the_share_of_labels_that_the_plain_model_keeps(report):
    (exact,) = rows(report, family="permutation", attacker="chosen plaintext")
    assert exact.metrics["agreement"] == 1.0

    image = np.linspace(-1, 1, 3 * 8 * 8).reshape(3, 8, 8)
    fields = {"embedding": np.eye(48), "priors": [], "counts": (1,), "segment": lambda x: x[0] > image[0].mean()}
    scene = Scene(images=[image], patch_size=PATCH_SIZE, **fields)
    assert scene.score({0: to_grid(image, PATCH_SIZE)})["agreement"] == 1.0
    assert scene.score({0: to_grid(np.zeros_like(image) - 1, PATCH_SIZE)})["agreement"] == 0.5


def test_networks_are_trained_where_asked_for_and_say_what_they_gained(model, processor, crops, monkeypatch, capfd):
    small = Budget(steps=2, width=8, crop_in_blocks=8)
    for name, value in {"BUDGET": small, "INVERSION": small, "NUM_KEYS": 3}.items():
        monkeypatch.setattr(f"hf_privseg.audit.trials.{name}", value)
    images, own = ([processor(crop).pixel_values[0].double().numpy() for crop in part] for part in crops)
    scene = Scene(
        images=images[:2],
        patch_size=PATCH_SIZE,
        embedding=embedding_matrix_of(model),
        priors=[image_prior(own, PATCH_SIZE, num_shifts=2)],
        counts=(1, 2, 4),
        public_base=embedding_matrix_of(model),
        progress=True,
    )
    trials = all_trials(scene, fresh_keys(["orthogonal", "matrix"], model.patch_projection), learned=True)
    learned = [trial.find(scene) for trial in trials if trial.attack.startswith("learned")]
    assert [(f.attack, f.num_images) for f in learned] == [
        ("learned alignment", 2),  # of 6 own images 3 play victims
        ("learned inversion, public base", 1),
    ]
    assert all("on images held out" in f.note and f.metrics["psnr"] > 5 for f in learned)
    assert "training" in capfd.readouterr().err


@pytest.mark.parametrize("family", FAMILIES)
def test_a_target_shows_the_server_what_the_plain_model_computes(model, family):
    rng = np.random.default_rng(0)
    images = [rng.uniform(-1, 1, (3, 16, 20)) for _ in range(2)]
    scene = Scene(
        images=images,
        patch_size=PATCH_SIZE,
        embedding=embedding_matrix_of(model),
        priors=[image_prior(images, PATCH_SIZE)],
        counts=(1,),
    )
    target = Target(scene, fresh_keys([family], model.patch_projection)[family])
    for seen, plain in zip(target.ciphertexts, scene.embedded, strict=True):
        np.testing.assert_allclose(seen @ target.embedding, plain, rtol=0, atol=1e-9)
    assert target.ciphertexts[0].shape[-1] == (32 if family == "embedding" else 48)


def test_a_target_knows_its_own_order_and_signs(model):
    images = [np.random.default_rng(0).uniform(-1, 1, (3, 16, 20))]
    fields = {"embedding": embedding_matrix_of(model), "priors": [image_prior(images, PATCH_SIZE)], "counts": (1,)}
    scene = Scene(images=images, patch_size=PATCH_SIZE, **fields)
    key = SecretKey.generate("signed_permutation")
    order, signs = Target(scene, key).order_and_signs
    np.testing.assert_array_equal(order, key.permutation(48))
    np.testing.assert_array_equal(signs, key.signs(48))


def test_an_encrypted_model_is_refused(processor, crops):
    key = SecretKey.generate()
    encrypted = tiny_model().encrypt_model(key)
    with pytest.raises(Exception, match=rf"expected a plain model, .* \(key fingerprint {key.fingerprint}, family"):
        audit(encrypted, crops[0], processor=processor)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": "huge"}, "expected a budget among quick, full, got 'huge'"),
        ({"families": ["rot13"]}, "expected families among .*, got rot13"),
        ({"images": []}, "one size, got sizes \\[\\]"),
    ],
    ids=["budget", "family", "no images"],
)
def test_bad_arguments_are_refused(model, processor, crops, arguments, message):
    arguments = {"images": crops[0]} | arguments
    with pytest.raises(ValueError, match=message):
        audit(model, processor=processor, progress=False, **arguments)


def test_images_of_several_sizes_are_refused(model, processor, crops):
    odd = [crops[0][0], crops[0][1].resize((32, 64))]
    with pytest.raises(ValueError, match=r"got sizes \[\(64, 32\), \(64, 64\)\]"):
        audit(model, odd, processor=processor, progress=False)


def test_a_victim_among_the_prior_images_is_refused(model, processor, crops):
    with pytest.raises(ValueError, match="no victims, got one that is"):
        audit(model, crops[0], processor=processor, prior_images=crops[0][:1], progress=False)


@pytest.mark.parametrize(("seed", "found"), [(123, 1.0), (None, 0.0)], ids=["a small seed", "random"])
@pytest.mark.filterwarnings("ignore:SecretKey.from_seed")
def test_a_key_from_a_small_seed_is_told_by_its_fingerprint(monkeypatch, seed, found):
    monkeypatch.setattr("hf_privseg.audit.trials.NUM_SEEDS", 200)
    key = SecretKey.generate() if seed is None else SecretKey.from_seed(seed)
    outcome = seed_trial(key.facts.to_dict()).run()
    assert outcome.metrics == {"exact": found}
    assert str(seed) not in outcome.note  # the report must not hand the key on


def test_the_base_is_read_from_a_setr_folder_or_from_elsewhere(model, inputs, tmp_path):
    model.save_pretrained(tmp_path / "setr")
    np.testing.assert_allclose(load_embedding(tmp_path / "setr"), embedding_matrix_of(model), atol=1e-7)
    assert load_embedding(inputs / "vit").shape == (768, 16)


def test_the_command_writes_a_page_and_json_and_prints_json(model, processor, crops, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, crop in enumerate(crops[0]):
        crop.save(folder / f"{index}.png")
    command = ["audit", str(tmp_path / "model"), str(folder), "-o", str(tmp_path / "out"), "--limit", "2"]
    options = ["--family", "orthogonal", "--json", "--no-client-file", "--public-base", str(tmp_path / "model")]
    result = CliRunner().invoke(app, [*command, *options])
    assert result.exit_code == 0, result.output
    printed = json.loads(result.stdout)
    assert printed == json.loads((tmp_path / "out/report.json").read_text())
    assert printed["advice"]["family"] == "orthogonal"
    assert printed["subject"]["num_images"] == 2
    assert "<!doctype html>" in (tmp_path / "out/report.html").read_text()
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, FileExistsError)


def test_the_command_names_a_folder_without_pictures(tmp_path):
    result = CliRunner().invoke(app, ["audit", "default", str(tmp_path)])
    assert isinstance(result.exception, FileNotFoundError)
    assert str(tmp_path) in str(result.exception)
