"""`privseg batch`: what it prints, and what it refuses before any worker starts."""

import pytest

from helpers.batch_jobs import HereEngine, make_images, rows_of
from hf_privseg import SecretKey
from hf_privseg.batch import local_engine


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """A pool of processes takes seconds to start; tests/batch has it."""
    made = []

    def engine(workers):
        made.append(workers)
        return HereEngine()

    monkeypatch.setattr(local_engine, "LocalEngine", engine)
    return made


@pytest.fixture
def many(place):
    make_images(place.folder / "many", 5)
    return place


def encrypt(place, *arguments, output="out"):
    return ["batch", "encrypt", place.folder / "many", "-o", place.folder / output, "-k", place.key_file, *arguments]


def test_encrypt_and_segment(many, in_this_process):
    model = many.encrypted_model()
    out = many.succeed(*encrypt(many, "--model", model, "--workers", 3))
    assert out.startswith("5 images in ")
    assert out.endswith(f"a second). Wrote {many.folder / 'out'}.")
    job = ["batch", "segment", many.folder / "out", "--model", model, "-o", many.folder / "maps", "--batch-size", 2]
    facts = many.run_json(*job)
    assert (facts["images"], facts["errors"], facts["images_now"]) == (5, 0, 5)
    assert in_this_process == [3, 1]
    assert [row["id"] for row in rows_of(many.folder / "maps")] == [f"00{index}.png" for index in range(5)]
    assert "0 images in " in (out := many.succeed(*job))
    assert "5 images of earlier runs." in out


def test_standard_output_is_for_the_report_alone_whatever_an_engine_prints(many, monkeypatch):
    class Loud(HereEngine):
        def run(self, job, tasks):
            print("Raylet is terminated.")  # as Ray does when a node dies
            return super().run(job, tasks)

    monkeypatch.setattr(local_engine, "LocalEngine", lambda _: Loud())
    assert many.run_json(*encrypt(many))["images_now"] == 5


def test_translate(many):
    many.succeed(*encrypt(many))
    new = SecretKey.generate()
    new.to_file(many.folder / "new.key")
    update = many.folder / "next.rekey"
    many.succeed("make-rekey-update", update, "-k", many.key_file, "--new-key-file", many.folder / "new.key")
    job = ["batch", "translate", many.folder / "out", "-o", many.folder / "translated", "--update", update]
    many.succeed(*job)
    assert {row["fingerprint"] for row in rows_of(many.folder / "translated")} == {new.fingerprint}


def test_rows_with_errors_end_in_exit_code_1_after_the_others_are_done(many):
    (many.folder / "many" / "bad.png").write_bytes(b"no image")
    code, out, err = many.run(*encrypt(many))
    assert code == 1
    assert out.startswith("6 images in ")
    assert "error: no ciphertext for 1 of 6 images: their rows in" in err
    (many.folder / "many" / "bad.png").write_bytes((many.folder / "many" / "000.png").read_bytes())
    assert "no ciphertext for 1 of 6 images" in many.fail(*encrypt(many))
    many.succeed(*encrypt(many, "--retry-errors"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["-k", "none.key"], "expected a key file, but "),
        (["--model", "nowhere"], "got nowhere"),
        (["--part-size", "3"], "has the plan of another job"),
    ],
    ids=" ".join,
)
def test_one_line_at_the_start(many, change, message):
    many.succeed(*encrypt(many))
    assert message in many.fail(*encrypt(many, *change))


def test_the_key_of_another_model(many):
    model = many.encrypted_model()
    SecretKey.generate().to_file(many.folder / "other.key")
    job = encrypt(many, "--model", model, "-k", many.folder / "other.key")
    assert "do not belong together" in many.fail(*job)
    assert not (many.folder / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["-k", "-"], "every worker reads the key itself"),
        (["--address", "auto"], "belong to --engine ray"),
        (["--engine", "spark"], "expected one of local, ray"),
    ],
    ids=" ".join,
)
def test_wrong_usage(many, change, message):
    err = many.fail(*encrypt(many, *change), code=2)
    assert message in " ".join(err.replace("│", " ").split())


def test_a_missing_package_is_named_with_its_extra(many, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "hf_privseg.batch.ray_engine", raising=False)
    assert "needs ray, which is not installed: pip install 'hf-privseg[ray]'" in (
        many.fail(*encrypt(many, "--engine", "ray"))
    )
