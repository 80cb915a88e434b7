"""The audit on a small model and crops of an image: every attack is run, scored, and told as it is."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("skimage", reason="the attacks extra is not installed")

from helpers.tiny_setr import tiny_model
from hf_privseg import SecretKey, SetrImageProcessor
from hf_privseg.attacks.learned_inversion import Budget
from hf_privseg.attacks.model_theft import TheftBudget
from hf_privseg.attacks.tools.blocks import to_grid
from hf_privseg.attacks.tools.priors import image_prior
from hf_privseg.audit.attack_table import ATTACKS, FAMILIES, trials_of
from hf_privseg.audit.audit import audit, fresh_keys
from hf_privseg.audit.embeddings import embedding_matrix_of, load_embedding, public_source
from hf_privseg.audit.findings import ATTACKERS
from hf_privseg.audit.scene import Scene
from hf_privseg.audit.subject import Subject
from hf_privseg.audit.target import Target
from hf_privseg.catalog.sample_images import sample_image
from hf_privseg.cli.app import app

PATCH_SIZE = 4
pytestmark = pytest.mark.usefixtures("small_samples")


@pytest.fixture(scope="module")
def model():
    return tiny_model(hidden_size=32, patch_size=PATCH_SIZE)


@pytest.fixture(scope="module")
def processor():
    return SetrImageProcessor(do_resize=False, patch_size=PATCH_SIZE)


@pytest.fixture(scope="module")
def crops():
    """Victims from one image, and the attacker's own from another one."""

    def cut(name, count):
        image = sample_image(name).resize((320, 240))
        places = [(64 * (n % 4), 64 * (n // 4)) for n in range(count)]
        return [image.crop((left, top, left + 64, top + 64)) for left, top in places]

    return cut("china", 4), cut("coffee", 6)


@pytest.fixture(scope="module")
def report(model, processor, crops, small_samples):
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
            "synthetic", "unrelated", "in-domain"
        }  # fmt: skip


@pytest.mark.parametrize("family", ["permutation", "signed_permutation"])
@pytest.mark.parametrize("attacker", ["known plaintext", "chosen plaintext", "public base"])
def test_a_permutation_falls_as_a_whole_where_more_than_ciphertexts_is_known(report, family, attacker):
    (found,) = rows(report, family=family, attacker=attacker)
    assert found.metrics["exact"] >= (0.9 if attacker == "known plaintext" else 1.0)
    assert found.metrics["hp"] > 0.95
    assert found.level == "the images"
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
    answer = next(f for f in report.findings if f.attack == "segmentation map")
    assert (answer.attacker, answer.family, answer.prior) == ("baseline", "any", "in-domain")
    assert answer.metrics["hp"] < 0.5
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
    scene = Scene(
        images=[image],
        patch_size=PATCH_SIZE,
        embedding=np.eye(48),
        priors=[],
        counts=(1,),
        segment=lambda x: x[0] > image[0].mean(),
    )
    assert scene.score({0: to_grid(image, PATCH_SIZE)})["agreement"] == 1.0
    assert scene.score({0: to_grid(np.zeros_like(image) - 1, PATCH_SIZE)})["agreement"] == 0.5


def test_networks_are_trained_where_asked_for_and_say_what_they_gained(model, processor, crops, monkeypatch, capfd):
    small = Budget(steps=2, width=8, crop_in_blocks=8)
    settings = {"attacks_on_ciphertexts.BUDGET": small, "attacks_with_a_base.BUDGET": small}
    for name, value in (settings | {"attacks_on_ciphertexts.NUM_KEYS": 3}).items():
        monkeypatch.setattr(f"hf_privseg.audit.{name}", value)
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
    trials = trials_of(scene, fresh_keys(["orthogonal", "matrix"], model.patch_projection), training=True)
    learned = [trial.find() for trial in trials if trial.attack.trains]
    assert [(f.attack, f.num_images) for f in learned] == [
        ("learned inversion", 1),
        ("learned alignment", 2),  # of 6 own images 3 play victims
    ]
    assert all("on images held out" in f.note and f.metrics["psnr"] > 5 for f in learned)
    assert "training" in capfd.readouterr().err


def test_a_map_that_shows_dark_and_bright_pixels_gives_outlines_away(crops, monkeypatch):
    """The answer is the image itself at two levels, and the attacker learns of what pixels it comes."""
    monkeypatch.setattr("hf_privseg.audit.baselines.MAP_BUDGET", Budget(steps=4, width=8, depth=1, crop_in_blocks=8))
    victims, own = ([np.asarray(crop).transpose(2, 0, 1) / 127.5 - 1 for crop in part] for part in crops)
    scene = Scene(
        images=victims,
        patch_size=PATCH_SIZE,
        embedding=np.eye(3 * PATCH_SIZE**2),
        priors=[image_prior(own, PATCH_SIZE)],
        counts=(1,),
        num_scored=4,
        segment=lambda image: (image.mean(axis=0) > 0).astype(np.int64),
    )
    found = {trial.attack.name: trial.find() for trial in trials_of(scene, {}, training=True) if "map" in trial.name}
    assert list(found) == ["segmentation map", "learned segmentation map"]
    assert all(finding.metrics["hp"] > 0.3 for finding in found.values())
    assert "on images held out" in found["learned segmentation map"].note
    small = replace(scene, priors=[image_prior([image[:, :16, :16] for image in own], PATCH_SIZE)])
    assert [t.attack.name for t in trials_of(small, {}, training=True) if "map" in t.name] == ["segmentation map"]


def test_answers_and_public_weights_help_where_the_layers_are_at_hand(model, processor, crops, monkeypatch):
    """The rows that need a network behind the embedding, with a base that has drifted."""
    monkeypatch.setattr("hf_privseg.audit.attacks_with_a_base.THEFT_BUDGET", TheftBudget(steps=20, batch_size=2))
    subject = Subject.of(model, processor)
    images, own = ([subject.pixels(crop) for crop in part] for part in crops)
    drifted = subject.embedding + 0.1 * subject.embedding.std() * np.random.default_rng(0).standard_normal((48, 32))
    scene = Scene(
        images=images,
        patch_size=PATCH_SIZE,
        embedding=subject.embedding,
        priors=[image_prior(own, PATCH_SIZE)],
        counts=(1, 4),
        segment=lambda image: np.digitize(image.mean(axis=0), (0, 0.5)),  # classes of some sense
        learn_embedding=subject.learn_embedding,
        public_base=drifted,
    )
    before = embedding_matrix_of(model)
    keys = fresh_keys(["orthogonal"], subject.projection)
    names = ("alignment by classes", "alignment of z by classes", "stolen embedding", "alignment of z")
    tried = [attack for attack in ATTACKS if attack.name in names]
    found = {(t.attack.name, t.num_images): t.find() for t in trials_of(scene, keys, attacks=tried, training=True)}
    assert set(found) == {(name, 4) for name in names} | {(name, 1) for name in names if name != "stolen embedding"}
    assert found["stolen embedding", 4].metrics["hp"] > 0.6
    assert "cross entropy of the learned embedding" in found["stolen embedding", 4].note
    assert found["alignment by classes", 4].metrics["hp"] > 0.3
    np.testing.assert_array_equal(embedding_matrix_of(model), before)
    blind = replace(scene, segment=None, learn_embedding=None)
    left = {trial.attack.name for trial in trials_of(blind, keys, attacks=tried, training=True)}
    assert left == {"alignment of z"}


def scene_of(model, images):
    """The images before a server with the model, whose attacker knows images of their kind."""
    return Scene(
        images=images,
        patch_size=PATCH_SIZE,
        embedding=embedding_matrix_of(model),
        priors=[image_prior(images, PATCH_SIZE)],
        counts=(1,),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_target_shows_the_server_what_the_plain_model_computes(model, family):
    rng = np.random.default_rng(0)
    images = [rng.uniform(-1, 1, (3, 16, 20)) for _ in range(2)]
    scene = scene_of(model, images)
    target = Target(scene, fresh_keys([family], model.patch_projection)[family])
    for seen, plain in zip(target.ciphertexts, scene.embedded, strict=True):
        np.testing.assert_allclose(seen @ target.embedding, plain, rtol=0, atol=1e-9)
    assert target.ciphertexts[0].shape[-1] == (32 if family == "embedding" else 48)


def test_a_target_knows_its_own_order_and_signs(model):
    images = [np.random.default_rng(0).uniform(-1, 1, (3, 16, 20))]
    scene = scene_of(model, images)
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
def test_a_key_from_a_small_seed_is_told_by_its_fingerprint(model, monkeypatch, seed, found):
    monkeypatch.setattr("hf_privseg.audit.attacks_with_more.NUM_SEEDS", 200)
    key = SecretKey.generate() if seed is None else SecretKey.from_seed(seed)
    scene = Scene(
        images=[np.zeros((3, 8, 8))],
        patch_size=PATCH_SIZE,
        embedding=embedding_matrix_of(model),
        priors=[],
        counts=[],
        key_in_use=key.facts,
    )
    attacks = [attack for attack in ATTACKS if attack.name == "small seeds"]
    (trial,) = trials_of(scene, {}, attacks=attacks)
    outcome = trial.find()
    assert outcome.metrics == {"exact": found}
    assert str(seed) not in outcome.note  # the report must not hand the key on


def test_an_attack_on_a_family_says_where_to_name_it(model):
    scene = Scene(
        images=[np.zeros((3, 8, 8))], patch_size=PATCH_SIZE, embedding=embedding_matrix_of(model), priors=[], counts=[]
    )
    (attack,) = (attack for attack in ATTACKS if attack.name == "one chosen image")
    misplaced = replace(attack, families=("any",))
    (trial,) = trials_of(scene, {}, attacks=[misplaced])
    with pytest.raises(ValueError, match="expected a family to try 'one chosen image' on, got none"):
        trial.find()


@pytest.mark.parametrize("num_channels", [1, 2, 4, 5])
def test_images_of_any_number_of_channels_are_audited(num_channels, crops):
    model = tiny_model(hidden_size=32, patch_size=PATCH_SIZE, num_channels=num_channels)
    processor = SetrImageProcessor(do_resize=False, patch_size=PATCH_SIZE, num_channels=num_channels)
    victims, others = ([bands(crop, num_channels) for crop in part[:2]] for part in crops)
    report = audit(
        model,
        victims,
        processor=processor,
        families=["signed_permutation", "orthogonal"],
        prior_images=others,
        public_base=embedding_matrix_of(model) * 1.05,
        progress=False,
    )
    assert report.subject["num_channels"] == num_channels
    assert report.original.shape == (64, 64, 3)
    for family in ("signed_permutation", "orthogonal"):
        (chosen,) = rows(report, family=family, attacker="chosen plaintext")
        assert chosen.metrics["psnr"] > 60
        assert chosen.metrics["agreement"] == 1.0
        np.testing.assert_allclose(chosen.picture.astype(int), report.original, atol=1)
    assert {f.prior for f in rows(report, attack="alignment")} == {"synthetic", "unrelated", "in-domain"}
    (row_matching,) = rows(report, attack="row matching")
    assert row_matching.metrics["exact"] == row_matching.metrics["signs"] == 1.0
    grey = next(f for f in report.findings if f.attack == "constant grey")
    (wiener,) = rows(report, attack="Wiener inversion", prior="in-domain")
    assert wiener.metrics["psnr"] > grey.metrics["psnr"] + 3


def bands(crop, num_channels):
    """An image -> (height, width, num_channels) uint8: its luminance in as many bands of different contrast."""
    grey = np.asarray(crop.convert("L"), float)
    contrasts = np.linspace(1, 0.7, num_channels)
    noise = np.random.default_rng(0).normal(0, 4, (*grey.shape, num_channels))
    return (grey[..., None] * contrasts + noise).clip(0, 255).astype(np.uint8)


def test_a_model_with_a_public_patch_embedding_protects_nothing_and_its_report_says_so_first(processor, crops, model):
    small = {"processor": processor, "families": ["permutation"], "progress": False}
    given = audit(model, crops[0][:1], public_base=embedding_matrix_of(model), **small)
    assert given.verdict.startswith("This model protects nothing: its patch embedding is that of the public weights")
    assert given.advice.reasons[0].startswith("The patch embedding is public")
    drifted = audit(model, crops[0][:1], public_base=embedding_matrix_of(model) * 1.05, **small)
    assert drifted.verdict.startswith("Recovered, in the worst case: ")
    private = audit(model, crops[0][:1], **small)
    assert private.public_source is None


def test_the_embedded_checkpoint_is_recognised_as_public(model):
    shipped = load_embedding("default")
    source = public_source(shipped.astype(np.float16).astype(float), None)
    assert source is not None
    name, weights = source
    assert name == "the checkpoint that this package ships"
    np.testing.assert_array_equal(weights, shipped)
    noise = np.random.default_rng(0).standard_normal(shipped.shape)
    assert public_source(shipped + 0.01 * np.abs(shipped).mean() * noise, None) is None
    assert public_source(embedding_matrix_of(model), shipped) is None  # of another shape


def test_the_base_is_read_from_a_setr_folder_or_from_elsewhere(model, inputs, tmp_path):
    model.save_pretrained(tmp_path / "setr")
    np.testing.assert_allclose(load_embedding(tmp_path / "setr"), embedding_matrix_of(model), atol=1e-7)
    assert load_embedding(inputs / "vit").shape == (768, 16)


def test_the_command_writes_a_page_and_json_and_prints_json(model, processor, crops, tmp_path):
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    folder = tmp_path / "images"
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
    lines = [line for line in result.stderr.splitlines() if line and "%|" not in line]
    estimate, verdict, *_ = lines
    assert re.fullmatch(r"\d+ attacks: about \d+ minutes? on a machine such as .*", estimate)
    assert verdict.startswith("This model protects nothing: its patch embedding is that of the public weights")
    assert max(len(line) for line in lines if line[:1] in "┏┃┡│└") <= 80
    assert lines.index("No key family protects a public patch embedding: train it in private first.") < lines.index(
        next(line for line in lines if line.startswith("┏"))
    )
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, FileExistsError)


def test_the_command_names_a_folder_without_pictures(tmp_path):
    result = CliRunner().invoke(app, ["audit", "default", str(tmp_path)])
    assert isinstance(result.exception, FileNotFoundError)
    assert str(tmp_path) in str(result.exception)
