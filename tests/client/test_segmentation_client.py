"""The client: the same maps as without a service, what leaves the machine, and services that are not to be trusted."""

import io
import json
import re
import struct
import threading
import time
import weakref
import zlib

import numpy as np
import pytest
from PIL import Image

from helpers.leaks import assert_no_secret
from helpers.loopback import Relay, ScriptedService, fault, refusal, running, send
from helpers.second_copy import second_copy
from helpers.tiny_setr import tiny_model
from hf_privseg import (
    ClientEmbedding,
    EncryptedImage,
    EncryptionStateError,
    InvalidImageError,
    InvalidKeyError,
    KeyMismatchError,
    SecretKey,
    SetrImageProcessor,
)
from hf_privseg.client import SegmentationClient, http_calls, read_token, segment
from hf_privseg.client.preparation import MAX_ENLARGEMENT
from hf_privseg.inference.segmentation import segment_image
from hf_privseg.service import Limits, SegmentationService
from hf_privseg.setr.errors import PartialFailureError, RequestRefusedError, ServiceError, ServiceUnavailableError
from hf_privseg.setr.image_encrypter import ImageEncrypter
from hf_privseg.setr.transform_code import TransformCode

pytest.importorskip("fastapi")
SIZE = (70, 93)  # height, width of the image: five by six patches


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(http_calls, "_BACKOFF_SECONDS", (0.01, 0.02))


@pytest.fixture(scope="module")
def key():
    return SecretKey.generate("orthogonal")


@pytest.fixture(scope="module")
def other_key():
    return SecretKey.generate("orthogonal")


def engine_for(key, **limits):
    model = tiny_model("mla", patch_size=16, image_size=64).encrypt_model(key)
    return SegmentationService(model, SetrImageProcessor(), limits=Limits(**limits))


@pytest.fixture(scope="module")
def engine(key):
    return engine_for(key, max_pixels=2**14)


@pytest.fixture(scope="module")
def url(engine):
    with running(engine) as url:
        yield url


@pytest.fixture
def client(url):
    with SegmentationClient(url) as client:
        yield client


@pytest.fixture(scope="module")
def image():
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 192, (5, 6, 3)), np.ones((16, 16, 1), int))[: SIZE[0], : SIZE[1]]
    return Image.fromarray((blocks + rng.integers(0, 64, (*SIZE, 3))).astype(np.uint8))


def local_map(engine, key, image):
    """What the engine's model makes of the image, through a container and without any service."""
    contained = EncryptedImage.from_bytes(engine.processor.encrypt(image, key).to_bytes())
    return segment_image(engine.model, engine.processor, contained)


# ----------------------------------------------------------------------------------------------- segmentation maps


@pytest.mark.parametrize("family", ["permutation", "matrix"])
def test_a_service_returns_the_map_that_its_model_gives_here(family, image):
    key = SecretKey.generate(family)
    engine = engine_for(key)
    with running(engine) as url:
        segmentation_map = segment(url, image, key)
    assert segmentation_map.shape == SIZE
    assert segmentation_map.dtype == np.uint8
    assert len(np.unique(segmentation_map)) == 3
    np.testing.assert_array_equal(segmentation_map, local_map(engine, key, image))


def test_a_service_takes_the_compact_form_as_it_is(image):
    plain = tiny_model("mla", patch_size=16, image_size=64)
    embedding = ClientEmbedding.generate(plain)
    transform = np.random.default_rng(0).normal(size=(embedding.shape[1],) * 2)
    embedding = embedding.with_code(TransformCode(transform, np.array([0.1, 1.0]), np.array([200.0, 50.0])))
    engine = SegmentationService(plain.encrypt_model(embedding), SetrImageProcessor())
    sent = engine.processor.encrypt(image, embedding, bits_per_block=100)
    expected = segment_image(engine.model, engine.processor, EncryptedImage.from_bytes(sent.to_bytes()))
    with running(engine) as url, SegmentationClient(url) as client:
        assert client.encrypt(image, embedding, bits_per_block=100).to_bytes() == sent.to_bytes()
        (found,) = client.segment_batch([image], embedding, bits_per_block=100, progress=False)
        np.testing.assert_array_equal(found, expected)
        np.testing.assert_array_equal(client.segment(sent), expected)
        with pytest.raises(ValueError, match="bits_per_block from 50 to 200"):
            client.segment(image, embedding, bits_per_block=7)


