"""Files and folders that appear as a whole or not at all, whoever else writes and whatever interrupts."""

import errno
import os
import stat
import subprocess
import sys
import threading

import pytest

from helpers.paths import ROOT
from hf_privseg.setr.files import new_folder, publish_folder, read_private_file, write_whole

posix_only = pytest.mark.skipif(os.name != "posix", reason="file modes and signals are POSIX notions")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def race(num_writers, write):
    """Call `write(index)` in threads that start together -> what each of them raised, or None."""
    outcomes: list[Exception | None] = [None] * num_writers
    barrier = threading.Barrier(num_writers)

    def run(index):
        barrier.wait()
        try:
            write(index)
        except Exception as error:
            outcomes[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(num_writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def without_hard_links(monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)


# write_whole


@pytest.mark.skipif(os.name != "posix", reason="elsewhere folders cannot be synchronised")
@pytest.mark.parametrize("overwrite", [False, True])
def test_content_reaches_the_disk_before_its_name_and_the_name_before_the_return(tmp_path, monkeypatch, overwrite):
    path, steps, fsync = tmp_path / "file", [], os.fsync

    def note_then_sync(descriptor):
        steps.append((stat.S_ISDIR(os.fstat(descriptor).st_mode), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note_then_sync)
    write_whole(path, b"one", overwrite=overwrite)
    assert steps == [(False, False), (True, True)]


def test_a_file_system_that_cannot_synchronise_folders_is_no_error(tmp_path, monkeypatch):
    fsync = os.fsync

    def of_files_alone(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_alone)
    write_whole(tmp_path / "file", b"one", overwrite=False)
    assert (tmp_path / "file").read_bytes() == b"one"


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
@pytest.mark.parametrize("private", [False, True])
def test_a_file_is_written_kept_and_replaced(tmp_path, monkeypatch, links, private):
    if not links:
        without_hard_links(monkeypatch)
    path = tmp_path / "file"
    write_whole(path, b"one", overwrite=False, private=private)
    with pytest.raises(FileExistsError, match=rf"^{path} exists; choose another path or pass overwrite=True$"):
        write_whole(path, b"two", overwrite=False, private=private)
    with pytest.raises(FileExistsError, match=rf"^{path} exists, and all would be lost; choose another path"):
        write_whole(str(path), b"two", overwrite=False, private=private, loss="all would be lost")
    assert contents(tmp_path) == {"file": b"one"}
    write_whole(path, b"three", overwrite=True, private=private)
    assert contents(tmp_path) == {"file": b"three"}


@posix_only
def test_the_mode_follows_the_umask_or_is_private(tmp_path):
    before = os.umask(0o027)
    try:
        for private, mode in ((False, 0o640), (True, 0o600)):
            for overwrite in (False, True):
                path = tmp_path / f"{private}"
                write_whole(path, b"", overwrite=overwrite, private=private)
                assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "no hard links"])
@pytest.mark.parametrize("attempt", range(5))
def test_of_several_writers_exactly_one_succeeds(tmp_path, monkeypatch, links, attempt):
    if not links:
        without_hard_links(monkeypatch)
    path = tmp_path / "file"
    outcomes = race(8, lambda index: write_whole(path, bytes([index]) * 10**5, overwrite=False))
    (winner,) = (index for index, outcome in enumerate(outcomes) if outcome is None)
    assert contents(tmp_path) == {"file": bytes([winner]) * 10**5}
    assert {type(outcome) for outcome in outcomes if outcome} == {FileExistsError}


def test_writers_that_overwrite_never_mix(tmp_path):
    path = tmp_path / "file"
    assert race(8, lambda index: write_whole(path, bytes([index]) * 10**5, overwrite=True)) == [None] * 8
    assert len(set(path.read_bytes())) == 1
    assert path.stat().st_size == 10**5


@posix_only
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_process_that_is_killed_in_the_middle_leaves_the_old_content(tmp_path, overwrite):
    path = tmp_path / "file"
    if overwrite:
        path.write_bytes(b"former")
    code = (
        "import os, signal, sys, files; "  # the module alone: the package would take seconds to import
        "files.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL); "
        f"files.write_whole(sys.argv[1], b'new' * 1000, overwrite={overwrite})"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "hf_privseg" / "setr")}
    done = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=False)
    assert done.returncode == -9
    assert path.exists() == overwrite
    assert not overwrite or path.read_bytes() == b"former"
    assert all(other.name.startswith(".file.") for other in tmp_path.iterdir() if other != path)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_content_and_no_other_file(tmp_path, monkeypatch, step):
    path = tmp_path / "file"
    path.write_bytes(b"former")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="no space left"):
        write_whole(path, b"new", overwrite=True)
    assert contents(tmp_path) == {"file": b"former"}


def test_a_full_disk_is_told_with_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")  # a write names no file

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_whole(tmp_path / "file", b"new", overwrite=True)
    assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / "file"))


