"""Secret keys: what they derive (against golden vectors and a plain HMAC loop), and that they do not get out."""

import base64
import copy
import hashlib
import hmac
import itertools
import json
import math
import os
import pickle
import pprint
import stat
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from helpers.paths import VECTORS_FOLDER
from helpers.second_copy import second_copy
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.derivation import normals, orthogonal_from_normals, shuffled
from hf_privseg.setr.errors import InvalidKeyError
from hf_privseg.setr.keys import DEFAULT_FAMILY, FAMILIES, SecretKey, as_key

VECTORS = json.loads((VECTORS_FOLDER / "keys.json").read_text())
INVALID = json.loads((VECTORS_FOLDER / "invalid_keys.json").read_text())
COUNTING = bytes(range(32))
each_vector = pytest.mark.parametrize("vector", VECTORS["keys"], ids=lambda vector: vector["name"])
each_family = pytest.mark.parametrize("family", FAMILIES)
posix_only = pytest.mark.skipif(os.name != "posix", reason="file modes are a POSIX notion")


def numbered_key(number: int, family: str = DEFAULT_FAMILY) -> SecretKey:
    return SecretKey(number.to_bytes(32, "big"), family)


def traces_of(secret: bytes) -> list[str]:
    """Texts that show a secret, whole or in good part."""
    forms = [secret.hex(), repr(secret)[2:-1], str(list(secret))[1:-1], base64.b64encode(secret).decode()]
    forms.append(base64.urlsafe_b64encode(secret).decode())
    return [form[start : start + 12] for form in forms for start in range(0, len(form) - 12, 12)]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# An independent reference, written from the specification: plain loops over HMAC, nothing shared with the package.


def reference_stream(secret: bytes, label: str, num_bytes: int) -> bytes:
    prk = hmac.new(b"hf-privseg/v1", secret, hashlib.sha256).digest()
    stream, i = b"", 0
    while len(stream) < num_bytes:
        i += 1
        stream += hmac.new(prk, label.encode("ascii") + i.to_bytes(4, "big"), hashlib.sha256).digest()
    return stream[:num_bytes]


def reference_order(secret: bytes, family: str, length: int) -> list[int]:
    stream = reference_stream(secret, f"hf-privseg/v1/{family}/{length}/order", 8 * length + 64)
    order, position = list(range(length)), 0
    for i in reversed(range(1, length)):
        while True:
            word = int.from_bytes(stream[position : position + 4], "big")
            position += 4
            if word < 2**32 - 2**32 % (i + 1):
                break
        j = word % (i + 1)
        order[i], order[j] = order[j], order[i]
    return order


def reference_signs(secret: bytes, family: str, length: int) -> list[int]:
    stream = reference_stream(secret, f"hf-privseg/v1/{family}/{length}/signs", length)
    bits = "".join(f"{byte:08b}" for byte in stream)
    return [-1 if bit == "1" else 1 for bit in bits[:length]]