def test_a_service_takes_the_8_bit_form_as_it_is(engine, client, key, image):
    sent = engine.processor.encrypt(image, key, bits=8)
    assert client.encrypt(image, key, bits=8).to_bytes() == sent.to_bytes()
    expected = segment_image(engine.model, engine.processor, EncryptedImage.from_bytes(sent.to_bytes()))
    (found,) = client.segment_batch([image], key, bits=8, progress=False)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(client.segment(sent), expected)
    with pytest.raises(ValueError, match="expected 8 bits, or none for the usual form, got 7"):
        client.segment(image, key, bits=7)


def test_images_encrypted_images_and_paths_of_both_are_one(client, engine, key, image, tmp_path):
    expected = local_map(engine, key, image)
    image.save(tmp_path / "image.png")
    encrypted = engine.processor.encrypt(image, key)
    encrypted.to_file(tmp_path / "image.encrypted.safetensors")
    for plain in (image, np.array(image), tmp_path / "image.png", str(tmp_path / "image.png")):
        np.testing.assert_array_equal(client.segment(plain, key), expected)
    for contained in (encrypted, tmp_path / "image.encrypted.safetensors"):
        np.testing.assert_array_equal(client.segment(contained), expected)


def test_key_and_encrypted_image_of_another_copy_of_the_module_are_taken(client, engine, key, image):
    encrypted = engine.processor.encrypt(image, key)
    foreign = second_copy("encrypted_image").EncryptedImage.from_bytes(encrypted.to_bytes())
    foreign_key = second_copy("keys").SecretKey.from_text(key.to_text())
    expected = local_map(engine, key, image)
    np.testing.assert_array_equal(client.segment(foreign), expected)
    np.testing.assert_array_equal(client.segment(image, foreign_key), expected)
    maps = client.segment_batch([foreign, image], foreign_key, progress=False)
    np.testing.assert_array_equal(maps, [expected, expected])


def test_the_owners_processor_takes_precedence(url, engine, key, image):
    processor = SetrImageProcessor(do_pad=True)
    with SegmentationClient(url, processor=processor) as client:
        encrypted = client.encrypt(image, key)
        segmentation_map = client.segment(encrypted)
    assert encrypted.valid_region == SIZE
    assert segmentation_map.shape == SIZE


def test_what_a_client_knows_of_the_model(client, engine, key):
    info = client.info
    assert info.key_facts == key.facts
    assert info.labels == tuple(f"LABEL_{index}" for index in range(5))
    assert (info.palette.shape, info.palette.dtype) == ((5, 3), np.uint8)
    assert (info.patch_size, info.max_pixels) == (16, 2**14)
    assert client.processor == ImageEncrypter.of(json.loads(SetrImageProcessor().to_json_string()))
    assert repr(client) == f"SegmentationClient('{client.url}')"


# ----------------------------------------------------------------------------------------- what leaves the machine


def test_nothing_but_the_ciphertext_is_sent(url, key, image, tmp_path):
    path = tmp_path / "holiday-with-anna.png"
    image.save(path)
    with Relay(url) as relay:
        with SegmentationClient(relay.url) as client:
            container = client.encrypt(path, key).to_bytes()
            client.segment(path, key)
        sent = relay.sent
    assert_no_secret(sent, key)
    assert b"holiday" not in sent
    assert not holds_pixels(sent, np.array(image))
    before, rest = sent.split(container)  # it is there, once
    assert len(before + rest) < 4000
    (before + rest).decode("ascii")  # requests, and nothing that could hide an image
    assert re.findall(rb"(?:GET|POST) (/\S+) HTTP/1.1", before + rest) == [b"/v1/model", b"/v1/segment"]


