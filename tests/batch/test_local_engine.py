"""Processes of this machine: whatever dies, the job ends complete, and nothing stays behind."""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import time

import psutil
import pytest

from helpers import preloaded
from helpers.batch_jobs import make_images, make_models, parts_in, rows_of, run
from helpers.deadly import Deadly
from hf_privseg import SecretKey
from hf_privseg.batch.encryption import Encrypt
from hf_privseg.batch.key_source import KeySource
from hf_privseg.batch.local_engine import LocalEngine
from hf_privseg.batch.run import start
from hf_privseg.batch.segmentation import Segment
from hf_privseg.cli.failures import is_foreseen

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="signals of POSIX"),
]
COUNT = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    SecretKey.generate("permutation").to_file(folder / "secret.key")
    make_images(folder / "images", COUNT, size=(640, 640))  # which take long enough to be stopped at
    run(operation(folder), [folder / "images"], folder / "expected", part_size=2)
    return folder


def operation(folder, kind=Encrypt, **settings):
    return kind(KeySource(str(folder / "secret.key")), **settings)


def jobs(folder, output, kind=Encrypt, workers=2, **settings):
    engine = LocalEngine(workers)
    return start(operation(folder, kind, **settings), [str(folder / "images")], str(output), engine, part_size=2)


def test_two_processes_do_what_one_does_and_are_gone_at_the_end(place, tmp_path):
    assert run(operation(place), [place / "images"], tmp_path / "out", LocalEngine(2), part_size=2) == rows_of(
        place / "expected"
    )
    assert not multiprocessing.active_children()


def test_a_chunk_whose_process_dies_is_done_again(place, tmp_path):
    (tmp_path / "alive").touch()
    list(jobs(place, tmp_path / "out", Deadly, until=str(tmp_path / "alive")).results())
    assert not (tmp_path / "alive").exists()
    assert rows_of(tmp_path / "out") == rows_of(place / "expected")


def test_a_chunk_that_kills_its_process_ends_the_job_with_its_name_and_the_rest_can_be_done(place, tmp_path):
    with pytest.raises(RuntimeError, match=r"the process of chunk 2 \(004\.png, \.\.\.\) has died 3 times"):
        list(jobs(place, tmp_path / "out", Deadly).results())
    assert "part-000002-0000-last.parquet" not in parts_in(tmp_path / "out")
    list(jobs(place, tmp_path / "out").results())
    assert rows_of(tmp_path / "out") == rows_of(place / "expected")


def test_a_device_that_is_not_there_is_one_sentence(place, tmp_path):
    _, model = make_models(tmp_path, SecretKey.from_file(place / "secret.key"), patch_size=16)
    run(Encrypt(KeySource(str(place / "secret.key"))), [place / "images"], tmp_path / "ciphertexts")
    message = "no worker can begin: expected a device that torch has on this machine, .* got 'banana'"
    with pytest.raises(RuntimeError, match=message) as raised:
        run(Segment(str(model), device="banana"), [tmp_path / "ciphertexts"], tmp_path / "out", LocalEngine(1))
    assert is_foreseen(raised.value)
    done = run(Segment(str(model), device="cpu"), [tmp_path / "ciphertexts"], tmp_path / "out", LocalEngine(1))
    assert [row["error"] for row in done] == [None] * len(done)


def test_an_engine_that_is_not_listened_to_ends_its_processes(place, tmp_path):
    results = jobs(place, tmp_path / "out").results()
    next(results)
    results.close()
    deadline = time.monotonic() + 30
    while multiprocessing.active_children():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("victim", ["driver", "driver again", "worker", "interrupt"])
def test_a_command_that_is_killed_goes_on_where_it_stopped(place, tmp_path, victim):
    output = tmp_path / "out"
    command = ["batch", "encrypt", place / "images", "-o", output, "-k", place / "secret.key"]
    command += ["--part-size", 2, "--workers", 2, "--json"]
    process = preloaded.start("hf_privseg", "-m", "hf_privseg.cli", *command)
    workers = []
    try:
        wait_for_parts(output, random.randint(1, 4), process)
        process.send_signal(signal.SIGSTOP)  # it gives its workers nothing more until it has the signal below
        workers = psutil.Process(process.pid).children(recursive=True)
        if victim == "worker":
            victims = [each for each in workers if "spawn_main" in " ".join(each.cmdline())]
            victims[0].kill()
            process.send_signal(signal.SIGCONT)
            assert process.wait(120) == 0
            assert rows_of(output) == rows_of(place / "expected")
            return
        process.send_signal(signal.SIGINT if victim == "interrupt" else signal.SIGKILL)
        process.send_signal(signal.SIGCONT)
        assert process.wait(60) == (130 if victim == "interrupt" else -signal.SIGKILL)
    finally:
        process.kill()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    before = {name: identity(output / name) for name in parts_in(output)}
    assert 0 < len(before) < COUNT // 2
    done = preloaded.run("hf_privseg", "-m", "hf_privseg.cli", *command)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert (facts["images"], facts["images_now"]) == (COUNT, COUNT - 2 * len(before))
    assert {name: identity(output / name) for name in before} == before
    assert rows_of(output) == rows_of(place / "expected")
    assert not [path for path in output.iterdir() if path.name.startswith(".")]


def wait_for_parts(output, count, process):
    deadline = time.monotonic() + 120
    while not output.is_dir() or len(parts_in(output)) < count:
        assert process.poll() is None, "it ended too early"
        assert time.monotonic() < deadline
        with contextlib.suppress(OSError):
            time.sleep(0.002)


def identity(path):
    found = path.stat()
    return found.st_ino, found.st_mtime_ns, found.st_size
