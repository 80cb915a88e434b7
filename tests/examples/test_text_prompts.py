"""The example with text prompts on a tiny CLIPSeg and a tiny LLaVA: the encrypted one answers as the plain one."""

import numpy as np
import pytest
import torch
import transformers as hf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from helpers.example_runs import run_here
from tiny_vision import CASES, randomize

pytestmark = pytest.mark.filterwarnings("ignore:the blocks of:UserWarning")
SIDE = 32
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image> {% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def tokenizer(size):
    """A word a number below `size`, and the special ones that the tiny models know."""
    special = {"<s>": 0, "<pad>": 1, "</s>": 2, "road": 3, "sky": 4, "<image>": 58}
    taken = {number: word for word, number in special.items()}
    vocabulary = {taken.get(number, f"word{number}"): number for number in range(size)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="word9"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="word9",
        additional_special_tokens=["<image>"],
    )  # fmt: skip


@pytest.fixture
def image(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def test_a_mask_for_every_text(image, tmp_path):
    model = randomize(CASES["clipseg"]().model)
    image_processor = hf.ViTImageProcessor(size={"height": SIDE, "width": SIDE})
    processor = hf.CLIPSegProcessor(image_processor, tokenizer(50))
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    options = ("--model", tmp_path / "model", "--image", image, "--texts", "road", "sky road")
    done = run_here("text_prompts.py", *options, "--output_dir", tmp_path / "masks")
    assert done.returncode == 0, done.stderr
    picture = Image.open(image)
    inputs = processor(images=[picture] * 2, text=["road", "sky road"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
    expected = torch.nn.functional.interpolate(logits[:, None], size=(40, 60), mode="bilinear")[:, 0] > 0
    for name, mask in zip(("road", "sky_road"), expected.numpy(), strict=True):
        found = np.array(Image.open(tmp_path / "masks" / f"{name}.png")) > 0
        assert found.shape == (40, 60)
        assert (found == mask).mean() > 0.99
    assert "road: " in done.stdout


def test_an_answer_to_a_question(image, tmp_path):
    model = randomize(CASES["llava"]().model)
    assert isinstance(model, hf.LlavaForConditionalGeneration)
    image_processor = hf.CLIPImageProcessor(
        size={"height": SIDE, "width": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    processor = hf.LlavaProcessor(
        image_processor, tokenizer(60), patch_size=8, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )  # fmt: skip
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    done = run_here("text_prompts.py", "--model", tmp_path / "model", "--image", image, "--texts", "sky word20 road")
    assert done.returncode == 0, done.stderr
    inputs = processor(images=Image.open(image), text="<image> sky word20 road", return_tensors="pt")
    with torch.no_grad():
        generated = model.generate(**inputs, max_new_tokens=40, do_sample=False)
    expected = processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
    assert expected
    assert done.stdout.strip() == expected.strip()
