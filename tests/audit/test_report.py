"""The verdict is the worst of what was found, advice follows from the deployment, and the report says both."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from hf_privseg.audit.advice import Deployment, advise
from hf_privseg.audit.findings import (
    ATTACKERS,
    FRESH_KEYS,
    FRESH_KEYS_IN_WORDS,
    Finding,
    as_picture,
    under_fresh_keys,
    verdicts,
    worst,
)
from hf_privseg.audit.report import AuditReport
from hf_privseg.audit.summary import short_worst_cases, table_rows, worst_cases
from hf_privseg.reporting.tables import terminal_table

PICTURE = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


def finding(hp=None, attacker="server", family="orthogonal", **more):
    metrics = {} if hp is None else {"hp": hp, "psnr": 20.0}
    return Finding(
        **{"attack": "an attack", "attacker": attacker, "family": family, "num_images": 4} | more, metrics=metrics
    )


def deployment(**answers):
    return Deployment(**{"base_is_public": False, "client_holds_file": True, "float_transport": True} | answers)


def report(findings, advice=None):
    return AuditReport(
        subject={"model": "<a model>", "num_images": 4},
        findings=findings,
        advice=advice or advise(deployment()),
        original=PICTURE,
    )


@pytest.mark.parametrize(
    ("hp", "words"),
    [
        (1.0, "the images"),
        (0.6, "the images"),
        (0.59, "recognisable objects"),
        (0.3, "recognisable objects"),
        (0.29, "blurred outlines"),
        (0.15, "blurred outlines"),
        (0.1, "a thumbnail"),
        (-0.4, "a thumbnail"),
        (None, ""),
    ],
)
def test_a_level_says_what_was_recovered(hp, words):
    assert finding(hp).level == words


def test_the_worst_is_the_highest_hp_of_any_attack_but_no_baseline():
    rows = [finding(0.2), finding(0.7, "known plaintext"), finding(0.99, "baseline"), finding(None, "model")]
    assert worst(rows) is rows[1]
    assert worst([rows[2], rows[3]]) is None


def test_verdicts_go_by_family_and_by_what_the_attacker_has():
    rows = [finding(0.2), finding(0.3), finding(0.1, "ciphertexts"), finding(0.9, family="permutation")]
    found = verdicts(rows)
    assert [(family, attacker) for family, attacker, _ in found] == [
        ("orthogonal", "ciphertexts"),
        ("orthogonal", "server"),
        ("permutation", "server"),
    ]
    assert found[1][2] is rows[1]


def test_fresh_keys_leave_what_takes_one_ciphertext_and_what_no_key_changes():
    one, four = finding(0.3, "ciphertexts", num_images=1), finding(0.8, "ciphertexts")
    of_z = finding(0.4, family="any", num_images=64)
    rest = [finding(0.9, "known plaintext", num_images=1), finding(0.95, "baseline", num_images=1)]
    rest.append(finding(0.6, "ciphertexts", family="permutation", num_images=1))
    assert under_fresh_keys([one, four, of_z, *rest]) == [one, of_z, rest[-1]]
    assert under_fresh_keys([one, four, of_z, *rest], "orthogonal") == [one, of_z]

    rows = {(family, attacker): found.metrics["hp"] for family, attacker, found in verdicts([one, four, of_z, *rest])}
    assert rows["orthogonal", "ciphertexts"] == 0.8
    assert rows["orthogonal", FRESH_KEYS] == 0.4
    assert rows["permutation", FRESH_KEYS] == 0.6
    assert ("any", FRESH_KEYS) not in rows
    head, cells = worst_cases([one, four])
    fresh = ["orthogonal", FRESH_KEYS_IN_WORDS, "recognisable objects", "an attack", "0.30"]
    assert (len(head), cells[-1]) == (5, fresh)
    assert report([one, four]).verdict.endswith(
        "By the provider if every image had a key of its own: recognisable objects (orthogonal, an attack: hp 0.30)."
    )
    assert "key of its own" not in report([four, *rest[:2]]).verdict


def test_the_sentence_names_the_worst_and_what_the_provider_gets_alone():
    text = report([finding(0.2), finding(0.9, "public base", attack="inversion")]).verdict
    assert "the images (orthogonal, inversion: hp 0.90)" in text
    assert text.endswith("By the provider without further help: blurred outlines (orthogonal, an attack: hp 0.20).")
    assert report([]).verdict == "No attack that reconstructs images was run."


@pytest.mark.parametrize(
    ("answers", "family"),
    [
        ({}, "embedding"),
        ({"client_holds_file": False}, "orthogonal"),
        ({"float_transport": False}, "signed_permutation"),
        ({"float_transport": False, "client_holds_file": False}, "signed_permutation"),
    ],
)
@pytest.mark.parametrize("base_is_public", [False, True])
def test_advice_follows_from_the_deployment(answers, family, base_is_public):
    advice = advise(deployment(base_is_public=base_is_public, **answers))
    assert advice.family == family
    assert advice.reasons[0].startswith("The patch embedding is public") == base_is_public
    assert "segmentation maps are not hidden" in advice.reasons[-1]


def test_advice_says_what_its_family_still_leaks():
    rows = [finding(0.34, attack="alignment", prior="unrelated"), finding(0.9, "known plaintext")]
    advice = advise(deployment(client_holds_file=False), rows)
    assert any(
        "recognisable objects (hp 0.34, by alignment from 4 ciphertexts and a prior of unrelated images" in r
        for r in advice.reasons
    )
    assert not any("hp" in reason for reason in advise(deployment(), rows).reasons)  # those rows are of another family


def test_no_family_is_recommended_that_was_not_audited():
    only = advise(deployment(), families=["orthogonal", "permutation"])
    assert only.family == "orthogonal"
    said = "Of embedding, matrix, signed_permutation this audit says nothing: it did not try them here."
    assert said in only.reasons
    none = advise(deployment(float_transport=False), families=["orthogonal"])
    assert none.family is None
    assert none.recommendation == "No audited family fits this deployment."
    said = "Of signed_permutation, permutation this audit says nothing: it did not try them here."
    assert said in none.reasons
    assert not any("did not try" in reason for reason in advise(deployment()).reasons)


@pytest.mark.parametrize("family", ["permutation", "any"])
def test_no_family_is_recommended_that_shows_the_images(family):
    hidden, shown = (
        advise(deployment(), [finding(hp, "ciphertexts", family)], families=["permutation"]) for hp in (0.59, 0.6)
    )
    assert hidden.recommendation == "Recommended here: permutation."
    assert shown.recommendation == ("No audited family hides the images from the provider; permutation leaks least.")


def test_no_family_is_recommended_for_a_public_patch_embedding():
    public, private = (advise(deployment(base_is_public=public)).recommendation for public in (True, False))
    assert public == "No key family protects a public patch embedding: train it in private first."
    assert private == "By what is known of the families, embedding leaks least; no attack on it was run here."


def test_the_report_of_a_public_model_begins_with_the_warning(tmp_path):
    public = replace(report([finding(0.25)]), public_source="the weights of X")
    warning = public.verdict_sentences[0]
    assert warning.startswith("This model protects nothing: its patch embedding is that of the weights of X")
    public.to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    body = re.sub("<[^>]*>", "", page.split("<body>")[1]).split("\n")
    assert [line for line in body if line][:2] == ["What an attacker recovers", warning]
    assert next(iter(public.to_dict().items())) == ("verdict", public.verdict)
    assert public.verdict.startswith(warning)


def test_the_worst_cases_fit_a_terminal_of_80_columns():
    rows = [finding(0.5, attacker, family="signed_permutation") for attacker in ATTACKERS]
    console = Console(width=80)
    with console.capture() as shown:
        console.print(terminal_table("worst", *short_worst_cases(rows)))
    text = shown.get()
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("signed_permutation") == len(ATTACKERS) - 1  # not the baseline; no cell is cut
    assert text.count("0.50") == len(ATTACKERS) - 1


def test_nothing_claims_security():
    texts = [str(advise(deployment(base_is_public=public)).reasons) for public in (True, False)]
    texts += [report([finding(hp)]).verdict for hp in (0.0, 0.2, 0.4, 0.8)]
    assert not any("secure" in text.lower() for text in texts)


def test_json_holds_every_figure(tmp_path):
    rows = [finding(0.25, picture=PICTURE, note="a note")]
    report(rows).to_json(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["findings"][0]["metrics"] == {"hp": 0.25, "psnr": 20.0}
    assert read["findings"][0]["recovered"] == "blurred outlines"
    assert read["advice"]["family"] == "embedding"
    assert read["subject"]["num_images"] == 4
    assert read["made_with"]["versions"]["hf-privseg"]


def test_html_is_one_page_with_pictures_and_escaped_text(tmp_path):
    report([finding(0.25, picture=PICTURE), finding(0.1)]).to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2  # the original, and one reconstruction
    assert "&lt;a model&gt;" in page
    assert "<a model>" not in page
    assert "http" not in page  # nothing is loaded from elsewhere


def test_tables_show_the_metrics_that_occur():
    head, rows = table_rows([finding(0.25), Finding(attack="k", attacker="model", family="permutation", num_images=0)])
    assert "hp" in head
    assert "SSIM" not in head
    assert rows[0][head.index("hp")] == "0.25"
    assert rows[1][head.index("hp")] == ""


def test_a_table_keeps_what_a_reader_must_know_beside_the_figures():
    rows = [finding(0.25, note="fails to beat the linear one"), finding(0.9, "baseline"), finding(note="no such seed")]
    head, cells = table_rows(rows)
    recovered = [row[head.index("recovered")] for row in cells]
    assert recovered == ["blurred outlines; fails to beat the linear one", "baseline", "no such seed"]


def test_large_pictures_are_reduced(tmp_path):
    large = np.zeros((100, 2000, 3), np.uint8)
    report([finding(0.25, picture=large)]).to_html(tmp_path / "report.html")
    files = re.findall(r"data:image/jpeg;base64,([^\"]+)", (tmp_path / "report.html").read_text())
    sizes = [Image.open(io.BytesIO(base64.b64decode(file))).size for file in files]
    assert sizes == [(8, 8), (640, 32)]


def test_a_picture_spans_the_range_and_clips():
    image = np.stack([np.full((2, 2), value) for value in (-1.5, 0.0, 1.0)])
    assert as_picture(image)[0, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("levels", "shown"),
    [([0.0], [128, 128, 128]), ([0.0, 1.0], [128, 128, 128]), ([1.0, 0.0, -1.0, 0.5], [255, 128, 0])],
    ids=["grey", "the first of two", "the first three of four"],
)
def test_a_picture_of_other_channels(levels, shown):
    image = np.stack([np.full((2, 3), level) for level in levels])
    picture = as_picture(image)
    assert picture.shape == (2, 3, 3)
    assert picture[1, 2].tolist() == shown