def test_plain_pixels_would_be_found(image):
    pixels = np.array(image)
    encrypted = np.array(SetrImageProcessor().encrypt(image, SecretKey.generate("permutation")).pixels)
    for form in (pixels, pixels.transpose(2, 0, 1), pixels[10:]):
        assert holds_pixels(b"some header" + form.tobytes(), pixels)
    assert not holds_pixels(encrypted.tobytes(), pixels)


def holds_pixels(data, pixels):
    """Whether a dozen pixels in a row, interleaved or of one channel, are in the data."""
    rows = [*pixels.reshape(len(pixels), -1), *pixels.transpose(2, 0, 1).reshape(-1, pixels.shape[1])]
    return any(row[start : start + 12].tobytes() in data for row in rows for start in range(0, len(row) - 12, 12))


@pytest.mark.parametrize("family", ["orthogonal", "permutation"])
def test_a_key_that_does_not_fit_is_refused_before_anything_is_sent(url, key, image, family):
    wrong = SecretKey.generate(family)
    with Relay(url) as relay, SegmentationClient(relay.url) as client:
        text = f"{wrong.fingerprint}, family {family}.* and the model of {relay.url} .*{key.fingerprint}"
        for use in (client.segment, client.encrypt):
            with pytest.raises(KeyMismatchError, match=text):
                use(image, wrong)
        with pytest.raises(KeyMismatchError, match=text):
            client.segment_batch([image, image], wrong, progress=False)
        with pytest.raises(KeyMismatchError, match=f"{wrong.fingerprint}.*{key.fingerprint}"):
            client.segment(SetrImageProcessor().encrypt(image, wrong))
        assert b"v1/segment" not in relay.sent
        assert_no_secret(relay.sent, wrong)


def test_an_image_without_a_key_is_not_sent(url, image):
    with Relay(url) as relay, SegmentationClient(relay.url) as client:
        with pytest.raises(EncryptionStateError, match=f"got a plain image and no key for {relay.url}, to which"):
            client.segment(image)
        assert b"v1/segment" not in relay.sent


def test_what_is_no_key_is_refused(client, image):
    with pytest.raises(InvalidKeyError, match="expected a SecretKey or 32 bytes, got str"):
        client.segment(image, "secret")


def test_another_patch_size_is_refused_by_the_ciphertext(client, image, key):
    with pytest.raises(ValueError, match="is encrypted in blocks of 8 pixels, but the patches of the model of"):
        client.segment(SetrImageProcessor(patch_size=8).encrypt(image, key))


def test_an_image_that_is_too_large_is_refused_here(client, key):
    text = f"at most {2**14} pixels, which is what {client.url} takes, got 128 x 144 after resizing; shrink"
    with pytest.raises(InvalidImageError, match=text):
        client.segment(Image.new("RGB", (144, 128)), key)


# --------------------------------------------------------------------------------------------------------- batches


@pytest.fixture(scope="module")
def images(image):
    return [image.rotate(angle, expand=True) for angle in (0, 90, 180, 270, 0)] + [image.resize((40, 50))]


def test_a_batch_keeps_the_order_and_shows_its_progress(client, engine, key, images, capfd):
    segmentation_maps = client.segment_batch(images, key)
    for found, image in zip(segmentation_maps, images, strict=True):
        np.testing.assert_array_equal(found, local_map(engine, key, image))
    shown = capfd.readouterr().err
    assert "Segmenting" in shown
    assert "100%" in shown
    client.segment_batch(images[:1], key, progress=False)
    assert capfd.readouterr().err == ""


def test_a_batch_takes_what_is_encrypted_without_a_key(client, engine, key, image):
    encrypted = engine.processor.encrypt(image, key)
    (segmentation_map,) = client.segment_batch([encrypted], progress=False)
    np.testing.assert_array_equal(segmentation_map, local_map(engine, key, image))
    (same,) = client.segment_batch(image, key, progress=False)
    np.testing.assert_array_equal(segmentation_map, same)


