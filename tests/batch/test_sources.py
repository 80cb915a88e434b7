"""Where images come from: each form gives every record once, in one order; a damaged one gives rows with errors."""

import io
import os
import tarfile

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.batch_jobs import HereEngine, make_images, rows_of, run
from hf_privseg import SecretKey
from hf_privseg.batch import chunks
from hf_privseg.batch.chunks import image_column
from hf_privseg.batch.encryption import Encrypt
from hf_privseg.batch.key_source import KeySource
from hf_privseg.batch.places import filesystem_of
from hf_privseg.batch.plan import Plan, Totals
from hf_privseg.batch.run import start
from hf_privseg.batch.sources import chunks_of, source_urls

COUNT = 7


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with images and a key; failed reads are not waited for."""
    SecretKey.generate("permutation").to_file(tmp_path / "secret.key")
    make_images(tmp_path / "images", COUNT)
    monkeypatch.setattr(chunks, "_PAUSE", 0)
    return tmp_path


def encrypted(place, *sources, output="out", **settings):
    return run(Encrypt(KeySource(str(place / "secret.key"))), sources, place / output, **settings)


def contents(place):
    return [path.read_bytes() for path in sorted((place / "images").iterdir())]


def ciphertexts(rows):
    assert [row["error"] for row in rows] == [None] * len(rows)
    return [row["ciphertext"] for row in rows]


def write_parquet(place, column="image", name="images.parquet", kind=None):
    values = [{"bytes": content, "path": f"{index}.png"} for index, content in enumerate(contents(place))]
    kind = kind or pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    if not pa.types.is_struct(kind):
        values = [value["bytes"] for value in values]
    table = pa.table({column: pa.array(values, kind), "label": list(range(COUNT))})
    pq.write_table(table, place / name, row_group_size=3)


def write_tar(path, members):
    with tarfile.open(path, "w") as file:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def test_folders_below_folders_hidden_files_and_other_files(place):
    make_images(place / "images" / "b" / "c", 2)
    make_images(place / "images" / ".hidden", 1)
    (place / "images" / "notes.txt").write_text("no image")
    rows = encrypted(place, place / "images", part_size=4)
    assert [row["id"] for row in rows] == [f"{i:03}.png" for i in range(COUNT)] + ["b/c/000.png", "b/c/001.png"]


@pytest.mark.parametrize(
    "kind", [None, pa.binary(), pa.large_binary()], ids=["image feature", "binary", "large binary"]
)
def test_parquet_row_groups(place, kind):
    expected = ciphertexts(encrypted(place, place / "images", output="expected"))
    write_parquet(place, kind=kind)
    rows = encrypted(place, place / "images.parquet", part_size=2)
    assert ciphertexts(rows) == expected
    assert [row["id"] for row in rows] == [f"images.parquet#{index}" for index in range(COUNT)]
    parts = sorted(path.name for path in (place / "out").glob("part-*"))
    assert parts == [
        "part-000000-0000.parquet", "part-000000-0001-last.parquet",
        "part-000001-0000.parquet", "part-000001-0001-last.parquet", "part-000002-0000-last.parquet",
    ]  # fmt: skip


def test_a_column_of_bytes_by_its_name_and_what_is_said_without(place):
    write_parquet(place, column="photo", kind=pa.binary())
    assert len(encrypted(place, place / "images.parquet")) == COUNT
    schema = pa.schema([("a", pa.binary()), ("b", pa.binary()), ("c", pa.string())])
    assert image_column(schema, "b") == "b"
    with pytest.raises(ValueError, match=r"got the columns a, b, c; name it with --image-column"):
        image_column(schema, None)
    with pytest.raises(ValueError, match="expected a column of images, c"):
        image_column(schema, "c")


def test_tar_shards(place):
    expected = ciphertexts(encrypted(place, place / "images", output="expected"))
    members = []
    for index, content in enumerate(contents(place)):
        members += [(f"{index:04}.cls", b"1"), (f"{index:04}.png", content), (f"{index:04}.seg.png", b"labels")]
    write_tar(place / "shard-0.tar", members[:9])
    write_tar(place / "shard-1.tar", members[9:])
    rows = encrypted(place, place / "shard-*.tar", part_size=2)
    assert ciphertexts(rows) == expected
    assert [row["id"] for row in rows][:4] == [
        "shard-0.tar/0000.png", "shard-0.tar/0001.png", "shard-0.tar/0002.png", "shard-1.tar/0003.png",
    ]  # fmt: skip
    labels = encrypted(place, place / "shard-0.tar", output="labels", column="seg.png")
    assert [row["id"].partition(".")[2] for row in labels] == [f"tar/000{index}.seg.png" for index in range(3)]


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_urls(place, scheme):
    expected = encrypted(place, place / "images", output="expected", part_size=3)
    root = f"file://{place}/urls" if scheme == "file" else f"memory://{place.name}"
    filesystem, path = fsspec.core.url_to_fs(root)
    filesystem.makedirs(f"{path}/images", exist_ok=True)
    for image in (place / "images").iterdir():
        filesystem.pipe_file(f"{path}/images/{image.name}", image.read_bytes())
    operation = Encrypt(KeySource(str(place / "secret.key")))
    assert run(operation, [f"{root}/images"], f"{root}/out", part_size=3) == expected
    assert rows_of(f"{root}/out") == expected
    assert run(operation, [f"{root}/images"], f"{root}/out", part_size=3) == expected


def test_several_sources(place):
    make_images(place / "more", 2)
    rows = encrypted(place, place / "more", place / "images")
    assert [row["id"] for row in rows][:3] == ["more/000.png", "more/001.png", "images/000.png"]
    with pytest.raises(ValueError, match="got images twice"):
        source_urls([str(place / "images"), str(place / "x" / "images")])


def test_names_of_the_hub(place, monkeypatch):
    monkeypatch.chdir(place)
    (place / "a" / "b").mkdir(parents=True)
    assert source_urls(["owner/name"]) == ["hf://datasets/owner/name"]
    assert source_urls(["a/b", "./c/d", "images"]) == [str(place / "a/b"), str(place / "c/d"), str(place / "images")]
    assert source_urls(["hf://datasets/owner/name@~parquet"]) == ["hf://datasets/owner/name@~parquet"]


def test_sources_without_images(place):
    (place / "empty").mkdir()
    for name, message in {"nowhere": "does not exist", "empty": "is empty", "secret.key": "found none"}.items():
        with pytest.raises(FileNotFoundError, match=message):
            list(chunks_of([str(place / name)], 4))
    with pytest.raises(ValueError, match="cannot be opened"):
        list(chunks_of(["nonsense://x/y"], 4))


# --------------------------------------------------------------------------------------------------- damaged sources


def test_an_image_that_vanishes_is_a_row(place):
    operation = Encrypt(KeySource(str(place / "secret.key")))
    started = start(operation, [str(place / "images")], str(place / "out"), HereEngine())
    (place / "images" / "004.png").unlink()
    assert [(each.images, each.errors) for each in started.results()] == [(COUNT, 1)]
    assert rows_of(place / "out")[4]["error"].startswith("FileNotFoundError: ")


def test_a_truncated_tar_gives_its_first_images_and_a_row_with_an_error(place):
    write_tar(place / "shard.tar", [(f"{index}.png", content) for index, content in enumerate(contents(place))])
    size = (place / "shard.tar").stat().st_size
    with open(place / "shard.tar", "r+b") as file:
        file.truncate(size // 2)
    rows = encrypted(place, place / "shard.tar", part_size=2)
    sound = [row for row in rows if row["error"] is None]
    assert 0 < len(sound) < COUNT
    assert len(sound) < len(rows) <= len(sound) + 2  # an image that is cut off, and what would have followed
    assert all(row["ciphertext"] is None for row in rows[len(sound) :])


@pytest.mark.parametrize("name", ["shard.tar", "images.parquet"])
def test_a_truncated_file_that_is_whole_again_is_read_as_if_it_had_always_been(place, name):
    write_tar(place / "shard.tar", [(f"{index}.png", content) for index, content in enumerate(contents(place))])
    write_parquet(place)
    whole = (place / name).read_bytes()
    (place / name).write_bytes(whole[: len(whole) // 2])
    assert encrypted(place, place / name, part_size=2)[-1]["error"] is not None
    (place / name).write_bytes(whole)
    rows = encrypted(place, place / name, part_size=2, retry_errors=True)
    assert ciphertexts(rows) == ciphertexts(encrypted(place, place / name, output="other", part_size=2))
    assert len(rows) == COUNT


def test_a_parquet_file_without_rows(place):
    write_parquet(place)
    table = pq.read_table(place / "images.parquet")
    pq.write_table(table.slice(0, 0), place / "none.parquet")
    assert encrypted(place, place / "none.parquet") == []
    assert Plan.open(str(place / "out")).totals() == Totals(0, 0)


@pytest.mark.parametrize(
    "name",
    ["a::b.png", "a#b?c[1]*.png", "new\nline.png", "\u56fe" * 80 + ".png"],
    ids=["chain", "glob", "line", "long"],
)
def test_a_name_of_a_file_may_be_anything_that_is_text(place, name):
    (place / "images" / "000.png").rename(place / "images" / name)
    rows = {row["id"]: row for row in encrypted(place, place / "images", as_files=True)}
    assert rows[name]["error"] is None
    assert (place / "out" / rows[name]["ciphertext"]["path"]).is_file()


def test_a_name_that_is_no_text_is_refused(place):
    name = os.fsdecode(b"bad\xff.png")
    try:
        (place / "images" / "000.png").rename(place / "images" / name)
    except OSError:
        pytest.skip("the file system has names of text alone")
    with pytest.raises(ValueError, match=r"expected names of files in UTF-8, got 'bad\\udcff\.png'; rename the file"):
        encrypted(place, place / "images")


def test_a_damaged_parquet_file_is_a_row_and_the_next_file_is_read(place):
    write_parquet(place, name="b.parquet")
    (place / "a.parquet").write_bytes(b"PAR1 no parquet PAR1")
    rows = encrypted(place, place / "*.parquet")
    assert [row["error"] is None for row in rows] == [False] + [True] * COUNT
    assert "the rest of the file cannot be read" in rows[0]["error"]


def test_a_read_that_fails_once_is_tried_again(place, monkeypatch):
    write_parquet(place)
    expected = encrypted(place, place / "images.parquet", output="expected")
    real, calls = filesystem_of, []

    def fails_at_first(url):
        calls.append(url)
        if len(calls) % 3 == 1:
            raise OSError("the store is busy")
        return real(url)

    monkeypatch.setattr(chunks, "filesystem_of", fails_at_first)
    assert encrypted(place, place / "images.parquet") == expected
    assert len(calls) > 3


def test_an_image_of_too_many_bytes_is_a_row(place, monkeypatch):
    monkeypatch.setattr(chunks, "MAX_RECORD_BYTES", 100)
    rows = encrypted(place, place / "images")
    assert {row["error"] for row in rows} == {"ValueError: expected an image of at most 100 bytes, got more"}
