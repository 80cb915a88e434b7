"""The import rules of the package, read from the source files, and shown to find what they should.

The Hub island is the set of files that travels with a checkpoint as remote code. They lie side by side, import each
other by lines `from .name import x` alone (the only form whose target transformers copies), in one direction, and
nothing else of ours. The processor and the model meet through public facts in their configurations, not by imports.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_relative_imports

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "hf_privseg"

# Island file -> the island files that it may import.
ISLAND = {
    "errors": set(),
    "derivation": set(),
    "private_files": set(),
    "keys": {"derivation", "errors", "private_files"},
    "client_embedding": {"derivation", "errors", "keys", "private_files"},
    "block_cipher": {"client_embedding", "errors"},
    "ciphers": {"block_cipher", "client_embedding", "errors", "keys"},
    "stored_pixels": {"block_cipher", "errors"},
    "encrypted_image": {"ciphers", "errors", "keys", "stored_pixels"},
    "image_inputs": {"errors"},
    "patch_grid": {"errors"},
    "public_facts": {"errors"},
    "rekey_update": {"ciphers", "keys", "private_files", "public_facts"},
    "configuration_setr": {"public_facts"},
    "model_card": set(),
    "image_processing_setr": {
        "block_cipher",
        "ciphers",
        "client_embedding",
        "encrypted_image",
        "errors",
        "image_inputs",
        "patch_grid",
    },
    "encryptable_embedding": {"ciphers", "client_embedding", "errors", "public_facts", "rekey_update"},
    "modeling_setr": {"configuration_setr", "encryptable_embedding", "model_card"},
}
ISLAND_PACKAGES = {"torch", "torchvision", "numpy", "PIL", "safetensors", "huggingface_hub", "transformers"}
ATTACK_MODULES = {"ciphers", "errors", "keys", "sample_photos"}
PUBLIC_MODULES = {
    "attacks", "baselines", "checkpoints", "ciphers", "client", "convert", "hub", "inference", "keys", "presets",
    "sample_photos", "service", "training", "visualization",
}  # fmt: skip
HEAVY = ("datasets", "evaluate", "gradio", "matplotlib", "sklearn", "typer", "rich", "tensorboard")


def imports(tree):
    """[(node, how many dots, module as a list of names, imported names)] of every import at any depth."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, 0, alias.name.split("."), []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            found.append((node, node.level, module, [alias.name for alias in node.names]))
    return found


def is_ours(level, module):
    return level > 0 or module[0] == "hf_privseg"


def island_violations(name, source):
    """What a file of the island must not do."""
    tree = ast.parse(source)
    found = []
    for node, level, module, names in imports(tree):
        text = ast.unparse(node)
        if not is_ours(level, module):
            if module[0] not in ISLAND_PACKAGES | sys.stdlib_module_names:
                found.append(f"a package that remote code cannot rely on: {text}")
        elif level != 1 or len(module) != 1 or "*" in names or node not in tree.body:
            found.append(f"not a line `from .name import x` at the top: {text}")
        elif module[0] not in ISLAND[name]:
            found.append(f"against the direction: {text}")
    return found


def attack_violations(source):
    """What an attack must not do: know more of us than a cipher, its key, and what photos others ship."""
    return [
        f"an attack knows {sorted(ATTACK_MODULES)}: {ast.unparse(node)}"
        for node, level, module, _ in imports(ast.parse(source))
        if (level == 2 and module[:1] and module[0] not in ATTACK_MODULES)
        or (level == 2 and not module)
        or level > 2
        or (level == 0 and module[0] == "hf_privseg" and not set(module[1:2]) & (ATTACK_MODULES | {"attacks"}))
    ]


def user_violations(source):
    """What an example or the Space must not do: use modules or names that are no part of the documented interface."""
    found = []
    for node, level, module, names in imports(ast.parse(source)):
        if level == 0 and module[0] == "hf_privseg":
            modules = module[1:] or [name for name in names if name == name.lower()]
            if modules and modules[0] not in PUBLIC_MODULES:
                found.append(f"not a public module: {ast.unparse(node)}")
            elif any(name.startswith("_") for name in [*modules, *names]):
                found.append(f"a private name: {ast.unparse(node)}")
    return found


def star_imports(source):
    return [ast.unparse(node) for node, _, _, names in imports(ast.parse(source)) if "*" in names]


