"""A cluster of Ray: a job leaves what one process leaves, whatever dies on the way; the key is nowhere to be found."""

import contextlib
import json
import logging
import os
import shutil
import signal
import tempfile
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from helpers import preloaded
from helpers.batch_jobs import make_images, parts_in, rows_of, run
from helpers.leaks import assert_no_secret
from helpers.paths import ROOT
from helpers.watched import Watched
from hf_privseg import SecretKey
from hf_privseg.batch.encryption import Encrypt
from hf_privseg.batch.key_source import KeySource
from hf_privseg.batch.run import start
from hf_privseg.setr.errors import KeyMismatchError

pytest.importorskip("ray", reason="ray is not installed: pip install 'hf-privseg[ray]'")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")]

COUNT = 24
STORE = 100 * 2**20  # bytes of an object store


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    key = SecretKey.generate("permutation")
    key.to_file(folder / "secret.key")
    make_images(folder / "images", COUNT, size=(160, 160))
    (folder / "images" / "010x.png").write_bytes(b"no image")
    run(Encrypt(KeySource(str(folder / "secret.key"))), [folder / "images"], folder / "expected", part_size=2)
    return folder


@pytest.fixture(scope="module")
def cluster():
    """A head without cores and two nodes with three each -> cluster and nodes; this process is connected to them."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node = {"object_store_memory": STORE, "include_dashboard": False}
        found = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0})
        nodes = [found.add_node(object_store_memory=STORE, num_cpus=3) for _ in range(2)]
        ray.init(address=found.address, log_to_driver=False, logging_level=logging.ERROR)
        found.wait_for_nodes()
        yield found, nodes
        ray.shutdown()
        found.shutdown()


def started(place, output, tmp_path, *, engine, **settings):
    operation = Watched(KeySource(str(place / "secret.key")), folder=str(tmp_path), **settings)
    return start(operation, [str(place / "images")], str(output), engine, part_size=2)


def engine(**settings):
    from hf_privseg.batch.ray_engine import RayEngine

    return RayEngine(**settings)


def processes(folder, step):
    return {int(path.name.partition("-")[2]) for path in folder.glob(f"{step}-*")}


def test_readers_and_actors_are_processes_of_their_own_and_their_rows_those_of_one_process(place, tmp_path, cluster):
    list(started(place, tmp_path / "out", tmp_path, engine=engine(actors=2, readers=2)).results())
    assert rows_of(tmp_path / "out") == rows_of(place / "expected")
    assert len(processes(tmp_path, "work")) == 2
    assert processes(tmp_path, "decode")
    assert not processes(tmp_path, "decode") & processes(tmp_path, "work")


def test_no_object_store_and_no_argument_of_a_task_holds_the_key(place, tmp_path, cluster):
    import cloudpickle

    from hf_privseg.batch import ray_engine

    key = SecretKey.from_file(place / "secret.key")
    job = started(place, tmp_path / "out", tmp_path, engine=engine(actors=2))
    for sent in (partial(ray_engine._read, job.job), ray_engine._Compute, job.job, job.tasks):
        assert_no_secret(cloudpickle.dumps(sent), key)
    list(job.results())
    stores = [content for content in map(object_store_of, raylets(cluster[0])) if content]
    assert len(stores) == 3
    assert any(b"000.png" in content for content in stores)  # what passed through it is still there
    for content in stores:
        assert_no_secret(content, key)


def test_an_actor_that_is_killed_is_replaced(place, tmp_path, cluster):
    results = started(place, tmp_path / "out", tmp_path, engine=engine(actors=2), pause=0.1).results()
    next(results)
    victim = next(pid for pid in processes(tmp_path, "work") if psutil.pid_exists(pid))
    os.kill(victim, signal.SIGKILL)
    list(results)
    assert rows_of(tmp_path / "out") == rows_of(place / "expected")
    assert len(processes(tmp_path, "work")) == 3


def test_a_reader_that_is_killed_is_replaced(place, tmp_path, cluster):
    results = started(place, tmp_path / "out", tmp_path, engine=engine(actors=1, readers=1), pause=0.1).results()
    next(results)
    for pid in processes(tmp_path, "decode"):
        if psutil.pid_exists(pid):
            os.kill(pid, signal.SIGKILL)
    list(results)
    assert rows_of(tmp_path / "out") == rows_of(place / "expected")


def test_a_key_of_another_model_and_a_key_that_no_worker_has(place, tmp_path, cluster):
    from helpers.batch_jobs import make_models

    make_models(tmp_path, SecretKey.generate())
    operation = Encrypt(KeySource(str(place / "secret.key")), str(tmp_path / "encrypted"))
    with pytest.raises(KeyMismatchError, match="do not belong together"):
        run(operation, [place / "images"], tmp_path / "out", engine())
    with pytest.raises(FileNotFoundError, match="on each node of a cluster"):
        run(Encrypt(KeySource(str(tmp_path / "none.key"))), [place / "images"], tmp_path / "out", engine())
    with pytest.raises(ValueError, match="expected a cluster for 9 actors of 1 cores"):
        run(Encrypt(KeySource(str(place / "secret.key"))), [place / "images"], tmp_path / "out", engine(actors=9))


def test_a_node_that_dies_in_the_middle(place, tmp_path, cluster):
    """The last test with this cluster, whose nodes are others then."""
    found, nodes = cluster
    # Two of three have room for all actors: Ray would wait for another node otherwise.
    nodes = [*nodes, found.add_node(object_store_memory=STORE, num_cpus=3)]
    found.wait_for_nodes()
    results = started(place, tmp_path / "out", tmp_path, engine=engine(actors=4), pause=0.2).results()
    next(results)
    actor = psutil.Process(processes(tmp_path, "work").pop())
    found.remove_node(next(node for node in nodes if raylet_of(node) == actor.ppid()), allow_graceful=False)
    list(results)
    assert rows_of(tmp_path / "out") == rows_of(place / "expected")
    assert len(parts_in(tmp_path / "out")) == len(parts_in(place / "expected"))


def raylets(cluster):
    """Of this cluster; others may run on this machine. They are no children of this process."""
    session = cluster.head_node.get_session_dir_path()
    return [
        each
        for each in psutil.process_iter(["name", "cmdline"])
        if each.info["name"] == "raylet" and any(session in argument for argument in each.info["cmdline"])
    ]


def raylet_of(node):
    return node.all_processes["raylet"][0].process.pid


def object_store_of(raylet):
    """The content of the shared memory that a raylet holds; its files have no names any more."""
    folder = Path(f"/proc/{raylet.pid}/fd")
    if not folder.is_dir():
        pytest.skip("the object store is read through /proc")
    for descriptor in folder.iterdir():
        if "plasma" in os.readlink(descriptor):
            return descriptor.read_bytes()
    return b""


# ------------------------------------------------------------------------------------------------ the command line


@pytest.fixture
def session():
    """A folder with a short name for the files of Ray, whose sockets allow no long one."""
    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def command(place, output):
    job = ["-m", "hf_privseg.cli", "batch", "encrypt", place / "images", "-o", output, "--key-env", "MY_KEY"]
    return [*job, "--part-size", 2, "--engine", "ray", "--workers", 2, "--json"]


def variables(place, session):
    key = SecretKey.from_file(place / "secret.key").to_text()
    return os.environ | {"PYTHONPATH": str(ROOT), "RAY_TMPDIR": str(session), "MY_KEY": key}


def test_neither_logs_nor_outputs_hold_the_key_of_the_environment(place, tmp_path, session):
    done = preloaded.run("hf_privseg", *command(place, tmp_path / "out"), env=variables(place, session))
    assert done.returncode == 1  # one image is none
    assert json.loads(done.stdout)["images"] == COUNT + 1
    assert rows_of(tmp_path / "out") == rows_of(place / "expected")
    key = SecretKey.from_file(place / "secret.key")
    assert_no_secret(done.stdout + done.stderr, key)
    files = [path for folder in (session, tmp_path) for path in folder.rglob("*") if path.is_file()]
    assert any("ray-data.log" in path.name for path in files)
    for path in files:
        assert_no_secret(path.read_bytes(), key)


def test_a_driver_that_is_killed_leaves_nothing_running_and_the_same_command_goes_on(place, tmp_path, session):
    output = tmp_path / "out"
    process = preloaded.start("hf_privseg", *command(place, output), env=variables(place, session))
    try:
        deadline = time.monotonic() + 120
        while not output.is_dir() or len(parts_in(output)) < 2:
            assert process.poll() is None, "it ended too early"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        others = {each: each.name() for each in psutil.Process(process.pid).children(recursive=True)}
    finally:
        process.kill()
        process.wait(60)
    # Two agents of Ray itself, which run nothing of a job, notice later that they are alone.
    agents = [each for each, name in others.items() if name.endswith("Agent")]
    _, alive = psutil.wait_procs([each for each in others if each not in agents], timeout=60)
    for agent in agents:
        with contextlib.suppress(psutil.NoSuchProcess):
            agent.kill()
    assert not alive
    before = {name: (output / name).stat().st_mtime_ns for name in parts_in(output)}
    assert 0 < len(before) < len(parts_in(place / "expected"))
    done = preloaded.run("hf_privseg", *command(place, output), env=variables(place, session))
    assert json.loads(done.stdout)["images"] == COUNT + 1, done.stderr
    assert {name: (output / name).stat().st_mtime_ns for name in before} == before
    assert rows_of(output) == rows_of(place / "expected")
