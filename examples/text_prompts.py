"""Text and an encrypted image for one model: segments what is asked for, or answers a question about the image.

    python examples/text_prompts.py --model CIDAS/clipseg-rd64-refined --image street.jpg --texts road sky
    python examples/text_prompts.py --model llava-hf/llava-1.5-7b-hf --image street.jpg --texts "How many cars?"

The owner encrypts the model with a fresh key, and the client encrypts the image. Texts and answers stay plain: whoever
runs the model reads what is asked about an image that they cannot see. With CLIPSeg every text becomes a mask; its
share of the image is printed, and the mask is written to --output_dir. With a vision-language model the text is a
question, and the answer is printed.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPSegForImageSegmentation,
    GenerationMixin,
)

from hf_privseg import EncryptingProcessor, SecretKey, encrypt_model
from hf_privseg.training.arguments import parse_arguments, run_script

ANSWER_TOKENS = 40


@dataclass(kw_only=True)
class Arguments:
    """The options of the script."""

    model: str = field(metadata={"help": "Plain CLIPSeg or vision-language model: a folder or Hub id."})
    image: str = field(metadata={"help": "The image."})
    texts: list[str] = field(metadata={"help": "What to segment, or one question."})
    output_dir: str = field(default="outputs/text_prompts", metadata={"help": "Where masks go."})


def segment(model: torch.nn.Module, processor: EncryptingProcessor, args: Arguments, key: SecretKey) -> None:
    """Write a mask for each text, at the image's own size."""
    image = Image.open(args.image).convert("RGB")
    inputs = processor(
        images=[image] * len(args.texts), text=args.texts, padding=True, return_tensors="pt", secret_key=key
    )
    with torch.inference_mode():
        logits = model(**inputs).logits
    logits = logits.reshape(len(args.texts), 1, *logits.shape[-2:])
    found = torch.nn.functional.interpolate(logits, size=image.size[::-1], mode="bilinear")[:, 0] > 0
    folder = Path(args.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    for text, mask in zip(args.texts, found, strict=True):
        path = folder / f"{text.replace(' ', '_')}.png"
        Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(path)
        print(f"{text}: {mask.float().mean():.1%} of the image, {path}")


def answer(model: GenerationMixin, processor: EncryptingProcessor, args: Arguments, key: SecretKey) -> None:
    """Print the answer to one question about the image."""
    content = [
        {"type": "image", "image": Image.open(args.image).convert("RGB")},
        {"type": "text", "text": args.texts[0]},
    ]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        secret_key=key,
    )
    with torch.inference_mode():
        generated = model.generate(**inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False)
    found = generated[:, inputs["input_ids"].shape[1] :]
    print(processor.batch_decode(found, skip_special_tokens=True)[0])


def main() -> None:
    """Encrypt the model with a fresh key, then the image, and run the one on the other."""
    args = parse_arguments(Arguments, description=__doc__)
    is_clipseg = AutoConfig.from_pretrained(args.model).model_type == "clipseg"
    loader = CLIPSegForImageSegmentation if is_clipseg else AutoModelForImageTextToText
    model, key = loader.from_pretrained(args.model).eval(), SecretKey.generate()
    encrypt_model(model, key)
    processor = EncryptingProcessor(AutoProcessor.from_pretrained(args.model), model)
    (segment if is_clipseg else answer)(model, processor, args, key)


if __name__ == "__main__":
    run_script(main)
