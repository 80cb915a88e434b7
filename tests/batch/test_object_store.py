"""An object store over HTTP: jobs read from s3:// and write there, as the environment says where it is.

The store is moto's server on this machine: `pip install s3fs 'moto[server]'`, which the tests do not bring.
"""

import json
import os
import time

import psutil
import pytest

from helpers import preloaded
from helpers.batch_jobs import make_images, make_models, rows_of, run
from hf_privseg import SecretKey
from hf_privseg.batch.encryption import Encrypt
from hf_privseg.batch.key_source import KeySource
from hf_privseg.batch.places import filesystem_of, names_in
from hf_privseg.batch.plan import PART
from hf_privseg.batch.segmentation import Segment

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install s3fs 'moto[server]'")
moto_server = pytest.importorskip("moto.server", reason="moto is not installed: pip install s3fs 'moto[server]'")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")]

COUNT = 24


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images, a key and the tiny models of the key; the images are in `s3://bucket` of a store too."""
    folder, key = tmp_path_factory.mktemp("store"), SecretKey.generate("permutation")
    key.to_file(folder / "secret.key")
    make_models(folder, key, patch_size=16)
    images = make_images(folder / "images", COUNT, size=(160, 160))
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:  # for this process and those that it starts
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "an-id")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        filesystem, _ = filesystem_of("s3://bucket")
        filesystem.mkdir("bucket")
        filesystem.pipe({f"bucket/images/{path.name}": path.read_bytes() for path in images})
        yield folder
    server.stop()


def command(place, name, source, output, *options):
    job = ["-m", "hf_privseg.cli", "batch", name, source, "-o", output, "--model", place / "encrypted", *options]
    return [*job, "--part-size", 1, "--workers", 2, "--json"]


def finished(*arguments):
    done = preloaded.run("hf_privseg", *command(*arguments))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def killed(*arguments):
    """Start a job, kill it in the middle -> the parts that are there, with their times."""
    output = arguments[3]
    process = preloaded.start("hf_privseg", *command(*arguments))
    try:
        deadline = time.monotonic() + 120
        while not parts_in(output):
            assert process.poll() is None, "it ended too early"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        workers = psutil.Process(process.pid).children(recursive=True)
    finally:
        process.kill()
        process.wait(60)
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    return parts_in(output)


def parts_in(url):
    """{name of a part: when it was written}."""
    filesystem, path = filesystem_of(url)
    return {name: filesystem.info(f"{path}/{name}")["LastModified"] for name in names_in(url) if PART.fullmatch(name)}


def with_maps(rows, url):
    """Rows of a job with --files, with what the files hold in place of their paths."""
    filesystem, path = filesystem_of(url)
    return [{**row, "map": filesystem.cat_file(f"{path}/{row['map']['path']}")} for row in rows]


def test_jobs_that_are_killed_go_on_in_the_store(place):
    model, secret_key = str(place / "encrypted"), KeySource(str(place / "secret.key"))
    ciphertexts = run(Encrypt(secret_key, model), [place / "images"], place / "ciphertexts", part_size=1)
    maps = run(Segment(model), [place / "ciphertexts"], place / "maps", part_size=1)
    encryption = (place, "encrypt", "s3://bucket/images", "s3://bucket/ciphertexts", "-k", place / "secret.key")
    segmentation = (place, "segment", "s3://bucket/ciphertexts", "s3://bucket/maps", "--files")
    for job in (encryption, segmentation):
        before = killed(*job)
        assert 0 < len(before) < COUNT
        report = finished(*job)
        assert (report["images"], report["errors"], report["images_now"]) == (COUNT, 0, COUNT - len(before))
        after = parts_in(report["output"])
        assert len(after) == COUNT
        assert before.items() <= after.items()
    assert rows_of("s3://bucket/ciphertexts") == ciphertexts
    assert with_maps(rows_of("s3://bucket/maps"), "s3://bucket/maps") == maps


def test_a_cluster_reads_and_writes_there(place):
    pytest.importorskip("ray", reason="ray is not installed: pip install 'hf-privseg[ray]'")
    operation = Encrypt(KeySource(str(place / "secret.key")), str(place / "encrypted"))
    expected = run(operation, [place / "images"], place / "expected", part_size=1)
    job = (place, "encrypt", "s3://bucket/images", "s3://bucket/out", "-k", place / "secret.key", "--engine", "ray")
    assert finished(*job)["images_now"] == COUNT
    assert rows_of("s3://bucket/out") == expected
