"""The page's cryptography in JavaScript against Python's: golden vectors, and files made on the fly (needs Node)."""

import base64
import hashlib
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from PIL import Image

from helpers.paths import TESTS
from helpers.tiny_setr import tiny_model
from hf_privseg import ClientEmbedding, EncryptedImage, SecretKey, SetrImageProcessor
from hf_privseg.service.embedding_file import embedding_from_bytes, embedding_to_bytes
from hf_privseg.service.page import family_options
from hf_privseg.setr.ciphers import cipher_for
from hf_privseg.setr.keys import DEFAULT_FAMILY, FAMILIES
from hf_privseg.setr.packed_integers import unpacked
from hf_privseg.setr.transform_code import TransformCode

HERE = TESTS
STATIC = HERE.parent / "hf_privseg" / "service" / "static"
VECTORS = json.loads((HERE / "vectors" / "keys.json").read_text())["keys"]
INVALID = json.loads((HERE / "vectors" / "invalid_keys.json").read_text())

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")

HELPERS = """
const b64 = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength).toString('base64');
const bytes = (text) => Uint8Array.from(Buffer.from(text, 'base64'));
const ascii = (text) => new TextEncoder().encode(text);
"""


def node(code, **values):
    """Body of an async function that sees the modules' exports as `js`, and values as constants -> what it returns."""
    constants = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in values.items())
    given = json.dumps({"modules": STATIC.as_uri(), "code": HELPERS + constants + code})
    done = subprocess.run(
        ["node", str(HERE / "javascript" / "evaluate.mjs")], input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def array(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_golden_vectors(vector):
    lengths = [case["block_length"] for case in vector.get("permutation", [])]
    label = vector["stream"]["label"].split("/")
    found = node(
        """
        const key = js.SecretKey.fromText(text);
        const [length, purpose] = [Number(label[3]), label[4]];
        return {
          facts: await key.facts(), text: key.toText(), stream: b64(await key.deriveBytes(purpose, length, 40)),
          orders: await Promise.all(lengths.map(async (n) => b64(await key.permutation(n)))),
          signs: await Promise.all(lengths.map(async (n) => b64(await key.signs(n)))),
          haar: b64(await key.haar(12)),
        };
        """,
        text=vector["text"],
        label=label,
        lengths=lengths,
    )
    key = SecretKey.from_text(vector["text"])
    assert found["text"] == vector["text"]
    assert found["facts"] == {"family": vector["family"], "version": 1, "fingerprint": vector["fingerprint"]}
    assert array(found["stream"], np.uint8).tobytes().hex() == vector["stream"]["first_40_bytes_hex"]
    for order, signs, case in zip(found["orders"], found["signs"], vector.get("permutation", []), strict=True):
        order = array(order, np.uint16)
        assert order[:12].tolist() == case["begins"]
        assert hashlib.sha256(order.astype(">u2").tobytes()).hexdigest() == case["sha256_uint16_be"]
        assert np.array_equal(array(signs, np.int8), key.signs(case["block_length"]))
    np.testing.assert_allclose(array(found["haar"], np.float64).reshape(12, 12), key.haar(12), atol=1e-12)


def test_a_random_key_of_full_size_gives_the_same_matrix():
    key = SecretKey.generate()
    found = node("return b64(await js.SecretKey.fromText(text).haar(768));", text=key.to_text())
    np.testing.assert_allclose(array(found, np.float64).reshape(768, 768), key.haar(768), atol=1e-12)


def test_invalid_keys_are_refused_without_repeating_them():
    texts = [case["text"] for case in INVALID]
    errors = node(
        "return texts.map((t) => { try { js.SecretKey.fromText(t); return ''; } catch (e) { return e.message; } });",
        texts=texts,
    )
    assert len(errors) > 3
    for text, error in zip(texts, errors, strict=True):
        assert error.startswith("this is no key, whose text form is 'privseg1.<family>.<base64url>'"), text
        assert len(text) < 8 or text not in error
    message = "return (() => { try { new js.SecretKey(new Uint8Array(31)); } catch (e) { return e.message; } })();"
    assert "exactly 32 bytes" in node(message)
    message = message.replace("31)", "32), 'rot13'")
    assert "unknown key family 'rot13'; choose one of permutation, " in node(message)


def test_the_page_offers_the_families_that_its_code_has():
    assert node("return js.FAMILIES;") == list(FAMILIES)
    offered = re.findall(r'<option value="(\w+)">', family_options())
    assert sorted(offered) == sorted(FAMILIES)
    assert offered[0] == DEFAULT_FAMILY


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encrypted_image_is_the_same_file_content(family):
    key, size = SecretKey.generate(family), (32, 48)
    levels = np.random.default_rng(5).integers(0, 256, (*size, 3), np.uint8)
    rgba = np.concatenate([levels, np.full((*size, 1), 255, np.uint8)], axis=2)
    found = node(
        """
        const me = new js.OwnerClient();
        await me.loadKey("mine", ascii(text));
        const pixels = Uint8Array.from(Buffer.from(rgba, "base64"));
        const {file, picture} = await me.encryptImage("mine", pixels, 32, 48, 8, [30, 45]);
        return {file: b64(file), picture: b64(picture)};
        """,
        text=key.to_text(),
        rgba=base64.b64encode(rgba.tobytes()).decode(),
    )
    image = EncryptedImage.from_bytes(base64.b64decode(found["file"]))  # checks header, shape and hash
    expected = SetrImageProcessor(patch_size=8).encrypt(Image.fromarray(levels), key)
    assert (image.family, image.fingerprint, image.patch_size) == (family, key.fingerprint, 8)
    assert (image.original_size, image.valid_region) == ((30, 45), size)
    if image.pixels.dtype == np.uint8:
        assert np.array_equal(image.pixels, expected.pixels)
    else:
        step = float(np.abs(expected.pixels).max()) / 32767  # rounded to 16 bits, and computed in float32
        np.testing.assert_allclose(image.pixels, expected.pixels, rtol=0, atol=0.6 * step)
    shown = array(found["picture"], np.uint8).reshape(*size, 4)
    assert np.abs(shown[..., :3].astype(int) - np.array(expected.to_picture()).astype(int)).max() <= 1
    assert (shown[..., 3] == 255).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_upload_of_8_bits_is_read_as_it_was_meant(family):
    key = SecretKey.generate(family)
    levels = (
        np.random.default_rng(5).integers(0, 60, (32, 48, 3), np.uint8) + np.arange(48, dtype=np.uint8)[:, None] * 4
    )
    rgba = np.concatenate([levels, np.full((32, 48, 1), 255, np.uint8)], axis=2)
    found = node(
        """
        const me = new js.OwnerClient();
        await me.loadKey("mine", ascii(text));
        const pixels = Uint8Array.from(Buffer.from(rgba, "base64"));
        const {file, picture} = await me.encryptImage("mine", pixels, 32, 48, 8, [32, 48], {bits: 8});
        return {file: b64(file), picture: b64(picture)};
        """,
        text=key.to_text(),
        rgba=base64.b64encode(rgba.tobytes()).decode(),
    )
    image = EncryptedImage.from_bytes(base64.b64decode(found["file"]))
    exact = SetrImageProcessor(patch_size=8).encrypt(Image.fromarray(levels), key)
    expected = SetrImageProcessor(patch_size=8).encrypt(Image.fromarray(levels), key, bits=8)
    assert image.bits == 8
    errors = [float(np.abs(each.pixels.astype(np.float64) - exact.pixels).mean()) for each in (image, expected)]
    assert errors[0] <= 1.02 * errors[1]
    assert (errors[0] > 0) == ("permutation" not in family)
    shown = array(found["picture"], np.uint8).reshape(32, 48, 4)
    assert np.abs(shown[..., :3].astype(int) - np.array(image.to_picture()).astype(int)).max() <= 1


def test_blocks_of_8_bits_are_restored_to_the_numbers_of_the_vector():
    vector = json.loads((HERE / "vectors" / "eight_bit_blocks.json").read_text())
    found = node(
        """
        const flat = (type, list) => type.from(list.flat(Infinity));
        const [scale, axis, along] = [vector.scale, vector.axis, vector.along].map((list) => flat(Float32Array, list));
        return b64(js.restoredBlocks({values: flat(Int8Array, vector.values), scale, axis, along}));
        """,
        vector=vector,
    )
    assert array(found, "<f4").astype(">f4").tobytes().hex() == vector["restored"]


def test_integers_are_packed_as_python_reads_them():
    vector = json.loads((HERE / "vectors" / "packed_integers.json").read_text())
    found = node(
        "const given = Int16Array.from(values); return [b64(js.planesOf(given)), b64(await js.packed(given))];",
        values=vector["values"],
    )
    assert base64.b64decode(found[0]).hex() == vector["planes"]
    values = np.array(vector["values"], np.int16)
    assert np.array_equal(unpacked(array(found[1], np.uint8), values.shape), values)


CLIENT_EMBEDDINGS = json.loads((HERE / "vectors" / "client_embeddings.json").read_text())
FILE_AND_ROWS = """
const key = await js.ClientEmbedding.fromFile(bytes(vector.file));
const cipher = await js.cipherFor(key, 12);
const sent = b64(cipher.actOnRows(Float64Array.from(vector.rows.flat())));
const steps = Object.keys(vector.steps ?? {}).map((bits) => key.stepFor(Number(bits)));
return {facts: await key.facts(), sent, steps, range: key.bitsPerBlock, file: b64(key.toFile())};
"""


@pytest.mark.parametrize("vector", CLIENT_EMBEDDINGS, ids=["plain", "with a transform code"])
def test_client_embeddings(vector):
    found = node(FILE_AND_ROWS, vector=vector)
    assert found["facts"] == {"family": "embedding", "version": 1, "fingerprint": vector["fingerprint"]}
    np.testing.assert_allclose(array(found["sent"], np.float64).reshape(4, 5), vector["sent"], rtol=0, atol=1e-13)
    np.testing.assert_allclose(found["steps"], list(vector.get("steps", {}).values()), rtol=1e-14)
    assert found["range"] == ([20, 100] if "steps" in vector else None)
    assert found["file"] == vector["file"]


def test_a_damaged_client_embedding_is_refused_without_repeating_it():
    good = base64.b64decode(CLIENT_EMBEDDINGS[1]["file"])
    changed = good.replace(np.array([0.25, 0.5]).tobytes(), np.array([0.25, 0.75]).tobytes())
    files = [
        good[:-1],
        good[:600],
        changed,
        good.replace(b'"F64"', b'"I64"'),
        good.replace(b"_embedding", b"_embeddina"),
    ]
    errors = node(
        """
        const me = new js.OwnerClient();
        return Promise.all(files.map((file) => me.loadKey("mine", bytes(file)).then(() => "", (e) => e.message)));
        """,
        files=[base64.b64encode(each).decode() for each in files],
    )
    assert ["the numbers of this client embedding are not" in error for error in errors] == [0, 0, 1, 0, 0]
    assert all("copy the file again" in error and len(error) < 120 for error in errors)


@pytest.mark.parametrize(
    ("rounding", "asked"),
    [({}, {}), ({"bits": 8}, {"bits": 8}), ({"bitsPerBlock": 250}, {"bits_per_block": 250})],
    ids=["16 bits", "8 bits", "few bits"],
)
def test_an_image_encrypted_with_a_client_embedding_is_that_of_python(rounding, asked):
    model = tiny_model(patch_size=8, image_size=64)
    plain = ClientEmbedding.generate(model)
    rank = plain.shape[1]
    transform = np.random.default_rng(0).normal(size=(rank, rank)) / rank**0.5
    key = plain.with_code(TransformCode(transform, np.array([2.0**-9, 2.0**-3]), np.array([400.0, 90.0])))
    levels = (
        np.random.default_rng(5).integers(0, 60, (32, 48, 3), np.uint8) + np.arange(48, dtype=np.uint8)[:, None] * 4
    )
    rgba = np.concatenate([levels, np.full((32, 48, 1), 255, np.uint8)], axis=2)
    found = node(
        """
        const me = new js.OwnerClient();
        const facts = await me.loadKey("mine", bytes(secret));
        const {file, picture} = await me.encryptImage("mine", bytes(rgba), 32, 48, 8, [30, 45], rounding);
        return {file: b64(file), picture: b64(picture), facts};
        """,
        secret=base64.b64encode(key.to_bytes()).decode(),
        rgba=base64.b64encode(rgba.tobytes()).decode(),
        rounding=rounding,
    )
    assert found["facts"] == {**key.facts.to_dict(), "width": rank, "bitsPerBlock": [90, 400]}
    image = EncryptedImage.from_bytes(base64.b64decode(found["file"]))
    processor = SetrImageProcessor(patch_size=8)
    expected = EncryptedImage.from_bytes(processor.encrypt(Image.fromarray(levels), key, **asked).to_bytes())
    assert (image.family, image.fingerprint, image.bits) == ("embedding", key.fingerprint, expected.bits)
    assert (image.original_size, image.valid_region) == ((30, 45), (32, 48))
    assert (image.step is None) == (expected.step is None)
    scale = float(np.abs(expected.pixels).max())
    if image.step is not None:  # all but ties are the same integers
        assert image.step == expected.step
        assert (image.pixels == expected.pixels).mean() > 0.999
    np.testing.assert_allclose(
        image.pixels, expected.pixels, rtol=0, atol=1.01 * (image.step or scale / (127 if asked else 32767))
    )
    shown = array(found["picture"], np.uint8).reshape(32, 48, 4)
    assert np.abs(shown[..., :3].astype(int) - np.array(image.to_picture()).astype(int)).max() <= 1


def test_few_bits_are_refused_without_a_transform_code_and_outside_of_its_range():
    errors = node(
        """
        const me = new js.OwnerClient();
        const refusal = (bits) => me.encryptImage("mine", new Uint8Array(16), 2, 2, 2, [2, 2], {bitsPerBlock: bits})
          .then(() => "", (error) => error.message);
        await me.newKey("mine", "orthogonal");
        const found = [await refusal(50)];
        await me.loadKey("mine", bytes(files[0]));
        found.push(await refusal(50));
        await me.loadKey("mine", bytes(files[1]));
        return [...found, await refusal(19), await refusal(101), await refusal(Number("x")), await refusal(50)];
        """,
        files=[vector["file"] for vector in CLIENT_EMBEDDINGS],
    )
    assert "few bits a block need a client embedding with a transform code" in errors[0]
    assert "this client embedding has no transform code" in errors[1]
    assert errors[2:] == [f"expected 20 to 100 bits a block, got {bits}" for bits in ("19", "101", "NaN")] + [""]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encrypted_embedding_is_that_of_python(family):
    key = SecretKey.generate(family)
    weight = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = node(
        """
        const me = new js.OwnerClient();
        await me.loadKey("mine", ascii(text));
        const file = Uint8Array.from(Buffer.from(plain, "base64"));
        const encrypted = await me.encryptEmbedding(file, ["mine"], "mine");
        return {...encrypted, file: b64(encrypted.file)};
        """,
        text=key.to_text(),
        plain=base64.b64encode(embedding_to_bytes(weight)).decode(),
    )
    encrypted, facts = embedding_from_bytes(base64.b64decode(found["file"]))
    assert facts == key.facts
    assert found["fingerprint"] == key.fingerprint
    torch.testing.assert_close(encrypted, cipher_for(key, patch_size=8).encrypt_weight(weight), rtol=1e-6, atol=1e-6)


def test_two_keys_in_a_row_make_the_no_encryption_case_without_a_plain_image():
    # b T^-1 under T K E is b K E: what a plain image is to the model that K encrypted.
    ours, other = SecretKey.generate(), SecretKey.generate("permutation")
    weight = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = node(
        """
        const me = new js.OwnerClient();
        await me.loadKey("mine", ascii(ours));
        await me.loadKey("other", ascii(other));
        const file = Uint8Array.from(Buffer.from(plain, "base64"));
        return b64((await me.encryptEmbedding(file, ["mine", "other"], "other")).file);
        """,
        ours=ours.to_text(),
        other=other.to_text(),
        plain=base64.b64encode(embedding_to_bytes(weight)).decode(),
    )
    encrypted, facts = embedding_from_bytes(base64.b64decode(found))
    assert facts.fingerprint == other.fingerprint
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    conv = torch.nn.functional.conv2d
    seen = conv(cipher_for(other, patch_size=8).encrypt(pixels), encrypted, stride=8)
    expected = conv(pixels, cipher_for(ours, patch_size=8).encrypt_weight(weight), stride=8)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)


def test_set_up_and_encryption_are_fast_enough():
    # Seconds of processor time, so that a shared core does not count: three at most once, two for 512 x 512.
    seconds = node(
        """
        const used = () => Object.values(process.cpuUsage()).reduce((a, b) => a + b) / 1e6;
        const me = new js.OwnerClient();
        await me.newKey("mine", "orthogonal");
        const weight = new Float32Array(384 * 768).fill(0.1);
        let start = used();
        await me.encryptEmbedding(js.embeddingToFile(weight, [384, 3, 16, 16], {}), ["mine"], "mine");
        const setUp = used() - start;
        start = used();
        await me.encryptImage("mine", new Uint8Array(4 * 512 * 512).fill(7), 512, 512, 16, [512, 512]);
        return [setUp, used() - start];
        """
    )
    print("seconds of processor time for the set-up and for 512 x 512:", seconds)
    assert seconds[0] <= 3
    assert seconds[1] <= 2


@pytest.mark.parametrize("with_vectors", [True, False], ids=["webassembly", "javascript"])
def test_products_in_tiles_are_equal_bit_for_bit_to_sums_one_by_one(with_vectors):
    sizes = [(1, 12, 12), (3, 12, 12), (4, 12, 12), (7, 12, 12), (9, 27, 27), (16, 3, 3), (130, 48, 48)]
    sizes += [(9, 12, 5), (9, 12, 3), (1, 12, 5), (130, 48, 31)]  # a client embedding sends fewer numbers
    found = node(
        """
        const numbers = (count, seed) => Float64Array.from({length: count}, (_, i) => Math.sin(seed * i + 1));
        return sizes.map(([rows, length, width]) => {
          const matrix = numbers(width * length, 5);
          const multiply = js.productsWith(matrix, length, withVectors);
          return [3, 7].map((seed) => { // twice: nothing is left over from the first time
            const u = numbers(rows * length, seed);
            const expected = Float64Array.from({length: rows * width}, (_, i) => {
              let sum = 0;
              const [row, column] = [length * Math.floor(i / width), length * (i % width)];
              for (let k = 0; k < length; k++) sum += u[row + k] * matrix[column + k];
              return sum;
            });
            return [b64(multiply(u)), b64(expected)];
          });
        });
        """,
        sizes=sizes,
        withVectors=with_vectors,
    )
    for size, pairs in zip(sizes, found, strict=True):
        for given, expected in pairs:
            assert len(array(given, np.float64)) == size[0] * size[2]
            assert given == expected, size


def test_the_other_tests_here_run_with_webassembly_and_without_it_the_page_still_encrypts():
    assert node("return js.hasVectors;")
    modules = [str(STATIC / name) for name in ("products.js", "owner_client.js")]
    code = f"""
    delete globalThis.WebAssembly;
    const {{hasVectors}} = await import({json.dumps(modules[0])});
    const {{OwnerClient}} = await import({json.dumps(modules[1])});
    const me = new OwnerClient();
    await me.newKey("mine", "orthogonal");
    const {{file}} = await me.encryptImage("mine", new Uint8Array(4 * 32 * 32).fill(7), 32, 32, 8, [32, 32]);
    console.log(JSON.stringify([hasVectors, file.length > 3 * 32 * 32 * 2]));
    """
    done = subprocess.run(["node", "--input-type=module", "--eval", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, True]


def test_the_webassembly_is_what_its_source_says():
    assembler = shutil.which("wat2wasm")
    if assembler is None:
        pytest.skip("wat2wasm, of wabt, is not installed")
    source = str(STATIC / "products.wat")
    expected = subprocess.run([assembler, source, "--output=-"], capture_output=True, check=True).stdout
    held = "".join(re.findall(r'^ +"([A-Za-z0-9+/=]+)"', (STATIC / "products.js").read_text(), flags=re.MULTILINE))
    assert base64.b64decode(held) == expected


def test_the_bands_of_an_image_make_no_difference_and_can_be_ended():
    found = node(
        """
        const me = new js.OwnerClient();
        await me.loadKey("mine", ascii(text));
        const rgba = Uint8Array.from({length: 4 * 128 * 104}, (_, i) => (7 * i) % 251); // 208 blocks: two bands
        const shares = [];
        const encrypt = (onBand) => me.encryptImage("mine", rgba, 128, 104, 8, [128, 104], {}, onBand);
        const whole = await encrypt(async (share) => shares.push(share));
        const error = await encrypt(async () => { throw new Error("ended"); }).catch((error) => error.message);
        return {file: b64(whole.file), rgba: b64(rgba), shares, error};
        """,
        text=(key := SecretKey.generate()).to_text(),
    )
    levels = array(found["rgba"], np.uint8).reshape(128, 104, 4)[..., :3]
    image = EncryptedImage.from_bytes(base64.b64decode(found["file"]))
    expected = SetrImageProcessor(patch_size=8).encrypt(Image.fromarray(levels), key)
    step = float(np.abs(expected.pixels).max()) / 32767
    np.testing.assert_allclose(image.pixels, expected.pixels, rtol=0, atol=0.6 * step)
    assert found["shares"] == [0, 128 / 208]
    assert found["error"] == "ended"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_facts_of_a_file_are_read_and_those_of_other_files_are_none(family):
    key = SecretKey.generate(family)
    file = SetrImageProcessor().encrypt(Image.new("RGB", (32, 32)), key).to_bytes()
    others = [b"", key.to_text().encode(), b"\x89PNG\r\n\x1a\n", file[:60], b"\xff" * 400]
    found = node(
        "return files.map((file) => js.imageFacts(Uint8Array.from(Buffer.from(file, 'base64'))));",
        files=[base64.b64encode(each).decode() for each in (file, *others)],
    )
    assert found == [{"family": family, "fingerprint": key.fingerprint}, *([None] * len(others))]


@pytest.mark.parametrize("num_channels", [1, 4, 13])
def test_the_page_refuses_a_model_that_takes_no_rgb_images(num_channels):
    code = "try { js.onGrid({}, { num_channels: n }); } catch (error) { return error.message; }"
    message = node(code, n=num_channels)
    expected = "1 channel" if num_channels == 1 else f"{num_channels} channels"
    assert f"This page encrypts RGB images, and the model takes images of {expected}. " in message
