"""Jobs on many images: each result is written when it is ready, and --skip-existing does what a stopped job left."""

import os
import shutil
import signal
import time

import numpy as np
import pytest
from PIL import Image

from helpers import preloaded
from helpers.loopback import running
from helpers.tiny_setr import tiny_model
from hf_privseg import EncryptedImage, SecretKey, SetrImageProcessor
from hf_privseg.cli import local_models
from hf_privseg.inference.segmentation import segment_image
from hf_privseg.service import SegmentationService
from hf_privseg.setr import ciphertext_file
from hf_privseg.setr.image_encrypter import ImageEncrypter
from hf_privseg.storage import images as stored_images
from hf_privseg.storage.models import load_model

NAMES = ("a", "b", "c", "d", "e")


@pytest.fixture
def many(place):
    """A `Workplace` with an encrypted model, and five different images in the folder many."""
    place.encrypted_model()
    (place.folder / "many").mkdir()
    for seed, name in enumerate(NAMES):
        blocks = np.kron(np.random.default_rng(seed).integers(0, 256, (5, 6, 3)), np.ones((4, 4, 1)))
        Image.fromarray(blocks.astype(np.uint8)).save(place.folder / "many" / f"{name}.png")
    return place


@pytest.fixture(params=["encrypt", "segment"])
def job(request, many):
    """Command and options of a job on the five images."""
    images = [many.folder / "many" / f"{name}.png" for name in NAMES]
    model = many.folder / "encrypted_model"
    one_file_each = ["--no-overlay"] if request.param == "segment" else []
    return [request.param, *images, "--model", model, "-k", many.key_file, *one_file_each, "-o", many.folder / "out"]


@pytest.fixture
def worked_on(monkeypatch):
    """How many images were encrypted, and how many segmented."""
    counts = {"encrypt": 0, "segment": 0}

    def counting(name, function):
        def counted(*arguments, **settings):
            counts[name] += 1
            return function(*arguments, **settings)

        return counted

    for cls in (ImageEncrypter, SetrImageProcessor):  # a client's, and that of a model on this machine
        monkeypatch.setattr(cls, "encrypt", counting("encrypt", cls.encrypt))
    monkeypatch.setattr(local_models, "segment_image", counting("segment", segment_image))
    return counts


def result_of(job, name):
    ending = ".encrypted.safetensors" if job[0] == "encrypt" else ".segmentation.png"
    return job[-1] / f"{name}{ending}"