def sources(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def identify(value):
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


# ------------------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("name", ISLAND)
def test_an_island_file_keeps_to_the_island(name):
    assert island_violations(name, (PACKAGE / f"{name}.py").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", ISLAND)
def test_transformers_finds_the_same_relative_imports_as_python(name):
    # It searches the text, so that a line of a docstring that looks like an import would break remote code.
    path = PACKAGE / f"{name}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert set(get_relative_imports(path)) == {module[0] for _, level, module, _ in imports(tree) if level}


def test_the_processor_and_the_model_do_not_reach_each_other():
    def reached(name):
        return {name}.union(*(reached(other) for other in ISLAND[name]))

    assert "modeling_setr" not in reached("image_processing_setr")
    assert "image_processing_setr" not in reached("modeling_setr")


@pytest.mark.parametrize("path", [p for p in sources("hf_privseg/attacks") if p.name != "audit.py"], ids=identify)
def test_an_attack_knows_ciphers_keys_errors_and_sample_photos_alone(path):
    assert attack_violations(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", sources("examples", "space"), ids=identify)
def test_examples_and_space_use_the_public_interface(path):
    assert user_violations(path.read_text(encoding="utf-8")) == []


def test_there_are_no_star_imports():
    folders = ("hf_privseg", "examples", "space", "benchmarks", "tests")
    found = {identify(path): star_imports(path.read_text(encoding="utf-8")) for path in sources(*folders)}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_the_package_file_names_what_is_public_registers_and_does_nothing_else():
    import hf_privseg

    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    docstring, *statements = tree.body
    assert isinstance(docstring.value, ast.Constant)
    for statement in statements:
        text = ast.unparse(statement)
        assert isinstance(statement, ast.ImportFrom) or ".register(" in text or text.startswith("__all__ ="), text
    ours = sorted(name for _, level, _, names in imports(tree) if level for name in names)
    assert ours == sorted(hf_privseg.__all__)


def test_importing_the_package_stays_light():
    code = f"import hf_privseg, sys; print([name for name in {HEAVY} if name in sys.modules])"
    environment_path = f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
    result = subprocess.run(
        [sys.executable, "-c", environment_path + code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


# ------------------------------------------------------------------------------- the rules find what they should find


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        ("keys", "from . import errors", "not a line"),
        ("keys", "from ..hf_privseg.errors import InvalidKeyError", "not a line"),
        ("keys", "from .training.data import collate", "not a line"),
        ("keys", "from hf_privseg.errors import InvalidKeyError", "not a line"),
        ("keys", "import hf_privseg", "not a line"),
        ("keys", "from .errors import *", "not a line"),
        ("keys", "def f():\n    from .errors import InvalidKeyError", "not a line"),
        ("keys", "if TYPE_CHECKING:\n    from .errors import InvalidKeyError", "not a line"),
        ("keys", "from .ciphers import cipher_for", "against the direction"),
        ("ciphers", "from .modeling_setr import SetrModel", "against the direction"),
        ("modeling_setr", "from .image_processing_setr import SetrImageProcessor", "against the direction"),
        ("image_processing_setr", "from .modeling_setr import SetrModel", "against the direction"),
        ("modeling_setr", "from .training import metrics", "against the direction"),
        ("modeling_setr", "import scipy.linalg", "a package that"),
        ("modeling_setr", "def f():\n    import datasets", "a package that"),
    ],
)
def test_a_bad_island_file_is_found(name, source, message):
    (violation,) = island_violations(name, source)
    assert violation.startswith(message)
    good = "import math\nimport torch.nn\nfrom pathlib import Path\n"
    good += "".join(f"from .{other} import name, another\n" for other in sorted(ISLAND[name]))
    assert island_violations(name, good) == []


@pytest.mark.parametrize(
    "source",
    [
        "from ..modeling_setr import SetrModel",
        "from .. import SetrModel",
        "from hf_privseg import SetrModel",
        "import hf_privseg",
        "from hf_privseg.image_processing_setr import SetrImageProcessor",
        "def f():\n    from ..training.metrics import MeanIoU",
    ],
)
def test_a_bad_attack_is_found(source):
    assert len(attack_violations(source)) == 1
    good = ["import numpy", "from .statistics import covariance", "from ..ciphers import cipher_for"]
    assert attack_violations("\n".join([*good, "from hf_privseg.keys import SecretKey"])) == []


@pytest.mark.parametrize(
    "source",
    [
        "from hf_privseg.modeling_setr import SetrModel",
        "from hf_privseg import workflow",
        "import hf_privseg.encrypted_image",
        "from hf_privseg.training.data import _resize",
        "def main():\n    from hf_privseg.derivation import stream",
    ],
)
def test_a_bad_example_is_found(source):
    assert len(user_violations(source)) == 1
    good = ["import torch", "import hf_privseg", "from hf_privseg import SecretKey"]
    assert user_violations("\n".join([*good, "from hf_privseg.training.data import collate"])) == []


def test_a_star_import_is_found():
    assert star_imports("from math import *") == ["from math import *"]
    assert star_imports("from math import pi") == []
