"""A job goes on where it stopped: nothing is lost, doubled or half written, and no other job gets into its folder."""

import json

import pytest

from helpers.batch_jobs import HereEngine, make_images, parts_in, rows_of, run
from hf_privseg import SecretKey
from hf_privseg.batch import places, work
from hf_privseg.batch.encryption import Encrypt
from hf_privseg.batch.key_source import KeySource
from hf_privseg.batch.plan import Plan, Totals
from hf_privseg.batch.run import start

COUNT = 10


@pytest.fixture
def place(tmp_path):
    SecretKey.generate("permutation").to_file(tmp_path / "secret.key")
    make_images(tmp_path / "images", COUNT)
    return tmp_path


def operation(place, name="secret.key"):
    return Encrypt(KeySource(str(place / name)))


def started(place, output="out", **settings):
    return start(
        operation(place), [str(place / "images")], str(place / output), HereEngine(), **({"part_size": 2} | settings)
    )


def test_a_job_that_stopped_goes_on_and_what_is_done_is_left_alone(place):
    expected = run(operation(place), [place / "images"], place / "expected", part_size=2)
    first = started(place)
    assert first.expected() == COUNT
    results = first.results()
    assert [next(results), next(results)] == [Totals(2, 0)] * 2
    results.close()
    before = {name: (place / "out" / name).stat().st_mtime_ns for name in parts_in(place / "out")}
    assert len(before) == 2
    (place / "out" / ".part-000002-0000-last.parquet.abc.tmp").write_bytes(b"half")
    second = started(place)
    assert second.expected() == COUNT - 4
    assert len(list(second.results())) == 3
    assert rows_of(place / "out") == expected
    assert {name: (place / "out" / name).stat().st_mtime_ns for name in before} == before
    assert not list((place / "out").glob(".*"))
    assert list(started(place).results()) == []


@pytest.mark.parametrize("lost", ["part-000003-0000-last.parquet", "part-000000-0000-last.parquet"])
def test_a_part_that_is_lost_is_made_again(place, lost):
    expected = run(operation(place), [place / "images"], place / "out", part_size=2)
    (place / "out" / lost).unlink()
    assert [task.chunk for task in started(place).tasks] == [int(lost[5:11])]
    list(started(place).results())
    assert rows_of(place / "out") == expected


def test_parts_of_one_chunk_are_skipped_by_number(place):
    import tarfile

    with tarfile.open(place / "images.tar", "w") as file:
        for path in sorted((place / "images").iterdir()):
            file.add(path, path.name)
    expected = run(operation(place), [place / "images.tar"], place / "out", part_size=3)
    names = parts_in(place / "out")
    assert names == [f"part-000000-000{index}{'-last' * (index == 3)}.parquet" for index in range(4)]
    for lost in (names[1], names[3]):
        (place / "out" / lost).unlink()
        again = start(operation(place), [str(place / "images.tar")], str(place / "out"), HereEngine(), part_size=3)
        assert again.tasks[0].done == tuple(index for index in range(4) if names[index] != lost)
        assert [each.images for each in again.results()] == [3 if lost == names[1] else 1]
        assert rows_of(place / "out") == expected


def test_another_job_in_the_same_folder_is_refused(place):
    run(operation(place), [place / "images"], place / "out", part_size=2)
    with pytest.raises(ValueError, match=r"has the plan of another job .part_size: 2 there, 3 now.; choose another"):
        started(place, part_size=3)
    SecretKey.generate("permutation").to_file(place / "other.key")
    with pytest.raises(ValueError, match=r"key: .*fingerprint"):
        run(operation(place, "other.key"), [place / "images"], place / "out", part_size=2)
    make_images(place / "more", 1)
    with pytest.raises(ValueError, match="sources: "):
        run(operation(place), [place / "more"], place / "out", part_size=2)


def test_a_folder_with_something_else_in_it_is_refused(place):
    make_images(place / "out", 1)
    with pytest.raises(FileExistsError, match=r"out holds 000\.png, which is of no job"):
        started(place)


