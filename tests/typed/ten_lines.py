"""A user's script, never run: mypy accepts it under strict rules, and finds the mistake in its last line."""

from PIL import Image

from hf_privseg import SecretKey, SetrForSemanticSegmentation, SetrImageProcessor
from hf_privseg.checkpoints import default_checkpoint

image = Image.open("image.jpg")
key = SecretKey.generate()
model = SetrForSemanticSegmentation.from_pretrained(default_checkpoint()).encrypt_model(key)
processor = SetrImageProcessor.from_pretrained(default_checkpoint())
inputs = processor(images=image, secret_key=key, return_tensors="pt")
maps = processor.post_process_semantic_segmentation(model(**inputs), target_sizes=[image.size[::-1]])

mistake = processor(images=image, secret_key=7, return_tensors="pt")  # type: ignore[arg-type]
