"""`privseg segment --task`: instance and panoptic segmentation of ciphertexts, their tables, and what is refused."""

import json

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers

from helpers.workplace import IMAGE_SIZE
from hf_privseg.cli import segment as command
from hf_privseg.inference.tasks import TASKS
from tiny_vision import CASES, randomize

pytestmark = pytest.mark.filterwarnings("ignore:the blocks of:UserWarning")


def oneformer(folder):
    """A OneFormer's processor, whose classes lie in a file and whose task is told in words."""
    classes = {str(index): {"isthing": int(index > 1), "name": f"LABEL_{index}"} for index in range(4)}
    (folder / "classes.json").write_text(json.dumps(classes))
    words = ["<pad>", "<unk>", "the", "task", "is", *TASKS]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    image_processor = hf.OneFormerImageProcessor(
        size={"height": 64, "width": 64}, repo_path=str(folder), class_info_file="classes.json", num_text=1
    )
    fast = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    return hf.OneFormerProcessor(image_processor, fast, max_seq_length=7, task_seq_length=7)


MODELS = {
    "mask2former_on_swin": lambda _: hf.Mask2FormerImageProcessor(size={"height": 64, "width": 62}, size_divisor=1),
    "maskformer_on_swin": lambda _: hf.MaskFormerImageProcessor(size={"height": 64, "width": 64}, size_divisor=32),
    "eomt": lambda _: hf.EomtImageProcessor(size={"shortest_edge": 32, "longest_edge": 32}, do_pad=True),
    "oneformer_on_swin": oneformer,
}
SEEDS = {"mask2former_on_swin": 6, "maskformer_on_swin": 7, "eomt": 5, "oneformer_on_swin": 6}  # find segments


@pytest.fixture
def vision(request, place):
    """The folder of a plain model, with its processor."""
    folder = place.folder / "vision"
    torch.manual_seed(0)  # of the few numbers that `randomize` leaves
    randomize(CASES[request.param]().model, SEEDS[request.param]).save_pretrained(folder)
    MODELS[request.param](folder).save_pretrained(folder)
    return folder


@pytest.fixture
def sent(vision, place):
    """Folder of the encrypted model, and the file of the encrypted image."""
    encrypted, sent = place.folder / "vision_encrypted", place.folder / "sent.safetensors"
    place.succeed("encrypt-model", vision, encrypted, "-k", place.key_file)
    place.succeed("encrypt", place.folder / "image.png", "--model", encrypted, "-o", sent, "-k", place.key_file)
    return encrypted, sent


def table(place, name):
    return json.loads((place.folder / f"{name}.segments.json").read_text())["segments"]


@pytest.mark.parametrize("vision", MODELS, indirect=True)
def test_a_ciphertext_gives_the_segments_of_the_plain_image(vision, sent, place):
    for task in TASKS:
        settings = ("--task", task) if task == "semantic" else ("--task", task, "--threshold", "0.05")
        settings = (*settings, "--force", "-o")
        place.succeed("segment", place.folder / "image.png", "--model", vision, *settings, place.folder / "a.png")
        report = place.run_json("segment", sent[1], "--model", sent[0], *settings, place.folder / "b.png")
        expected, found = place.label_map("a.png"), place.label_map("b.png")
        assert expected.shape == IMAGE_SIZE
        assert (found == expected).mean() > 0.98
        assert report["task"] == task
        if task == "semantic":
            assert not (place.folder / "b.segments.json").exists()
            continue
        rows = table(place, "b")
        assert report["images"][0]["segments"] == rows
        assert len(rows) == len(table(place, "a")) == found.max()
        assert rows
        for number, (row, plain) in enumerate(zip(rows, table(place, "a"), strict=True), 1):
            assert row["id"] == number
            assert row["pixels"] == (found == number).sum() > 0
            assert row["label"] == f"LABEL_{row['label_id']}" == plain["label"]
            assert row["score"] == pytest.approx(plain["score"], abs=1e-2)