def results(folder):
    """Name, content and identity of the files that are no temporary ones."""
    paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return {path.name: (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def contents(folder):
    return {name: content for name, (content, *_) in results(folder).items()}


def test_what_is_ready_is_written_and_a_second_run_does_the_rest(many, job, worked_on, monkeypatch):
    module = ciphertext_file if job[0] == "encrypt" else stored_images
    write, calls = module.write_whole, []

    def interrupted(*arguments, **settings):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write(*arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_whole", interrupted)
        assert many.run(*job)[0] == 130
    first = results(job[-1])
    assert set(first) == {result_of(job, name).name for name in "ab"}
    assert f"{result_of(job, 'a')} exists; choose another --output, overwrite it with --force, or keep it" in (
        many.fail(*job)
    )
    worked_on.update(encrypt=0, segment=0)
    assert "Wrote 3 files in" in (out := many.succeed(*job, "--skip-existing"))
    assert "Skipped 2 images whose results exist." in out
    assert worked_on[job[0]] == 3
    second = results(job[-1])
    assert {name: second[name] for name in first} == first
    many.succeed(*job[:-1], many.folder / "at_once")
    assert contents(job[-1]) == contents(many.folder / "at_once")


def test_nothing_is_left_to_do(many, job, worked_on):
    many.succeed(*job)
    before, worked_on["encrypt"], worked_on["segment"] = results(job[-1]), 0, 0
    out = many.succeed(*job, "--skip-existing")
    assert "Skipped 5 images whose results exist." in out
    assert "Wrote" not in out
    assert worked_on == {"encrypt": 0, "segment": 0}
    assert results(job[-1]) == before


def test_an_image_that_fails_does_not_stop_the_others_and_is_tried_again(many, job, worked_on):
    bad = many.folder / "many" / "b.png"
    good = bad.read_bytes()
    bad.write_bytes(good[:100])
    noun = "encrypted image" if job[0] == "encrypt" else "segmentation map"
    message = many.fail(*job)
    assert f"error: no {noun} for 1 of 5 images: {bad}: " in message
    assert sorted(results(job[-1])) == [result_of(job, name).name for name in "acde"]
    bad.write_bytes(good)
    worked_on.update(encrypt=0, segment=0)
    assert f"Wrote {result_of(job, 'b')}. Skipped 4 images" in many.succeed(*job, "--skip-existing")
    assert worked_on[job[0]] == 1


def test_many_failures_are_counted_and_the_first_five_named(many, job):
    images = [many.folder / "many" / f"bad{index}.png" for index in range(7)]
    for image in images:
        image.write_bytes(b"no image")
    message = many.fail(*job[:1], *images, *job[1:])
    assert "for 7 of 12 images: " in message
    assert "and 2 more" in message
    assert [str(image) in message for image in images] == [True] * 5 + [False] * 2


def test_a_damaged_result_is_made_again(many, job):
    many.succeed(*job)
    whole = contents(job[-1])
    path = result_of(job, "c")
    os.truncate(path, path.stat().st_size // 2)
    code, out, err = many.run(*job, "--skip-existing")
    assert code == 0
    assert f"warning: {path} is damaged, and is made again" in err
    assert f"Wrote {path}. Skipped 4 images" in out
    assert contents(job[-1]) == whole


def test_a_full_disk_ends_the_job_at_once(many, job, worked_on, monkeypatch):
    module = ciphertext_file if job[0] == "encrypt" else stored_images

    def disk_full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_whole", disk_full)
    assert "No space left on device" in many.fail(*job)
    assert worked_on[job[0]] == 1


def test_results_of_another_key_are_refused(many, job):
    if job[0] == "segment":
        pytest.skip("a segmentation map tells no key")
    other = SecretKey.generate()
    path = result_of(job, "d")
    path.parent.mkdir()
    processor = SetrImageProcessor.from_pretrained(many.folder / "model")
    processor.encrypt(many.folder / "many" / "d.png", other).to_file(path)
    message = many.fail(*job, "--skip-existing")
    assert f"expected {path} to be encrypted in blocks of 4 pixels with the key of fingerprint" in message
    assert f"{many.key.fingerprint} (orthogonal), got blocks of 4 pixels and the key of {other.fingerprint}" in message
    assert list(results(job[-1])) == [path.name]


@pytest.mark.parametrize("kind", ["picture", "other classes", "more classes"])
def test_segmentation_maps_of_another_model_are_refused(many, kind):
    path, image = many.folder / "out.png", many.folder / "image.png"
    if kind == "picture":
        shutil.copy(image, path)
    else:
        classes = {"other classes": 3, "more classes": 4}[kind]
        colours = {"palette": [[index, 9, 9] for index in range(3)]} if kind == "other classes" else {}
        tiny_model(num_labels=classes, **colours).save_pretrained(many.folder / "other")
        SetrImageProcessor(patch_size=4).save_pretrained(many.folder / "other")
        many.succeed("segment", image, "--model", many.folder / "other", "-o", path)
    arguments = ("segment", image, "--model", many.folder / "model", "-o", path)
    before = path.read_bytes()
    assert f"expected {path} to be a segmentation map of this model, with 3 classes" in (
        many.fail(*arguments, "--skip-existing")
    )
    assert path.read_bytes() == before
    many.succeed(*arguments, "--force")


def test_a_map_without_its_overlay_is_made_again(many):
    job = ["segment", many.folder / "many" / "a.png", many.folder / "many" / "b.png", "--model", many.folder / "model"]
    job += ["--overlay", "-o", many.folder / "out"]
    many.succeed(*job)
    whole = contents(many.folder / "out")
    assert len(whole) == 4
    (many.folder / "out" / "b.overlay.png").unlink()
    facts = many.run_json(*job, "--skip-existing")
    assert [image["skipped"] for image in facts["images"]] == [True, False]
    assert contents(many.folder / "out") == whole
    for image in facts["images"]:
        found = many.label_map(image["segmentation"])
        shares = {share["index"]: share["share"] for share in image["shares"]}
        assert shares == {index: pytest.approx((found == index).mean()) for index in np.unique(found)}
        assert (image["height"], image["width"]) == found.shape == (20, 24)


def test_to_overwrite_and_to_keep_is_wrong_usage(many, job):
    message = many.fail(*job, "--skip-existing", "--force", code=2)
    assert "--force makes existing results again" in " ".join(message.replace("│", " ").split())
    assert not job[-1].exists()


# ------------------------------------------------------------------------------------------------------ killed jobs

COUNT, SIZE = 16, (240, 320)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A folder with an encrypted model, its key, and images enough to be killed in the middle."""
    folder = tmp_path_factory.mktemp("large")
    key = SecretKey.generate()
    key.to_file(folder / "secret.key")
    tiny_model("mla", patch_size=16, image_size=64).encrypt_model(key).save_pretrained(folder / "encrypted")
    SetrImageProcessor().save_pretrained(folder / "encrypted")
    (folder / "images").mkdir()
    for seed in range(COUNT):
        pixels = np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{seed:02}.png")
    return folder


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("command", ["encrypt", "segment", "segment --server"])
def test_a_job_that_is_killed_goes_on_where_it_stopped(large, command, tmp_path, place, worked_on):
    output = tmp_path / "out"
    job = [command.split()[0], *sorted((large / "images").iterdir()), "-k", large / "secret.key", "-o", output]
    job += ["--no-overlay"] * command.startswith("segment")
    with running(SegmentationService(*load_model(large / "encrypted"))) as url:
        job += ["--server", url] if "--server" in command else ["--model", large / "encrypted"]
        kill_after(3, job, output)
        first = results(output)
        assert 3 <= len(first) < COUNT
        for name, (content, *_) in first.items():
            assert_whole(output / name, content)
        worked_on.update(encrypt=0, segment=0)
        out = place.succeed(*job, "--skip-existing")
        second = results(output)
    assert f"Skipped {len(first)} images whose results exist." in out
    assert len(second) == COUNT
    assert {name: second[name] for name in first} == first
    assert worked_on["encrypt"] == COUNT - len(first)


def kill_after(num_results, arguments, output):
    """Run `privseg ARGUMENTS` in a process of its own until so many files are in `output`, and kill it."""
    process = preloaded.start("hf_privseg", "-m", "hf_privseg.cli", *arguments)
    try:
        deadline = time.monotonic() + 240
        while not output.is_dir() or len(results(output)) < num_results:
            assert process.poll() is None, "it ended too early"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.kill()
    assert process.wait(60) == -signal.SIGKILL


def assert_whole(path, content):
    if path.suffix == ".safetensors":
        assert EncryptedImage.from_bytes(content).original_size == SIZE
    else:
        with Image.open(path) as picture:
            assert np.array(picture).shape == SIZE
