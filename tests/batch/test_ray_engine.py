"""A cluster of Ray: a job leaves what one process leaves, whatever dies on the way; the key is nowhere to be found."""

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import tempfile
import threading
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
from hf_privseg.batch.plan import Task, Totals
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
        node = {"object_store_memory": STORE, "include_dashboard": False, "num_cpus": 0}
        settings = {"health_check_period_ms": 500}  # a dead node is noticed after five of them
        found = Cluster(initialize_head=True, head_node_args={**node, "_system_config": settings})
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


def test_readers_and_actors_are_processes_of_their_own_and_nothing_that_is_sent_holds_the_key(
    place, tmp_path, cluster
):
    import cloudpickle

    from hf_privseg.batch import ray_engine

    key = SecretKey.from_file(place / "secret.key")
    job = started(place, tmp_path / "out", tmp_path, engine=engine(actors=2, readers=2))
    for sent in (partial(ray_engine._read, job.job), ray_engine._Compute, job.job, job.tasks):
        assert_no_secret(cloudpickle.dumps(sent), key)
    list(job.results())
    assert rows_of(tmp_path / "out") == rows_of(place / "expected")
    assert len(processes(tmp_path, "work")) == 2
    assert processes(tmp_path, "decode")
    assert not processes(tmp_path, "decode") & processes(tmp_path, "work")
    stores = [content for content in map(object_store_of, raylets(cluster[0])) if content]
    assert len(stores) == 3
    assert any(re.search(rb"\b0\d\d\.png", content) for content in stores)  # what passed through, in part
    for content in stores:
        assert_no_secret(content, key)


def test_an_actor_and_readers_that_are_killed_are_replaced(place, tmp_path, cluster):
    results = started(place, tmp_path / "out", tmp_path, engine=engine(actors=2, readers=1), pause=0.1).results()
    next(results)
    alive = [pid for pid in processes(tmp_path, "work") if psutil.pid_exists(pid)]
    for victim in (alive[0], *filter(psutil.pid_exists, processes(tmp_path, "decode"))):
        os.kill(victim, signal.SIGKILL)
    list(results)
    assert rows_of(tmp_path / "out") == rows_of(place / "expected")
    assert len(processes(tmp_path, "work")) == 3


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


def test_nodes_that_die_and_come(place, tmp_path, cluster, recwarn):
    """The last test with this cluster, whose nodes are others then. The three cores that are left hold two actors."""
    found, nodes = cluster
    results = started(place, tmp_path / "out", tmp_path, engine=engine(actors=4), pause=0.1).results()
    totals, hold = [next(results)], tmp_path / "hold"
    hold.touch()
    kill(found, nodes.pop())
    rest = threading.Thread(target=lambda: totals.extend(results), daemon=True)
    rest.start()
    wait_until(lambda: warned(recwarn), 1)
    assert re.fullmatch(
        r"the cluster has lost the node \S+ \(\w{8}\); the job goes on with 2 of 4 actors", warned(recwarn)[0]
    )
    nodes.append(found.add_node(object_store_memory=STORE, num_cpus=3))
    wait_until(lambda: warned(recwarn), 2)
    assert re.fullmatch(
        r"the cluster has got the node \S+ \(\w{8}\); the job goes on with 4 of 4 actors", warned(recwarn)[1]
    )
    hold.unlink()
    rest.join(120)
    assert not rest.is_alive()
    assert sum(totals, start=Totals(0, 0)) == Totals(COUNT + 1, 1)
    assert rows_of(tmp_path / "out") == rows_of(place / "expected")
    assert parts_in(tmp_path / "out") == parts_in(place / "expected")

    results = started(place, tmp_path / "other", tmp_path, engine=engine(), pause=0.1).results()
    next(results)
    hold.touch()
    for node in nodes:
        kill(found, node)
    with pytest.raises(RuntimeError, match=r"the cluster has lost the node .*, and no room for an actor"):
        list(results)


def kill(cluster, node):
    cluster.remove_node(node, allow_graceful=False)


def warned(recwarn):
    return [str(each.message) for each in recwarn if "the cluster has" in str(each.message)]


def wait_until(what, count):
    deadline = time.monotonic() + 120
    while len(what()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("nodes", "share", "wanted", "fitting"),
    [
        ([{"CPU": 3.0}, {"CPU": 3.0}], {"CPU": 1.0}, 9, 5),
        ([{"CPU": 3.0}, {"CPU": 3.0}], {"CPU": 1.0}, 4, 4),
        ([{"CPU": 3.0}, {"CPU": 3.0}], {"CPU": 2.0}, 9, 2),
        ([{"CPU": 1.0}], {"CPU": 1.0}, 9, 0),
        ([{"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}], {"CPU": 1.0, "GPU": 0.5}, 9, 4),
        ([{"CPU": 8.0}, {"CPU": 8.0, "GPU": 2.0}], {"GPU": 1.0}, 9, 2),
        ([{"CPU": 8.0}], {"CPU": 1.0, "GPU": 1.0}, 9, 0),
        ([], {"CPU": 1.0}, 9, 0),
    ],
    ids=["spare core", "as wanted", "no actor on two", "no room", "half GPUs", "no cores", "no GPU", "no node"],
)
def test_as_many_actors_fit_as_the_nodes_have_room_for(nodes, share, wanted, fitting):
    from hf_privseg.batch.ray_cluster import Actors, Cluster

    named = {str(index): node for index, node in enumerate(nodes)}
    assert Actors(share, wanted).fit(Cluster(named)) == fitting


def test_what_is_crossed_off_is_not_to_be_done_again():
    from hf_privseg.batch.ray_engine import _ToDo

    to_do = _ToDo([Task(0), Task(3, (1,)), Task(7)])
    to_do.cross_off(3, 3, is_last=True)
    to_do.cross_off(7, 0, is_last=True)
    to_do.cross_off(3, 0, is_last=False)
    assert to_do.rows() == [{"chunk": 0, "done": []}, {"chunk": 3, "done": [1, 0, 3]}]
    to_do.cross_off(3, 2, is_last=False)
    to_do.cross_off(0, 0, is_last=True)
    assert not to_do


def raylets(cluster):
    """Of this cluster; others may run on this machine. They are no children of this process."""
    session = cluster.head_node.get_session_dir_path()
    return [
        each
        for each in psutil.process_iter(["name", "cmdline"])
        if each.info["name"] == "raylet" and any(session in argument for argument in each.info["cmdline"])
    ]


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


def test_a_driver_that_is_killed_leaves_nothing_running_and_no_key_and_the_same_command_goes_on(
    place, tmp_path, session
):
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
    assert done.returncode == 1  # one image is none
    assert {name: (output / name).stat().st_mtime_ns for name in before} == before
    assert rows_of(output) == rows_of(place / "expected")
    key = SecretKey.from_file(place / "secret.key")
    assert_no_secret(done.stdout + done.stderr, key)
    files = [path for folder in (session, tmp_path) for path in folder.rglob("*") if path.is_file()]
    assert any("ray-data.log" in path.name for path in files)
    for path in files:
        assert_no_secret(path.read_bytes(), key)