@pytest.mark.parametrize("vision", ["oneformer_on_swin"], indirect=True)
def test_the_task_of_a_oneformer_is_what_the_server_asks_for(vision, sent, place):
    maps = []
    for task in ("semantic", "instance"):
        place.succeed("segment", sent[1], "--model", sent[0], "-o", place.folder / task, "--task", task)
        processor = hf.AutoProcessor.from_pretrained(vision)
        inputs = processor(images=[hf.image_utils.load_image(str(place.folder / "image.png"))], task_inputs=[task],
                           return_tensors="pt")  # fmt: skip
        outputs = hf.OneFormerForUniversalSegmentation.from_pretrained(vision).eval()(**inputs)
        maps.append(outputs.masks_queries_logits)
        if task == "semantic":
            expected = processor.post_process_semantic_segmentation(outputs, target_sizes=[IMAGE_SIZE])[0]
            assert (place.label_map("semantic/sent.segmentation.png") == expected.numpy()).mean() > 0.98
    assert (maps[0] - maps[1]).abs().max() > 0.01


@pytest.mark.parametrize("vision", ["oneformer_on_swin"], indirect=True)
def test_overlays_and_jobs_that_go_on(vision, sent, place):
    image, settings = place.folder / "image.png", ("--task", "instance", "--threshold", "0.05")
    arguments = ("segment", image, "--model", vision, "-o", place.folder / "out", *settings)
    assert "1 image, " in place.succeed(*arguments, "--overlay")
    out = place.folder / "out"
    assert {path.name for path in out.iterdir()} == {
        f"image.{n}" for n in ("segmentation.png", "overlay.png", "segments.json")
    }
    assert place.label_map("out/image.overlay.png").shape[0] > IMAGE_SIZE[0]  # with a legend
    rows = table(place, "out/image")
    skipped = place.run_json(*arguments, "--skip-existing")
    assert skipped["images"][0]["skipped"]
    assert skipped["images"][0]["segments"] == rows

    (out / "image.segments.json").write_text("{")
    assert not place.run_json(*arguments, "--skip-existing")["images"][0]["skipped"]
    assert table(place, "out/image") == rows
    (out / "image.segments.json").write_text(json.dumps({"segments": [row | {"pixels": 1} for row in rows]}))
    assert "to list the segments of" in place.fail(*arguments, "--skip-existing")

    panoptic = ("segment", image, "--model", vision, "-o", out, "--task", "panoptic", "--force", "--fuse")
    place.succeed(*panoptic, "LABEL_0", "--fuse", "LABEL_1")
    assert "expected names of classes of the model" in place.fail(*panoptic, "nothing")
    semantic = ("segment", image, "--model", vision, "-o", out, "--skip-existing")
    assert "to be a segmentation map of this model" in place.fail(*semantic)


@pytest.mark.parametrize("vision", ["mask2former_on_swin"], indirect=True)
def test_settings_that_do_not_belong_together_are_refused(vision, place):
    image, out = place.folder / "image.png", ("-o", place.folder / "out.png")
    setr = ("segment", image, "--model", place.folder / "model", *out)
    message = place.fail(*setr, "--task", "panoptic")
    assert "SetrImageProcessor has no method post_process_panoptic_segmentation; it does semantic" in message
    arguments = ("segment", image, "--model", vision, *out)
    assert "a threshold leaves out segments" in place.fail(*arguments, "--threshold", "0.5")
    assert "segments are fused for panoptic" in place.fail(*arguments, "--task", "instance", "--fuse", "LABEL_1")
    assert "expected one of semantic" in place.fail(*arguments, "--task", "panoptc", code=2)
    served = ("segment", image, "--server", "http://127.0.0.1:9", *out, "--task", "instance")
    assert "a service does semantic segmentation" in place.fail(*served, code=2)
    assert not (place.folder / "out.png").exists()


def test_the_command_offers_the_tasks_that_there_are():
    assert command._TASKS == TASKS
