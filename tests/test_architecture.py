"""The import rules of the package, read from the source files, and shown to find what they should.

Rooms are the folders of the package. A room imports from rooms of lower layers alone. The lowest, `setr`, is what
travels with a checkpoint as remote code: its files lie side by side and import each other by lines
`from .name import x` alone, the only form whose target transformers copies, and nothing else of ours.
"""

import ast
import importlib.util
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_relative_imports

from helpers.paths import ROOT

PACKAGE = ROOT / "hf_privseg"
SHIPPED = sorted(path.stem for path in (PACKAGE / "setr").glob("*.py") if path.stem != "__init__")

# From the bottom up.
LAYERS = (
    {"setr"},
    {"any_vit"},
    {"catalog", "checkpoints", "reporting"},
    {"attacks", "baselines", "convert", "storage"},
    {"inference"},
    {"audit", "export", "training"},
    {"batch", "client", "experiments", "service"},
    {"cli"},
)
SHIPPED_PACKAGES = {"torch", "torchvision", "numpy", "PIL", "safetensors", "huggingface_hub", "transformers"}
# Files outside the command line that end the process: `run_script`.
END_THE_PROCESS = {"training/arguments.py"}
GLOBAL_EFFECTS = {
    "SystemExit", "basicConfig", "disable_progress_bar", "disable_progress_bars", "enable_progress_bar",
    "enable_progress_bars", "exit", "set_verbosity", "set_verbosity_debug", "set_verbosity_error",
    "set_verbosity_info", "set_verbosity_warning",
}  # fmt: skip
ATTACKS_KNOW = {"setr.ciphers", "setr.errors", "setr.keys", "catalog.sample_images"}
PUBLIC_ROOMS = {
    "attacks", "audit", "baselines", "batch", "catalog", "checkpoints", "client", "convert", "experiments", "export",
    "inference", "reporting", "service", "storage", "training",
}  # fmt: skip
PUBLIC_NAMES = {
    name
    for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    for name in ast.literal_eval(node.value)
}
PUBLIC_MODULES = {"setr.ciphers", "setr.errors", "setr.keys"}
HEAVY = (
    "datasets", "evaluate", "fastapi", "fsspec", "gradio", "matplotlib", "prometheus_client", "pyarrow", "ray", "rich",
    "sklearn", "tensorboard", "torch", "torchvision", "transformers", "typer", "uvicorn",
)  # fmt: skip


def imports(tree):
    """[(node, how many dots, module as a list of names, imported names)] of every import at any depth."""
    found: list[tuple[ast.Import | ast.ImportFrom, int, list[str], list[str]]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, 0, alias.name.split("."), []) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            found.append((node, node.level, module, [alias.name for alias in node.names]))
    return found


def is_ours(level, module):
    return level > 0 or module[0] == "hf_privseg"


def shipped_violations(source):
    """What a file that travels with a checkpoint must not do; what it can do without, it may try to import."""
    tree = ast.parse(source)
    tried = [node for block in tree.body if isinstance(block, ast.Try) and block.handlers for node in block.body]
    found = []
    for node, level, module, names in imports(tree):
        text = ast.unparse(node)
        if not is_ours(level, module):
            if node not in tried and module[0] not in SHIPPED_PACKAGES | sys.stdlib_module_names:
                found.append(f"a package that remote code cannot rely on: {text}")
        elif level != 1 or len(module) != 1 or "*" in names or node not in tree.body:
            found.append(f"not a line `from .name import x` at the top: {text}")
    return found


def shipped_imports(sources):
    """{file of setr: text} -> {file: the files of setr that it imports}"""
    return {
        name: {module[0] for _, level, module, _ in imports(ast.parse(source)) if level == 1 and module}
        for name, source in sources.items()
    }


def our_modules(parts, source):
    """Where a file lies (its folders below the package) and its text -> [(import, dotted module of ours)]."""
    found = []
    for node, level, module, names in imports(ast.parse(source)):
        if level:
            base = list(parts[: len(parts) - level + 1])
        elif module[0] == "hf_privseg":
            base, module = [], module[1:]
        else:
            continue
        path = [*base, *module]
        targets = [path] if len(path) > 1 or (PACKAGE / "/".join(path)).with_suffix(".py").is_file() else None
        targets = targets or [[*path, name] for name in names] or [path]
        found += [(ast.unparse(node), ".".join(target)) for target in targets]
    return found


def layer_of(room):
    return next((index for index, rooms in enumerate(LAYERS) if room in rooms), None)


