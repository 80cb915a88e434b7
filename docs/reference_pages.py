"""A hook of mkdocs: one page of reference for each room of the package, made from docstrings while the site builds."""

import ast
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = Path(__file__).resolve().parents[1] / "hf_privseg"


def rooms() -> dict[str, list[str]]:
    """{room: its modules as dotted names}, without modules and rooms that have nothing public."""
    found = {}
    for folder in sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE):
        room = ".".join(folder.relative_to(PACKAGE).parts)
        names = [".".join(("hf_privseg", room, path.stem)) for path in sorted(folder.glob("*.py")) if is_public(path)]
        package = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in package.body):
            names.insert(0, f"hf_privseg.{room}")
        if names:
            found[room] = names
    return found


def is_public(path: Path) -> bool:
    """Whether a file defines a function or a class without a leading underscore."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    named = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return path.stem[0] != "_" and any(isinstance(node, named) and node.name[0] != "_" for node in body)


def summary(room: str) -> str:
    """The docstring of a room."""
    source = (PACKAGE / room.replace(".", "/") / "__init__.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


def on_config(config: MkDocsConfig, **_: Any) -> MkDocsConfig:
    """Puts the pages into the navigation, in the place of `reference/`."""
    pages = ["reference/index.md", "reference/encryptable-models.md", *(f"reference/{room}.md" for room in rooms())]
    nav = config.nav or []
    config.nav = [{"Reference": pages} if entry == {"Reference": "reference/"} else entry for entry in nav]
    return config


def on_files(files: Files, config: MkDocsConfig, **_: Any) -> Files:
    """Adds the pages to those that lie in the folder."""
    index = ["# Reference", "", "The public names of `hf_privseg`:", "", "| name | defined in |", "|---|---|"]
    for module, name in public_names():
        index.append(f"| [`{name}`]({'.'.join(module.split('.')[1:-1])}.md#{module}.{name}) | `{module}` |")
    index += ["", "Every room of the package:", "", "| room | what it is |", "|---|---|"]
    for room, modules in rooms().items():
        first = summary(room).split("\n\n")[0].replace("\n", " ")
        index.append(f"| [`{room}`]({room}.md) | {first} |")
        text = f"# {room}\n\n{summary(room)}\n\n" + "\n".join(f"::: {module}\n" for module in modules)
        files.append(File.generated(config, f"reference/{room}.md", content=text))
    files.append(File.generated(config, "reference/index.md", content="\n".join(index) + "\n"))
    return files


def public_names() -> list[tuple[str, str]]:
    """[(module that defines it, name)] of what `import hf_privseg` offers."""
    body = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body
    lines = [node for node in body if isinstance(node, ast.ImportFrom) and node.level == 1]
    return sorted((f"hf_privseg.{node.module}", alias.name) for node in lines for alias in node.names)