def reference_haar(secret: bytes, family: str, size: int, purpose: str) -> np.ndarray:
    stream = reference_stream(secret, f"hf-privseg/v1/{family}/{size}/{purpose}", 8 * (size * (size + 1) // 2 + 1))
    numbers = []
    for start in range(0, len(stream) - 15, 16):
        k1 = int.from_bytes(stream[start : start + 8], "big") // 2**11
        k2 = int.from_bytes(stream[start + 8 : start + 16], "big") // 2**11
        radius, angle = math.sqrt(-2 * math.log((k1 + 1) / 2**53)), 2 * math.pi * k2 / 2**53
        numbers += [radius * math.cos(angle), radius * math.sin(angle)]
    product, signs = np.eye(size), []
    for j in range(size):
        x, numbers = np.array(numbers[: size - j]), numbers[size - j :]
        sign = 1 if x[0] >= 0 else -1
        v = np.zeros(size)
        v[j:] = x
        v[j] += sign * math.sqrt(sum(x**2))
        product = product @ (np.eye(size) - 2 * np.outer(v, v) / sum(v**2))
        signs.append(-sign)
    return product @ np.diag(signs)


# Golden vectors


@each_vector
def test_vector_of_text_and_fingerprint(vector):
    key = SecretKey.from_text(vector["text"])
    assert key == SecretKey(bytes.fromhex(vector["secret_hex"]), vector["family"])
    assert (key.to_text(), key.family, key.version) == (vector["text"], vector["family"], 1)
    assert key.fingerprint == vector["fingerprint"]
    label = f"hf-privseg/v1/{vector['family']}/fingerprint"
    assert key.fingerprint == reference_stream(bytes.fromhex(vector["secret_hex"]), label, 8).hex()


@each_vector
def test_vector_of_stream(vector):
    key = SecretKey.from_text(vector["text"])
    expected = bytes.fromhex(vector["stream"]["first_40_bytes_hex"])
    assert key.derive_bytes("order", 768, 40) == expected
    assert reference_stream(bytes.fromhex(vector["secret_hex"]), vector["stream"]["label"], 40) == expected


@pytest.mark.parametrize("vector", [v for v in VECTORS["keys"] if "permutation" in v], ids=lambda v: v["name"])
def test_vector_of_permutation(vector):
    for case in vector["permutation"]:
        order = SecretKey.from_text(vector["text"]).permutation(case["block_length"])
        assert order.dtype == np.int64
        assert order[:12].tolist() == case["begins"]
        assert hashlib.sha256(order.astype(">u2").tobytes()).hexdigest() == case["sha256_uint16_be"]
        secret = bytes.fromhex(vector["secret_hex"])
        assert order.tolist() == reference_order(secret, vector["family"], case["block_length"])


def test_permutation_of_the_counting_key_as_published():
    order = SecretKey(COUNTING, "permutation").permutation(768)
    assert order[:12].tolist() == [739, 218, 304, 132, 344, 712, 103, 652, 451, 537, 616, 478]
    assert hashlib.sha256(order.astype(">u2").tobytes()).hexdigest()[:32] == "89e4343c1744bd3f20a49c86c018f21b"


@pytest.mark.parametrize("vector", [v for v in VECTORS["keys"] if "signs" in v], ids=lambda v: v["name"])
def test_vector_of_signs(vector):
    for case in vector["signs"]:
        signs = SecretKey.from_text(vector["text"]).signs(case["block_length"])
        assert signs.dtype == np.int8
        assert signs[:12].tolist() == case["begins"]
        assert int((signs < 0).sum()) == case["negative"]
        assert hashlib.sha256(signs.tobytes()).hexdigest() == case["sha256_int8"]
        secret = bytes.fromhex(vector["secret_hex"])
        assert signs.tolist() == reference_signs(secret, vector["family"], case["block_length"])


@pytest.mark.parametrize("vector", [v for v in VECTORS["keys"] if "haar" in v], ids=lambda v: v["name"])
def test_vector_of_haar(vector):
    for case in vector["haar"]:
        matrix = SecretKey.from_text(vector["text"]).haar(case["block_length"], case["purpose"])
        assert matrix.dtype == np.float64
        np.testing.assert_allclose(matrix[:4, :4], case["first_4x4"], rtol=0, atol=1e-12)
        np.testing.assert_allclose(matrix[-4:, -4:], case["last_4x4"], rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 5, 12, 40])
def test_haar_equals_the_product_of_explicit_reflections(size):
    expected = reference_haar(COUNTING, "orthogonal", size, "haar")
    np.testing.assert_allclose(SecretKey(COUNTING).haar(size), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("vector", VECTORS["seeds"], ids=lambda vector: str(vector["seed"]))
def test_vector_of_seed(vector):
    with pytest.warns(UserWarning, match=r"whoever tries the seeds has the key; use SecretKey\.generate\(\)"):
        key = SecretKey.from_seed(vector["seed"], family=vector["family"])
    assert key.to_text() == vector["text"]
    assert key == SecretKey(hashlib.sha256(b"hf-privseg/v1/seed/%d" % vector["seed"]).digest(), vector["family"])


@pytest.mark.parametrize("vector", VECTORS["passphrases"], ids=lambda vector: vector["passphrase"])
def test_vector_of_passphrase(vector):
    salt = bytes.fromhex(vector["salt_hex"])
    key = SecretKey.from_passphrase(vector["passphrase"], family=vector["family"], salt=salt)
    assert key.to_text() == vector["text"]


# Derivation: properties


@pytest.mark.parametrize("num_bytes", [1, 31, 32, 33, 1000])
def test_stream_is_the_plain_hmac_loop(num_bytes):
    expected = reference_stream(COUNTING, "hf-privseg/v1/matrix/48/q1", num_bytes)
    assert SecretKey(COUNTING, "matrix").derive_bytes("q1", 48, num_bytes) == expected


def test_streams_differ_by_key_family_length_and_purpose():
    key = SecretKey(COUNTING, "permutation")
    streams = [
        key.derive_bytes("order", 768, 32),
        key.derive_bytes("signs", 768, 32),
        key.derive_bytes("order", 76, 32),
        SecretKey(COUNTING, "orthogonal").derive_bytes("order", 768, 32),
        numbered_key(1, "permutation").derive_bytes("order", 768, 32),
    ]
    assert len(set(streams)) == len(streams)


def test_fingerprints_differ_by_family_and_by_a_single_bit():
    flipped = COUNTING[:-1] + bytes([COUNTING[-1] ^ 1])
    fingerprints = {SecretKey(secret, family).fingerprint for secret in (COUNTING, flipped) for family in FAMILIES}
    assert len(fingerprints) == 2 * len(FAMILIES)


@pytest.mark.parametrize(
    ("length", "words", "expected"),
    [
        pytest.param(3, [5, 7], [0, 1, 2], id="both stay"),
        pytest.param(3, [0, 0], [1, 2, 0], id="always exchanged with the first"),
        pytest.param(3, [2**32 - 1, 0, 0], [1, 2, 0], id="top word skipped for bound 3"),
        pytest.param(3, [2**32 - 2, 0], [1, 0, 2], id="one below is taken"),
        pytest.param(2, [2**32 - 1], [0, 1], id="bound 2 skips nothing"),
        pytest.param(1, [], [0], id="one position needs no word"),
    ],
)
def test_shuffle_takes_and_skips_words_as_specified(length, words, expected):
    words = iter(words)
    assert shuffled(length, words).tolist() == expected
    assert list(words) == []


@pytest.mark.parametrize("length", [1, 2, 48, 768, 3072])
def test_permutation_has_every_position_once(length):
    assert sorted(SecretKey(COUNTING, "permutation").permutation(length).tolist()) == list(range(length))


def test_all_orders_of_three_are_equally_frequent():
    orders = [tuple(numbered_key(n, "permutation").permutation(3).tolist()) for n in range(3000)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert all(abs(count - 500) < 5 * math.sqrt(3000 * 5 / 36) for count in counts)


def test_normals_are_standard_normal():
    numbers = normals(SecretKey(COUNTING).derive_bytes("test", 1, 8 * 100_000))
    bound = 5 / math.sqrt(100_000)  # five standard errors
    assert abs(numbers.mean()) < bound
    assert abs(numbers.var() - 1) < bound * math.sqrt(2)
    assert abs((np.abs(numbers) < 0.6744897501960817).mean() - 0.5) < bound / 2
    assert abs((numbers[0::2] * numbers[1::2]).mean()) < bound * math.sqrt(2)


@pytest.mark.parametrize(
    ("stream", "radius"),
    [
        pytest.param(b"\x00" * 16, math.sqrt(2 * 53 * math.log(2)), id="zeros give the largest radius, not infinity"),
        pytest.param(b"\xff" * 8 + b"\x00" * 8, 0.0, id="ones give radius zero"),
    ],
)
def test_normals_at_the_ends_of_the_uniforms(stream, radius):
    np.testing.assert_allclose(normals(stream), [radius, 0.0], rtol=1e-15, atol=0)


@pytest.mark.parametrize("size", [1, 2, 48, 768])
def test_haar_matrix_is_orthogonal(size):
    matrix = SecretKey(COUNTING).haar(size)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(size), rtol=0, atol=1e-13)


def test_haar_matrices_are_uniform_and_not_those_of_a_bare_qr():
    """Under Haar measure E[tr Q] = 0 and E[(tr Q)^2] = 1; without the signs D the first is far from 0."""
    traces = np.array([np.trace(numbered_key(n).haar(8)) for n in range(2000)])
    assert abs(traces.mean()) < 5 / math.sqrt(2000)
    assert abs((traces**2).mean() - 1) < 5 * math.sqrt(2 / 2000)
    determinants = [np.linalg.det(numbered_key(n).haar(3)) for n in range(400)]
    assert abs(sum(d > 0 for d in determinants) - 200) < 5 * 10


def test_haar_matrix_is_the_q_of_a_gaussian_with_the_same_first_column():
    x = np.array([-3.0, 4.0, 12.0])
    matrix = orthogonal_from_normals(3, np.concatenate([x, [1.0, 2.0, -1.0]]))
    np.testing.assert_allclose(matrix[:, 0], x / 13, rtol=1e-15)


@pytest.mark.parametrize("derive", [lambda k: k.permutation(48), lambda k: k.signs(48), lambda k: k.haar(48)])
def test_derived_arrays_are_remembered_on_the_key_and_read_only(derive):
    key, equal_key = SecretKey(COUNTING), SecretKey(COUNTING)
    array = derive(key)
    assert derive(key) is derive(equal_key) is array
    assert derive(SecretKey(COUNTING, "matrix")) is not array
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0


def test_what_is_derived_dies_with_the_last_of_equal_keys():
    secret = bytes(range(1, 33))  # of no other test, whose keys may still live
    key, equal_key = SecretKey(secret), SecretKey(secret)
    cipher = weakref.ref(cipher_for(key, patch_size=4))
    del key
    assert cipher_for(equal_key, patch_size=4) is cipher()
    del equal_key
    assert cipher() is None


def test_threads_derive_once():
    key, calls = SecretKey(COUNTING), []

    def slow():
        time.sleep(0.05)
        calls.append(1)
        return object()

    with ThreadPoolExecutor(4) as pool:
        results = set(pool.map(lambda _: SecretKey(COUNTING).remember("slow", slow), range(4)))
    assert (len(results), len(calls), key.remember("slow", slow)) == (1, 1, *results)


def test_remember_calls_once_for_each_name():
    key, numbers = SecretKey(COUNTING), itertools.count()
    assert [key.remember(name, lambda: next(numbers)) for name in ("a", "b", "a")] == [0, 1, 0]


# Making and reading keys


@each_family
def test_generated_keys_differ_and_round_trip_as_text(family):
    key = SecretKey.generate(family)
    assert key.family == family
    assert key != SecretKey.generate(family)
    assert SecretKey.from_text(f" \t{key.to_text()}\r\n") == key
    assert SecretKey.generate().family == DEFAULT_FAMILY


@pytest.mark.parametrize("vector", INVALID, ids=lambda vector: vector["name"])
def test_invalid_text_is_refused_without_repeating_it(vector):
    with pytest.raises(InvalidKeyError) as caught:
        SecretKey.from_text(vector["text"])
    assert vector["error"] in str(caught.value)
    assert caught.value.__context__ is None
    secret = vector["text"].rpartition(".")[2]
    assert not any(secret[start : start + 8] in str(caught.value) for start in range(0, len(secret) - 8))


def test_text_that_is_no_str_is_refused():
    with pytest.raises(InvalidKeyError, match=r"SecretKey\.from_text expects a str, got bytes"):
        SecretKey.from_text(SecretKey(COUNTING).to_text().encode())  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize(
    ("value", "came"),
    [
        (b"short", "5 bytes"),
        (b"x" * 33, "33 bytes"),
        ("x" * 32, "str"),
        (bytearray(32), "bytearray"),
        (None, "NoneType"),
    ],
    ids=["too short", "too long", "str", "bytearray", "none"],
)
def test_constructor_takes_exactly_32_bytes(value, came):
    with pytest.raises(InvalidKeyError, match=rf"exactly 32 bytes, got {came}; make one with SecretKey\.generate"):
        SecretKey(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda family: SecretKey.generate(family),
        lambda family: SecretKey(COUNTING, family),
        lambda family: SecretKey.from_passphrase("a passphrase", family=family, salt=bytes(16)),
    ],
    ids=["generate", "constructor", "passphrase"],
)
def test_unknown_family_lists_the_choices(make):
    choices = "permutation, signed_permutation, orthogonal, matrix"
    with pytest.raises(InvalidKeyError, match=f"unknown key family 'orthogonl'; choose one of {choices}"):
        make("orthogonl")


def test_passphrase_key_depends_on_salt_but_not_on_unicode_form():
    salt, other_salt = SecretKey.new_salt(), SecretKey.new_salt()
    assert (len(salt), len(other_salt), salt == other_salt) == (16, 16, False)
    composed = SecretKey.from_passphrase("caf\u00e9", family="permutation", salt=salt)
    assert composed == SecretKey.from_passphrase("cafe\u0301", family="permutation", salt=salt)
    assert composed != SecretKey.from_passphrase("caf\u00e9", family="permutation", salt=other_salt)


@pytest.mark.parametrize(("passphrase", "came"), [("", "an empty one"), (b"hidden", "bytes"), (None, "NoneType")])
def test_passphrase_must_be_text(passphrase, came):
    with pytest.raises(InvalidKeyError, match=f"a str and not empty, got {came}") as caught:
        SecretKey.from_passphrase(passphrase, salt=bytes(16))
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(("salt", "came"), [(b"", "0 bytes"), (b"x" * 15, "15 bytes"), ("x" * 16, "str")])
def test_salt_must_be_16_bytes(salt, came):
    with pytest.raises(InvalidKeyError, match=rf"exactly 16 bytes, got {came}; make one with SecretKey\.new_salt"):
        SecretKey.from_passphrase("a passphrase", salt=salt)


def test_passphrase_with_a_lone_surrogate_does_not_leak_through_an_encoding_error():
    key = SecretKey.from_passphrase("a\udc80", salt=bytes(16))
    assert key != SecretKey.from_passphrase("a", salt=bytes(16))


@pytest.mark.parametrize(
    ("seed", "came"), [(-1, "a negative int"), (True, "bool"), ("1", "str"), (1.0, "float"), (None, "NoneType")]
)
def test_seed_must_be_a_natural_number(seed, came):
    with pytest.raises(InvalidKeyError, match=f"a seed is an int >= 0, got {came}"):
        SecretKey.from_seed(seed)


# Files and the environment


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


@each_family
def test_file_round_trip(tmp_path, family):
    key, path = SecretKey.generate(family), tmp_path / "k.key"
    key.to_file(path)
    assert path.read_bytes() == key.to_text().encode() + b"\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SecretKey.from_file(path) == key
        assert SecretKey.from_file(str(path)) == key


@posix_only
@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("overwrite", [False, True])
def test_key_file_is_private_at_every_moment(tmp_path, monkeypatch, overwrite):
    path, seen = tmp_path / "k.key", []
    if overwrite:
        path.write_text("old")
        path.chmod(0o644)
    fsync = os.fsync

    def look_then_sync(descriptor):
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        fsync(descriptor)

    def look_then(publish):
        def looking(source, target):
            seen.append(mode_of(Path(source)))
            publish(source, target)

        return looking

    monkeypatch.setattr(os, "fsync", look_then_sync)
    for name in ("replace", "link"):
        monkeypatch.setattr(os, name, look_then(getattr(os, name)))
    SecretKey(COUNTING).to_file(path, overwrite=overwrite)
    assert [*seen, mode_of(path)] == [0o600] * 3


def test_existing_file_is_kept_unless_told_otherwise(tmp_path):
    path, old, new = tmp_path / "k.key", numbered_key(1), numbered_key(2)
    old.to_file(path)
    with pytest.raises(FileExistsError, match=r"k\.key exists, .*choose another path or pass overwrite=True"):
        new.to_file(path)
    assert SecretKey.from_file(path) == old
    new.to_file(path, overwrite=True)
    assert SecretKey.from_file(path) == new
    assert os.listdir(tmp_path) == ["k.key"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_failed_write_leaves_the_folder_as_it_was(tmp_path, monkeypatch, overwrite):
    path = tmp_path / "k.key"
    if overwrite:
        numbered_key(1).to_file(path)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}

    def full(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        numbered_key(2).to_file(path, overwrite=overwrite)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


@posix_only
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_file_that_others_can_reach_is_read_with_a_warning(tmp_path, mode):
    path = tmp_path / "k.key"
    SecretKey(COUNTING).to_file(path)
    path.chmod(mode)
    with pytest.warns(UserWarning, match=rf"k\.key \(mode 0{mode:o}\); run: chmod 600 .*k\.key") as caught:
        assert SecretKey.from_file(path) == SecretKey(COUNTING)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00\xff" * 99, SecretKey(COUNTING).to_text().encode("utf-16")],
    ids=["empty", "binary", "utf-16"],
)
def test_file_with_something_else_is_named(tmp_path, content):
    path = tmp_path / "k.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(InvalidKeyError, match=r"key file .*k\.key: a key's text form is 'privseg1\.") as caught:
        SecretKey.from_file(path)
    assert caught.value.__suppress_context__


def test_file_saved_by_an_editor_with_a_mark_and_white_space_is_read(tmp_path):
    path = tmp_path / "k.key"
    path.write_bytes(b"\xef\xbb\xbf  " + SecretKey(COUNTING).to_text().encode() + b"\r\n\r\n")
    path.chmod(0o600)
    assert SecretKey.from_file(path) == SecretKey(COUNTING)


def test_text_given_as_a_path_is_refused_without_repeating_it():
    text = SecretKey(COUNTING).to_text()
    with pytest.raises(InvalidKeyError, match=r"expects a path, got a key's text; use SecretKey\.from_text") as caught:
        SecretKey.from_file(text)
    assert text[-8:] not in str(caught.value)


def test_missing_file_is_the_builtin_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SecretKey.from_file(tmp_path / "nowhere")


def test_environment_variable_is_read(monkeypatch):
    monkeypatch.setenv("PRIVSEG_KEY", f" {numbered_key(1).to_text()}\n")
    monkeypatch.setenv("OTHER", numbered_key(2, "matrix").to_text())
    assert SecretKey.from_env() == numbered_key(1)
    assert SecretKey.from_env("OTHER") == numbered_key(2, "matrix")


def test_environment_errors_name_the_variable_and_not_its_value(monkeypatch):
    monkeypatch.delenv("PRIVSEG_KEY", raising=False)
    with pytest.raises(InvalidKeyError, match="the environment variable PRIVSEG_KEY is not set"):
        SecretKey.from_env()
    monkeypatch.setenv("OTHER", "hidden")
    with pytest.raises(InvalidKeyError, match=r"environment variable OTHER: .* does not begin with") as caught:
        SecretKey.from_env("OTHER")
    assert "hidden" not in str(caught.value)
    assert caught.value.__suppress_context__


# A key does not get out


@pytest.mark.parametrize("show", [repr, str, format, ascii, pprint.pformat, lambda key: f"{[key]} {key!s:>80}"])
def test_every_representation_is_redacted(show):
    key = SecretKey.generate("permutation")
    shown = show(key)
    assert f"SecretKey(family='permutation', fingerprint='{key.fingerprint}')" in shown
    secret = base64.urlsafe_b64decode(key.to_text().rpartition(".")[2] + "=")
    assert not any(trace in shown for trace in traces_of(secret))


def test_generic_dumps_find_nothing():
    key = SecretKey(COUNTING)
    with pytest.raises(TypeError, match="__dict__"):
        vars(key)
    public = [getattr(key, name) for name in dir(key) if not name.startswith("_")]
    values = [value for value in public if not callable(value)]
    assert sorted(map(str, values)) == sorted([key.family, key.fingerprint, "1", str(key.facts)])


@pytest.mark.parametrize(
    "export",
    [*(lambda key, protocol=protocol: pickle.dumps(key, protocol) for protocol in range(6)), copy.copy, copy.deepcopy],
    ids=[*(f"pickle {protocol}" for protocol in range(6)), "copy", "deepcopy"],
)
def test_pickling_and_copying_are_refused_with_advice(export):
    with pytest.raises(TypeError, match=r"neither pickled nor copied.*path of a key file.*SecretKey\.from_file"):
        export(SecretKey(COUNTING))


def test_json_and_bytes_are_refused():
    with pytest.raises(TypeError, match="SecretKey is not JSON serializable"):
        json.dumps({"secret_key": SecretKey(COUNTING)})
    with pytest.raises(TypeError, match="SecretKey"):
        bytes(SecretKey(COUNTING))  # type: ignore[call-overload]  # the mistake under test


def test_attributes_cannot_be_set():
    for name in ("family", "version", "fingerprint", "anything"):
        with pytest.raises(AttributeError, match=name):
            setattr(SecretKey(COUNTING), name, "permutation")


def test_equality_and_hash_follow_bytes_and_family():
    key = SecretKey(COUNTING)
    assert key == SecretKey(COUNTING)
    assert key != SecretKey(COUNTING, "matrix")
    assert key != numbered_key(1)
    assert key != COUNTING
    assert {key: "found"}[SecretKey(COUNTING)] == "found"


# as_key


def test_as_key_passes_keys_on_and_takes_32_bytes():
    key = SecretKey(COUNTING, "matrix")
    assert as_key(key) is key
    assert as_key(COUNTING) == SecretKey(COUNTING, DEFAULT_FAMILY)


def test_as_key_rebuilds_a_key_of_another_copy_of_the_module():
    foreign = second_copy("keys").SecretKey(COUNTING, "permutation")
    order = foreign.permutation(48)
    assert not isinstance(foreign, SecretKey)
    rebuilt = as_key(foreign)
    assert rebuilt == SecretKey(COUNTING, "permutation")
    assert rebuilt.permutation(48) is order  # derived once for both
    assert as_key(foreign).haar(48) is as_key(foreign).haar(48)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (42, r"expected a SecretKey or 32 bytes, got int; SecretKey\.from_seed"),
        ("open sesame", r"got str; SecretKey\.from_text .*SecretKey\.from_file .*SecretKey\.from_passphrase"),
        (SecretKey(COUNTING).to_text(), r"got str; SecretKey\.from_text"),
        (Path("k.key"), r"got \w+Path; read one with SecretKey\.from_file"),
        (None, r"got NoneType; .* make one with SecretKey\.generate"),
        (b"open sesame", "exactly 32 bytes, got 11 bytes"),
    ],
    ids=["int", "passphrase", "text", "path", "none", "short bytes"],
)
def test_as_key_refuses_anything_else_and_names_the_constructor(value, message):
    with pytest.raises(InvalidKeyError, match=message) as caught:
        as_key(value)
    assert "sesame" not in str(caught.value)
