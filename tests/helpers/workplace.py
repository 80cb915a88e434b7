"""A folder in which tests run the command line, and what they need there: a plain tiny model, an image and a key."""

import json

import numpy as np
import pytest
from PIL import Image

from helpers.leaks import assert_no_secret
from hf_privseg import SetrImageProcessor
from hf_privseg.cli.app import main

IMAGE_SIZE = (22, 31)  # height, width; not on the patch grid of the tiny model (4)


class Workplace:
    """A folder with a plain tiny model, an image and a key, and the command line run in it."""

    def __init__(self, folder, capsys, key):
        self.folder, self.capsys, self.key = folder, capsys, key
        self.key_file = folder / "secret.key"
        key.to_file(self.key_file)

    def run(self, *arguments):
        """Run `privseg` -> exit code, stdout, stderr with line breaks undone; neither may hold the key."""
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        out, err = self.capsys.readouterr()
        assert_no_secret(out + err, self.key)
        return ended.value.code or 0, " ".join(out.split()), " ".join(err.split())

    def run_json(self, *arguments):
        """Run it with --json -> what stdout holds, read as JSON; fails if anything else is there."""
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments), "--json"])
        out, err = self.capsys.readouterr()
        assert not ended.value.code, err
        assert_no_secret(out + err, self.key)
        return json.loads(out)

    def succeed(self, *arguments):
        code, out, err = self.run(*arguments)
        assert code == 0, err
        return out

    def fail(self, *arguments, code=1):
        """Run it to an error -> the message, which is one line and no traceback."""
        found, _, err = self.run(*arguments)
        assert found == code, err
        assert "Traceback" not in err
        return err

    def encrypted_model(self):
        output = self.folder / "encrypted_model"
        self.succeed("encrypt-model", self.folder / "model", output, "-k", self.key_file)
        return output

    def encrypted_image(self, name="image.encrypted"):
        encrypted = processor().encrypt(Image.open(self.folder / "image.png"), self.key)
        path = self.folder / f"{name}{encrypted.suffix}"
        encrypted.to_file(path)
        return path

    def label_map(self, path):
        with Image.open(self.folder / path) as picture:
            return np.array(picture)


def processor():
    return SetrImageProcessor(patch_size=4)