def test_what_fails_in_a_batch_is_listed_and_the_rest_is_kept(client, engine, key, other_key, image, tmp_path):
    (tmp_path / "damaged.jpg").write_bytes(b"no picture")
    foreign = engine.processor.encrypt(image, other_key)
    images = [image, tmp_path / "damaged.jpg", foreign, image]
    with pytest.raises(PartialFailureError) as raised:
        client.segment_batch(images, key, progress=False)
    text = str(raised.value)
    assert text.startswith(
        f"no segmentation map for 2 of 4 images: image 1 ({tmp_path / 'damaged.jpg'}): expected the path"
    )
    assert f"; image 2: the encrypted image (key fingerprint {other_key.fingerprint}" in text
    assert {index: type(error) for index, error in raised.value.failures.items()} == {
        1: InvalidImageError,
        2: KeyMismatchError,
    }
    expected = local_map(engine, key, image)
    for index in (0, 3):
        np.testing.assert_array_equal(raised.value.segmentation_maps[index], expected)
    assert [raised.value.segmentation_maps[index] for index in (1, 2)] == [None, None]


def test_many_failures_are_counted(client, key):
    with pytest.raises(
        PartialFailureError, match=r"^no segmentation map for 7 of 7 images: .*; image 4: .*; and 2 more$"
    ):
        client.segment_batch([b"nothing"] * 7, key, progress=False)


def test_nothing_more_is_sent_to_a_service_that_stays_unavailable(described, key, image):
    with SegmentationClient(described.url, retries=1) as client:
        _ = client.info
        described.faults = [fault(status=503)] * 99
        with pytest.raises(PartialFailureError) as raised:
            client.segment_batch([image] * 6, key, concurrency=1, progress=False)
    messages = [str(error) for _, error in sorted(raised.value.failures.items())]
    assert messages[0] == f"the service at {described.url} is busy (HTTP 503); try again later (tried 2 times)"
    assert messages[-1] == f"not sent, for {described.url} had become unavailable"
    assert len(described.requests) <= 1 + 2 * 2  # one image may have begun before the rest was called off
    assert all(isinstance(error, ServiceUnavailableError) for error in raised.value.failures.values())


def test_results_come_as_soon_as_they_are_there(described, key, image):
    gate = threading.Event()

    def wait(handler):
        gate.wait(20)
        send(handler, described.map)

    with SegmentationClient(described.url) as client:
        _ = client.info
        described.faults = [wait]
        each = client.segment_each([image, image.rotate(180)], key, concurrency=2)
        start = time.monotonic()
        first, _ = next(each)
        assert time.monotonic() - start < 15
        gate.set()
        second, _ = next(each)
    assert {first, second} == {0, 1}


def test_maps_that_were_handed_on_are_not_held(client, key, image):
    maps = []
    for _, found in client.segment_each([image] * 6, key, concurrency=1):
        assert found.shape == SIZE
        maps.append(weakref.ref(found))
        del found
        assert sum(reference() is not None for reference in maps) <= 1