def test_a_plan_that_was_half_written_is_written_again(place):
    (place / "out").mkdir()
    (place / "out" / "chunks.arrow").write_bytes(b"half")
    assert len(run(operation(place), [place / "images"], place / "out")) == COUNT


def test_a_plan_that_was_changed_is_refused(place):
    run(operation(place), [place / "images"], place / "out", part_size=2)
    path = place / "out" / "chunks.arrow"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ValueError, match=r"chunks\.arrow was changed"):
        started(place, part_size=2)


def test_images_that_come_later_belong_to_another_job(place):
    expected = run(operation(place), [place / "images"], place / "out", part_size=2)
    make_images(place / "images" / "later", 2)
    assert list(started(place).results()) == []
    assert rows_of(place / "out") == expected


def test_errors_are_tried_again_when_asked_for(place):
    bad = place / "images" / "003.png"
    good = bad.read_bytes()
    bad.write_bytes(b"no image")
    run(operation(place), [place / "images"], place / "out", part_size=2)
    assert Plan.open(str(place / "out")).totals() == Totals(COUNT, 1)
    bad.write_bytes(good)
    assert list(started(place).results()) == []
    assert list(started(place, retry_errors=True).results()) == [Totals(2, 0)]
    assert rows_of(place / "out") == run(operation(place), [place / "images"], place / "expected", part_size=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"expected the plan of a job in .*out, got a damaged job\.json; choose another --output"),
        ("[]", r"got a damaged job\.json"),
        ('{"chunks": {}}', r"has the plan of another job"),
    ],
)
def test_a_damaged_job_file_is_refused(place, content, message):
    run(operation(place), [place / "images"], place / "out", part_size=2)
    (place / "out" / "job.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        started(place)


def test_a_damaged_part_is_named(place):
    run(operation(place), [place / "images"], place / "out", part_size=2)
    (place / "out" / parts_in(place / "out")[1]).write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"part-000001-0000-last\.parquet in .*out is damaged .*; remove it, and"):
        Plan.open(str(place / "out")).totals()


def test_a_source_that_is_an_unfinished_job_is_refused(place):
    job = started(place)
    next(job.results())
    with pytest.raises(FileNotFoundError, match=r"expected a finished job in .*out, but parts of it are missing"):
        run(operation(place), [place / "out"], place / "next")


def test_a_full_disk_ends_the_job_and_a_busy_one_is_tried_again(place, monkeypatch):
    real, calls = places.write_file, []
    monkeypatch.setattr(work, "_PAUSE", 0)

    def fails(url, content, until):
        calls.append(url)
        if len(calls) < until:
            raise OSError(28, "No space left on device")
        real(url, content)

    monkeypatch.setattr(work, "write_file", lambda url, content: fails(url, content, 3))
    assert next(started(place).results()) == Totals(2, 0)
    calls.clear()
    monkeypatch.setattr(work, "write_file", lambda url, content: fails(url, content, 99))
    with pytest.raises(OSError, match="No space left"):
        list(started(place, "other").results())
    assert len(calls) == 3


def test_a_store_that_shows_files_before_they_are_whole_gets_them_renamed(place, monkeypatch):
    monkeypatch.setattr(places, "_OBJECT_STORES", frozenset())
    url = f"memory://renamed-{place.name}"
    rows = run(operation(place), [place / "images"], url, part_size=4)
    assert [row["id"] for row in rows] == [f"{index:03}.png" for index in range(COUNT)]
    assert not [name for name in places.names_in(url) if name.endswith(".tmp")]


def test_the_plan_says_what_the_job_is_and_no_secret(place):
    run(operation(place), [place / "images"], place / "out", part_size=2)
    stored = json.loads((place / "out" / "job.json").read_text())
    assert stored["operation"] == "encrypt"
    assert stored["sources"] == [str(place / "images")]
    assert stored["key"] == operation(place).key.read().facts.to_dict()
    assert stored["chunks"]["count"] == COUNT // 2