def room_violations(parts, source):
    """Imports from a room of the same or a higher layer."""
    return [
        f"against the direction: {text}"
        for text, module in our_modules(parts, source)
        if module
        and module.split(".")[0] != parts[0]
        and not (layer_of(module.split(".")[0]) or 0) < layer_of(parts[0])
    ]


def attack_violations(parts, source):
    """What an attack must not do: know more of us than a cipher, its key, and what images others ship."""
    return [
        f"an attack knows {sorted(ATTACKS_KNOW)}: {text}"
        for text, module in our_modules(parts, source)
        if module.split(".")[0] != "attacks" and module not in ATTACKS_KNOW
    ]


def user_violations(source):
    """What an example or the Space must not do: use modules or names that are no part of the documented interface."""
    found = []
    for node, level, module, names in imports(ast.parse(source)):
        if level == 0 and module[0] == "hf_privseg":
            modules = module[1:] or [name for name in names if name == name.lower() and name not in PUBLIC_NAMES]
            if modules and modules[0] not in PUBLIC_ROOMS and ".".join(modules[:2]) not in PUBLIC_MODULES:
                found.append(f"not a public module: {ast.unparse(node)}")
            elif any(name.startswith("_") for name in [*modules, *names]):
                found.append(f"a private name: {ast.unparse(node)}")
    return found


def global_effects(source):
    """The names in a file that end the process, or change what transformers and logging print everywhere."""
    nodes = list(ast.walk(ast.parse(source)))
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    names += [node.attr for node in nodes if isinstance(node, ast.Attribute)]
    names += [alias.name for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names]
    return sorted(GLOBAL_EFFECTS & set(names))


def star_imports(source):
    return [ast.unparse(node) for node, _, _, names in imports(ast.parse(source)) if "*" in names]