def test_one_client_serves_many_threads(client, engine, key, image):
    expected, found = local_map(engine, key, image), []
    threads = [threading.Thread(target=lambda: found.append(client.segment(image, key))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(np.array_equal(segmentation_map, expected) for segmentation_map in found)


# ----------------------------------------------------------------------------------- services that mean no good


@pytest.fixture
def described(engine, image):
    """A scripted service that describes the engine's model, and returns one map for everything."""
    with ScriptedService(engine.model_info(), png(np.ones(SIZE, np.uint8))) as service:
        yield service


def png(array, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", **options)
    return buffer.getvalue()


def bomb(height, width):
    """The start of a PNG file of that size."""
    content = png(np.zeros(SIZE, np.uint8))
    header = b"IHDR" + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def test_the_scripted_service_is_one(described, key, image):
    assert (segment(described.url, image, key) == 1).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "expected version 1 of the service's interface at {url}, got 2; update hf-privseg"),
        ({"labels": {"0": "sky", "2": "road"}}, r"describes its model in an unknown form \(KeyError: '1'\); update"),
        ({"labels": {}}, r"describes its model with sizes \(16, 16384, .*\) that make no sense"),
        ({"palette": [[1, 2]]}, r"describes its model in an unknown form \(ValueError: cannot reshape"),
        ({"encryption": {"family": "orthogonal"}}, r"in an unknown form .*, got the fields \['family'\]\)"),
        (
            {"encryption": {"family": "\x1b[31m", "version": 1, "fingerprint": "0"}},
            "in an unknown form .*the family of a key is .*, got a str of 5 characters",
        ),
        ({"palette": [[1, 2, 3]]}, "expected 5 colours from {url}, as it has labels, got 1"),
        ({"encryption": "none"}, r"in an unknown form .*, got a str of 4 characters\)"),
        ({"max_pixels": "many"}, r"describes its model with sizes \(16, 'many', .*\) that make no sense"),
        ({"max_upload_bytes": 0}, "that make no sense"),
        ({"preprocessor": 3}, r"in an unknown form \(TypeError: "),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_description_that_is_none(described, key, image, change, message):
    described.model |= change
    with pytest.raises(ServiceError, match=message.format(url=described.url)):
        segment(described.url, image, key)
    assert "/v1/segment" not in described.paths


@pytest.mark.parametrize("answer", [None, [], "text", {}], ids=str)
def test_no_description_at_all(described, key, image, answer):
    described.model = answer
    with pytest.raises(ServiceError, match=r"expected version 1 of the service's interface at .*, got None"):
        segment(described.url, image, key)


def test_a_public_demonstration_is_not_for_this_client(described, key, image):
    described.model["encryption"] = None
    text = f"the service at {described.url} runs a plain, public model, which is a demonstration"
    with pytest.raises(EncryptionStateError, match=text):
        segment(described.url, image, key)


def test_smaller_blocks_than_agreed_on_are_refused(described, key, image):
    described.model |= {"patch_size": 2}
    described.model["preprocessor"]["patch_size"] = 2
    text = f"expected a model with patches of 16 pixels at {described.url}, got 2; smaller blocks show more"
    with pytest.raises(ServiceError, match=text):
        segment(described.url, image, key)
    with SegmentationClient(described.url, patch_size=2) as client:
        assert client.encrypt(image, key).patch_size == 2


def test_settings_of_another_patch_size_than_the_models_are_refused(described, key, image):
    described.model["preprocessor"]["patch_size"] = 2
    with pytest.raises(ServiceError, match=f"expected a model with patches of 16 pixels at {described.url}, got 16"):
        segment(described.url, image, key)


@pytest.mark.parametrize(
    "settings",
    [{"resize_factor": 9.0}, {"size": {"height": 960, "width": 64}}, {"size": {"shortest_edge": 800}}],
    ids=["factor", "size", "edge"],
)
def test_enlarging_an_image_beyond_measure_is_refused(described, key, image, settings):
    described.model |= {"max_pixels": 2**30}
    described.model["preprocessor"] |= settings
    text = rf"{described.url} wants an image of \(70, 93\) pixels enlarged to .*, more than {MAX_ENLARGEMENT} times"
    with pytest.raises(ServiceError, match=text):
        segment(described.url, image, key)
    with SegmentationClient(described.url, processor=SetrImageProcessor(**settings)) as client:
        assert max(client.encrypt(image, key).valid_region) > 200


@pytest.mark.parametrize("settings", [{"resize_factor": -1.0}, {"size": {"width": 64}}], ids=["factor", "size"])
def test_settings_that_cannot_be_used(described, key, image, settings):
    described.model["preprocessor"] |= settings
    with pytest.raises(ServiceError, match=f"{described.url} names settings for images that cannot be used"):
        segment(described.url, image, key)


def test_settings_that_would_not_cancel_are_refused(described, key, image):
    described.model["preprocessor"]["do_normalize"] = False
    with pytest.raises(
        ValueError, match=r"encryption needs pixels in \[-1, 1\], that is do_normalize=True, got False"
    ):
        segment(described.url, image, key)


def test_names_from_a_service_hold_no_control_characters(described):
    described.model["labels"]["0"] = "sky\x1b[31m\n" + "x" * 999
    with SegmentationClient(described.url) as client:
        assert client.info.labels[0] == ("sky[31m" + "x" * 999)[:80]


def test_a_file_beyond_the_limit_is_not_sent(described, key, image):
    described.model["max_upload_bytes"] = 1000
    text = f"expected a ciphertext of at most 1000 bytes, which is what {described.url} takes, got "
    with pytest.raises(InvalidImageError, match=text):
        segment(described.url, image, key)
    assert "/v1/segment" not in described.paths


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"{url} returned no PNG file \(.*\); the service is faulty"),
        (png(np.zeros(SIZE, np.uint8))[:-30], r"{url} returned no PNG file \(.*\); the service is faulty"),
        (png(np.zeros((70, 94), np.uint8)), "segmentation map of 70 x 93 pixels and 5 classes from {url}, got"),
        (png(np.zeros((*SIZE, 3), np.uint8)), "got 70 x 93 pixels of mode RGB; the service is faulty"),
        (png(np.full(SIZE, 5, np.uint8)), "got the class 5; the service is faulty"),
        (bomb(30000, 30000), "no PNG file|got 30000 x 30000"),
    ],
    ids=["empty", "truncated", "size", "colours", "class", "bomb"],
)  # fmt: skip
def test_a_map_that_is_none(described, key, image, content, message):
    described.map = content
    with pytest.raises(ServiceError, match=message.format(url=described.url)):
        segment(described.url, image, key)


