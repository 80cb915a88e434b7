"""What the service stores is deleted in time, while uploads go on."""

import os
import threading
import time

import pytest

pytest.importorskip("gradio", reason="the space extra is not installed")

import gradio as gr

from hf_privseg.service.cleanup import Cleanup, delete_old_files


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def app(folder):
    with gr.Blocks(analytics_enabled=False) as app:
        gr.File(visible=False)
    return app


def stored(app, folder, number, depth=1):
    path = folder.joinpath(*[f"{number}-{level}" for level in range(depth)], "file.png")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"map")
    app.temp_file_sets[number % len(app.temp_file_sets)].add(str(path))
    return path


def test_old_files_go_with_their_folders_and_new_ones_stay(app, folder):
    old = [stored(app, folder, number, depth=1 + number % 2) for number in range(4)]
    time.sleep(0.3)
    new = stored(app, folder, 9)
    delete_old_files(app, 0.2)
    assert not any(path.exists() for path in old)
    assert list(folder.iterdir()) == [new.parent]
    assert [name for files in app.temp_file_sets for name in files] == [str(new)]


def test_files_that_were_taken_are_forgotten_and_their_folders_go(app, folder):
    stored(app, folder, 0).unlink()
    delete_old_files(app, 60)  # somebody may be storing the same file again
    assert (folder / "0-0").exists()
    delete_old_files(app, -1)
    assert list(folder.iterdir()) == []
    assert not any(app.temp_file_sets)


def test_a_folder_with_something_else_in_it_stays(app, folder):
    path = stored(app, folder, 0)
    (path.parent / "other").touch()
    delete_old_files(app, -1)
    assert os.listdir(path.parent) == ["other"]


def test_what_cannot_be_deleted_does_not_keep_the_rest(app, folder):
    stuck, path = stored(app, folder, 0), stored(app, folder, 1)
    stuck.unlink()
    stuck.mkdir()  # a folder in its place
    delete_old_files(app, -1)
    assert stuck.exists()
    assert not path.exists()
    assert any(str(stuck) in files for files in app.temp_file_sets)


def test_nothing_above_the_folder_of_uploads_is_touched(app, folder, tmp_path, monkeypatch):
    path = stored(app, folder, 0)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "elsewhere"))
    delete_old_files(app, -1)
    assert not path.exists()
    assert path.parent.exists()


def test_uploads_may_go_on_meanwhile(app):
    """So many that a walk through the set itself meets a change."""
    files = app.temp_file_sets[0]
    stop, failures = threading.Event(), []

    def upload():
        number = 0
        while not stop.is_set():
            files.add(f"/nowhere/{number % 500}/file")
            number += 1

    def clean():
        try:
            for _ in range(20):
                delete_old_files(app, 60)
        except RuntimeError as error:
            failures.append(error)

    uploads, cleaning = threading.Thread(target=upload), threading.Thread(target=clean)
    uploads.start()
    cleaning.start()
    cleaning.join()
    stop.set()
    uploads.join()
    assert failures == []


def test_it_runs_until_the_app_is_closed(app, folder):
    cleanup = Cleanup(app, seconds_kept=0.05, interval=0.02)
    cleanup.start()
    path = stored(app, folder, 0)
    app.is_running = True
    deadline = time.monotonic() + 10
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not path.exists()
    app.is_running = False
    cleanup.join(timeout=10)
    assert not cleanup.is_alive()