def sources(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def identify(value):
    return str(value.relative_to(ROOT)) if isinstance(value, Path) else str(value)


# ------------------------------------------------------------------------------------------------------- the files


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_file_imports_shipped_files_alone(name):
    assert shipped_violations((PACKAGE / "setr" / f"{name}.py").read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", SHIPPED)
def test_transformers_finds_the_same_relative_imports_as_python(name):
    # It searches the text, so that a line of a docstring that looks like an import would break remote code.
    path = PACKAGE / "setr" / f"{name}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert set(get_relative_imports(path)) == {module[0] for _, level, module, _ in imports(tree) if level}


def test_shipped_files_import_in_one_direction_and_processor_and_model_do_not_reach_each_other():
    graph = shipped_imports({name: (PACKAGE / "setr" / f"{name}.py").read_text(encoding="utf-8") for name in SHIPPED})
    list(TopologicalSorter(graph).static_order())  # raises CycleError

    def reached(name):
        return {name}.union(*(reached(other) for other in graph[name]))

    assert "modeling_setr" not in reached("image_processing_setr")
    assert "image_processing_setr" not in reached("modeling_setr")


@pytest.mark.parametrize("path", sources("hf_privseg"), ids=identify)
def test_a_room_imports_from_lower_layers_alone(path):
    parts = path.relative_to(PACKAGE).parts[:-1]
    if parts:
        assert room_violations(parts, path.read_text(encoding="utf-8")) == []


def test_every_room_has_a_layer():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set().union(*LAYERS)


@pytest.mark.parametrize("path", sources("hf_privseg/attacks"), ids=identify)
def test_an_attack_knows_ciphers_keys_errors_and_sample_images_alone(path):
    assert attack_violations(path.relative_to(PACKAGE).parts[:-1], path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", sources("deploy", "examples", "space"), ids=identify)
def test_examples_and_space_use_the_public_interface(path):
    assert user_violations(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", sources("tests", "examples", "benchmarks", "space"), ids=identify)
def test_every_module_of_ours_that_is_imported_exists(path):
    # Some of these files are run by hand alone.
    found = [
        ".".join(module)
        for _, level, module, _ in imports(ast.parse(path.read_text(encoding="utf-8")))
        if level == 0 and module[0] == "hf_privseg"
    ]
    assert [name for name in found if importlib.util.find_spec(name) is None] == []


def test_library_code_neither_ends_the_process_nor_silences_others():
    found = {
        path.relative_to(PACKAGE).as_posix(): global_effects(path.read_text(encoding="utf-8"))
        for path in sources("hf_privseg")
        if path.relative_to(PACKAGE).parts[0] != "cli"
    }
    assert {path for path, names in found.items() if names} == END_THE_PROCESS


def test_there_are_no_star_imports():
    folders = ("hf_privseg", "examples", "space", "benchmarks", "tests")
    found = {identify(path): star_imports(path.read_text(encoding="utf-8")) for path in sources(*folders)}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_the_package_file_names_what_is_public_once_for_types_and_once_for_use():
    import hf_privseg

    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (typed,) = [node for node in tree.body if isinstance(node, ast.If)]
    assert ast.unparse(typed.test) == "TYPE_CHECKING"
    modules = {name: ".".join(module) for _, _, module, names in imports(typed) for name in names}
    assert modules == hf_privseg._MODULES
    assert sorted([*modules, "__version__"]) == hf_privseg.__dir__() == sorted(hf_privseg.__all__)
    assert all(getattr(hf_privseg, name).__name__ == name for name in modules)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = hf_privseg.nonsense


def test_importing_the_package_stays_light():
    code = f"import hf_privseg, sys; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]", result.stderr


# ------------------------------------------------------------------------------- the rules find what they should find


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("from . import errors", "not a line"),
        ("from ..setr.errors import InvalidKeyError", "not a line"),
        ("from .training.data import collate", "not a line"),
        ("from hf_privseg.setr.errors import InvalidKeyError", "not a line"),
        ("import hf_privseg", "not a line"),
        ("from .errors import *", "not a line"),
        ("def f():\n    from .errors import InvalidKeyError", "not a line"),
        ("if TYPE_CHECKING:\n    from .errors import InvalidKeyError", "not a line"),
        ("import scipy.linalg", "a package that"),
        ("def f():\n    import datasets", "a package that"),
        ("try:\n    import datasets\nfinally:\n    pass", "a package that"),
    ],
)
def test_a_bad_shipped_file_is_found(source, message):
    (violation,) = shipped_violations(source)
    assert violation.startswith(message)
    assert shipped_violations("import math\nimport torch.nn\nfrom .keys import SecretKey, as_key\n") == []
    assert shipped_violations("try:\n    import datasets\nexcept ImportError:\n    datasets = None\n") == []


def test_a_circle_of_shipped_files_is_found():
    graph = shipped_imports({"keys": "from .errors import E", "errors": "from .keys import SecretKey"})
    with pytest.raises(ValueError, match="cycle"):
        list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize(
    ("parts", "source"),
    [
        (("storage",), "from ..cli.app import main"),
        (("storage",), "from ..inference import windows"),
        (("attacks", "tools"), "from ...audit.scene import Scene"),
        (("training",), "def f():\n    from hf_privseg.experiments.tables import write"),
    ],
)
def test_a_room_that_imports_upwards_is_found(parts, source):
    assert len(room_violations(parts, source)) == 1
    assert room_violations(parts, "import torch\nfrom hf_privseg.setr.keys import SecretKey\nfrom . import x") == []


@pytest.mark.parametrize(
    "source",
    [
        "from ..setr.modeling_setr import SetrModel",
        "from .. import SetrModel",
        "from hf_privseg import SetrModel",
        "import hf_privseg",
        "from hf_privseg.setr.image_processing_setr import SetrImageProcessor",
        "def f():\n    from ..training.metrics import MeanIoU",
    ],
)
def test_a_bad_attack_is_found(source):
    assert len(attack_violations(("attacks",), source)) == 1
    good = ["import numpy", "from .tools.statistics import covariance", "from ..setr.ciphers import cipher_for"]
    good.append("from hf_privseg.setr.keys import SecretKey")
    assert attack_violations(("attacks",), "\n".join(good)) == []


@pytest.mark.parametrize(
    "source",
    [
        "from hf_privseg.setr.modeling_setr import SetrModel",
        "from hf_privseg import setr",
        "import hf_privseg.setr.encrypted_image",
        "from hf_privseg.training.data import _resize",
        "def main():\n    from hf_privseg.setr.derivation import stream",
    ],
)
def test_a_bad_example_is_found(source):
    assert len(user_violations(source)) == 1
    good = ["import torch", "import hf_privseg", "from hf_privseg import SecretKey"]
    assert user_violations("\n".join([*good, "from hf_privseg.training.data import collate"])) == []


@pytest.mark.parametrize(
    "source",
    ["raise SystemExit(1)", "import sys\nsys.exit()", "from transformers.utils.logging import set_verbosity_error"],
)
def test_a_global_effect_is_found(source):
    assert len(global_effects(source)) == 1
    assert global_effects("import logging\nlogging.getLogger(__name__).warning('x')") == []


def test_a_star_import_is_found():
    assert star_imports("from math import *") == ["from math import *"]
    assert star_imports("from math import pi") == []