def test_a_path_that_no_file_can_have_is_refused(tmp_path):
    with pytest.raises(FileExistsError, match=rf"expected the path of a file, got {tmp_path}, which is a folder"):
        write_whole(tmp_path, b"", overwrite=True)
    missing = tmp_path / "missing"
    with pytest.raises(FileNotFoundError, match=rf"got {missing / 'file'}; create {missing} first"):
        write_whole(missing / "file", b"", overwrite=False)
    assert list(tmp_path.iterdir()) == []


@posix_only
def test_a_device_is_never_replaced():
    with pytest.raises(FileExistsError, match="got /dev/null, which is a folder or a device"):
        write_whole("/dev/null", b"", overwrite=True)


@posix_only
def test_a_symbolic_link_is_replaced_and_its_target_stays(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"target")
    link.symlink_to(target)
    write_whole(link, b"new", overwrite=True)
    assert contents(tmp_path) == {"target": b"target", "link": b"new"}
    assert not link.is_symlink()


def test_the_longest_name_can_be_written(tmp_path):
    write_whole(tmp_path / ("n" * 255), b"", overwrite=False)
    assert contents(tmp_path) == {"n" * 255: b""}


# read_private_file


@posix_only
def test_reading_is_bounded_and_warns_where_others_can_read(tmp_path, recwarn):
    path = tmp_path / "file"
    write_whole(path, b"0123456789", overwrite=False, private=True)
    assert read_private_file(path, 4, noun="thing") == b"0123"
    assert not recwarn
    path.chmod(0o644)
    with pytest.warns(UserWarning, match=rf"other users can reach the thing {path} \(mode 0644\); run: chmod 600"):
        read_private_file(path, 4, noun="thing")


# new_folder and publish_folder


@pytest.mark.parametrize("former", [None, "empty"], ids=str)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_new_folder_appears_at_the_end(tmp_path, former, overwrite):
    folder = tmp_path / "place" / "model"
    if former == "empty":
        folder.mkdir(parents=True)
    with new_folder(folder, overwrite=overwrite) as temporary:
        (temporary / "nested").mkdir()
        (temporary / "nested" / "file").write_bytes(b"new")
        assert temporary.parent == folder.parent
        assert not folder.exists() or not any(folder.iterdir())
    assert (folder / "nested" / "file").read_bytes() == b"new"
    assert list(folder.parent.iterdir()) == [folder]


@posix_only
def test_a_private_folder_is_for_its_owner_alone(tmp_path):
    with new_folder(tmp_path / "model", overwrite=False, private=True) as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "model").stat().st_mode) == 0o700


def test_what_appears_meanwhile_is_kept(tmp_path):
    folder = tmp_path / "model"

    def write():
        with new_folder(folder, overwrite=False) as temporary:
            (temporary / "file").write_bytes(b"second")
            folder.mkdir()
            (folder / "file").write_bytes(b"first")

    with pytest.raises(
        FileExistsError, match=rf"{folder} exists \(.*\); choose another folder or pass overwrite=True"
    ):
        write()
    assert contents(folder) == {"file": b"first"}
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("attempt", range(5))
def test_of_several_writers_of_a_folder_exactly_one_succeeds(tmp_path, attempt):
    folder = tmp_path / "model"

    def write(index):
        with new_folder(folder, overwrite=False) as temporary:
            (temporary / "file").write_bytes(bytes([index]))

    outcomes = race(6, write)
    (winner,) = (index for index, outcome in enumerate(outcomes) if outcome is None)
    assert contents(folder) == {"file": bytes([winner])}
    assert {type(outcome) for outcome in outcomes if outcome} == {FileExistsError}
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("overwrite", [False, True])
def test_after_an_error_nothing_has_changed(tmp_path, overwrite):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "file").write_bytes(b"former")
    with pytest.raises(OSError, match="half"), new_folder(folder, overwrite=overwrite) as temporary:
        (temporary / "missing" / "half").write_bytes(b"")
    assert contents(folder) == {"file": b"former"}
    assert list(tmp_path.iterdir()) == [folder]


def test_a_file_in_the_place_of_a_folder_is_kept(tmp_path):
    path, temporary = tmp_path / "model", tmp_path / "temporary"
    path.write_bytes(b"file")
    temporary.mkdir()
    with pytest.raises(FileExistsError, match=f"{path} exists"):
        publish_folder(temporary, path, overwrite=False)
    assert path.read_bytes() == b"file"


def test_a_folder_that_vanished_is_reported_as_such(tmp_path):
    with pytest.raises(FileNotFoundError, match="temporary"):
        publish_folder(tmp_path / "temporary", tmp_path / "model", overwrite=False)


def test_files_reach_the_disk_before_the_folder_gets_its_name(tmp_path, monkeypatch):
    folder, synced, fsync = tmp_path / "model", [], os.fsync

    def watch(descriptor):
        assert folder.exists() == stat.S_ISDIR(os.fstat(descriptor).st_mode)
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    with new_folder(folder, overwrite=False) as temporary:
        (temporary / "nested").mkdir()
        for path in (temporary / "a", temporary / "nested" / "b"):
            path.write_bytes(b"content")
    assert sorted(synced) == sorted(path.stat().st_ino for path in (tmp_path, folder / "a", folder / "nested" / "b"))