def test_a_refusal_is_passed_on(described, key, image):
    with SegmentationClient(described.url) as client:
        _ = client.info
        described.faults = [fault(refusal("too dark"), 422)]
        with pytest.raises(RequestRefusedError, match=rf"^refused by {described.url} \(HTTP 422\): too dark$"):
            client.segment(image, key)
    assert described.paths == ["/v1/model", "/v1/segment"]


def test_an_image_is_sent_again_after_a_failure(described, key, image):
    with SegmentationClient(described.url) as client:
        _ = client.info
        described.faults = [fault(status=503)]
        assert (client.segment(image, key) == 1).all()
    assert described.paths.count("/v1/segment") == 2


# ----------------------------------------------------------------------------------------------- tenants and tokens


def test_the_key_of_a_tenant_is_taken_where_the_service_knows_it(described, other_key, image):
    described.embeddings[other_key.fingerprint] = other_key.facts.to_dict()
    with SegmentationClient(described.url) as client:
        for _ in range(2):
            assert (client.segment(image, other_key) == 1).all()
    assert described.paths.count(f"/v1/embeddings/{other_key.fingerprint}") == 1


@pytest.mark.parametrize("answer", [{}, [], {"family": "orthogonal", "version": 1, "fingerprint": "x"}], ids=str)
def test_a_tenant_that_is_described_in_an_unknown_form(described, other_key, image, answer):
    described.embeddings[other_key.fingerprint] = answer
    with pytest.raises(ServiceError, match=f"{described.url} describes a patch embedding in an unknown form"):
        segment(described.url, image, other_key)
    assert "/v1/segment" not in described.paths


def test_another_tenant_than_asked_for_is_refused(described, other_key, image):
    described.embeddings[other_key.fingerprint] = {**other_key.facts.to_dict(), "fingerprint": "0" * 16}
    with pytest.raises(
        KeyMismatchError, match=f"{other_key.fingerprint}.*is registered at {described.url}.*{'0' * 16}"
    ):
        segment(described.url, image, other_key)
    assert "/v1/segment" not in described.paths


def test_a_token_is_sent_and_never_shown(described, key, image, tmp_path):
    (tmp_path / "token").write_text("privseg-token-abc\n")
    (tmp_path / "token").chmod(0o600)
    with SegmentationClient(described.url, token=read_token(tmp_path / "token")) as client:
        client.segment(image, key)
        assert "abc" not in repr(client)
    assert {headers["authorization"] for _, _, headers, _ in described.requests} == {"Bearer privseg-token-abc"}


@pytest.mark.parametrize("content", ["", "two words", "line\nline", "caf\u00e9"], ids=repr)
def test_a_file_without_a_token_is_refused_and_not_repeated(tmp_path, content):
    (tmp_path / "token").write_text(content, encoding="utf-8")
    (tmp_path / "token").chmod(0o600)
    with pytest.raises(
        ValueError, match=r"^expected a file with an access token in one line, got \S+, which holds none$"
    ):
        read_token(tmp_path / "token")
