"""The example pictures of the service's page: a sample image, and its ciphertext under a key that is thrown away.

python benchmarks/page_pictures.py
"""

from pathlib import Path

import hf_privseg.service
from hf_privseg import SecretKey, SetrImageProcessor
from hf_privseg.catalog.sample_images import sample_image

SIZE = (320, 208)  # in pixels: whole blocks, and what the page shows


def main() -> None:
    """Write both pictures beside the page's other files."""
    folder = Path(hf_privseg.service.__file__).parent / "static"
    image = sample_image("china").resize(SIZE)
    ciphertext = SetrImageProcessor().encrypt(image, SecretKey.generate("orthogonal"))
    for name, picture in (("image", image), ("ciphertext", ciphertext.to_picture())):
        picture.save(folder / f"example_{name}.webp", quality=60)


if __name__ == "__main__":
    main()
