"""A configuration file of mmsegmentation, with the files it is based on, read without being run.

Such files are Python. Of it they need assignments of constants, lists, tuples, dictionaries, `dict(...)`, names that
were assigned before, numbers that are computed, list comprehensions and f-strings, and `_base_`: the paths of other
files, relative to the file, whose settings the file changes. Everything else is an error that names its line.

The rules of `_base_` are those of mmengine's `Config`: dictionaries merge, other values replace, `_delete_=True` in a
dictionary replaces it whole, two bases have no top-level name in common, and `_base_.name` is a setting of a base.
"""

import ast
import operator
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..setr.errors import ConversionError

Settings = dict[str, Any]

_MAX_NUMBER = 2**63
_MAX_CHARACTERS, _MAX_FILES, _MAX_STEPS, _MAX_TEXT = 2**20, 64, 2**20, 2**16
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_BASES, _DELETE = "_base_", "_delete_"
_MERGED = "give the merged file instead, which mmsegmentation writes beside its logs (work_dirs/NAME/NAME.py)"


def read_config_file(path: Path) -> Settings:
    """A configuration file -> its settings, those of its bases among them; tuples become lists.

    Raises:
        FileNotFoundError: the file, or one that it is based on, does not exist.
        ConversionError: it holds something else than settings; the message names file and line.
    """
    return _Reader().read(path, ())


class _Reader:
    """Reads files, within bounds on their number and on the work."""

    def __init__(self) -> None:
        self._files, self._steps = 0, 0

    def read(self, path: Path, above: Sequence[Path]) -> Settings:
        """A file -> its settings; `above` are the files that are based on it."""
        place = path.resolve()
        self._files += 1
        if place in above or self._files > _MAX_FILES:
            raise ConversionError(f"expected configurations that are not based on themselves, got {path} again")
        try:
            tree = _parsed(path)
            base = self._bases(path, tree, (*above, place))
            own = _Evaluation(path, base, self.count).settings_of(tree)
            return self._merged(base, own, str(path))
        except RecursionError:
            raise ConversionError(f"{path}: expected settings, got ones that are nested too deeply") from None

    def count(self, steps: int = 1) -> None:
        """So many steps of work more."""
        self._steps += steps
        if self._steps > _MAX_STEPS:
            raise ConversionError("expected a configuration of ordinary size, got one that does not end")

    def _bases(self, path: Path, tree: ast.Module, above: Sequence[Path]) -> Settings:
        """The settings of all files that a file is based on."""
        found: Settings = {}
        for node in tree.body:
            if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [_BASES]:
                names = _Evaluation(path, {}, self.count).value(node.value)
                for name in names if isinstance(names, list) else [names]:
                    if not isinstance(name, str) or not name.endswith(".py") or "::" in name:
                        raise ConversionError(
                            f"{path}, line {node.lineno}: expected _base_ to be paths of .py files, relative to this "
                            f"file, got {name!r:.80}; {_MERGED}"
                        )
                    base = self._base(path, node.lineno, name, above)
                    twice = sorted(found.keys() & base.keys())
                    if twice:
                        raise ConversionError(
                            f"{path}, line {node.lineno}: expected bases with names of their own, got {twice[0]} in "
                            f"{name} and in one before it"
                        )
                    found |= base
        return found

    def _base(self, path: Path, line: int, name: str, above: Sequence[Path]) -> Settings:
        base = path.parent / name
        if not base.is_file():
            raise FileNotFoundError(
                f"{path}, line {line}: expected the file {base}, which this configuration is based on, but it does "
                f"not exist; put it there, or {_MERGED}"
            )
        return self.read(base, above)

    def _merged(self, base: Settings, own: Settings, name: str) -> Settings:
        """The settings of a base as a file changes them."""
        self.count()
        merged = dict(base)
        for key, value in own.items():
            if not isinstance(value, dict):
                merged[key] = value
                continue
            before = {} if value.get(_DELETE) else merged.get(key, {})
            if not isinstance(before, dict):
                raise ConversionError(
                    f"{name}: expected {key} to be no dictionary, as in its base, got one; {_DELETE}=True replaces it"
                )
            changes = {inner: each for inner, each in value.items() if inner != _DELETE}
            merged[key] = self._merged(before, changes, name)
        return merged


def _parsed(path: Path) -> ast.Module:
    """A file -> its syntax tree."""
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > _MAX_CHARACTERS:
            raise ValueError(f"{len(text)} characters, more than {_MAX_CHARACTERS}")
        return ast.parse(text)
    except SyntaxError as error:
        raise ConversionError(f"{path}, line {error.lineno}: expected Python, got {error.msg}") from None
    except (ValueError, MemoryError) as error:
        raise ConversionError(f"{path}: expected a configuration as Python text, got {error!s:.200}") from None


class _Evaluation:
    """The values of the expressions in one file.

    Args:
        path: of the file, for messages.
        base: what `_base_` names in it.
        count: is called with the size of every expression, and of every value that one names: names that double
            what they name would make a short file a value that no memory holds.
    """

    def __init__(self, path: Path, base: Settings, count: Callable[[int], None]) -> None:
        self._path, self._count, self._names = path, count, {_BASES: base}

    def settings_of(self, tree: ast.Module) -> Settings:
        """The assignments of a file -> {name: value}."""
        found: Settings = {}
        for node in tree.body:
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                continue  # a text that explains
            if not isinstance(node, ast.Assign) or not all(isinstance(target, ast.Name) for target in node.targets):
                raise self._refused(node, "an assignment to a name")
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            if names != [_BASES]:
                value = self.value(node.value)
                found |= dict.fromkeys(names, value)
                self._names |= dict.fromkeys(names, value)
        return found

    def value(self, node: ast.AST) -> Any:
        """An expression -> its value."""
        self._count(1)
        read = getattr(self, f"_{type(node).__name__}", None)
        if read is None:
            raise self._refused(node, "a plain value")
        try:
            return read(node)
        except (TypeError, LookupError, ArithmeticError, ValueError) as error:
            if isinstance(error, ConversionError):
                raise
            raise self._refused(node, "a plain value", str(error)) from None

    def _refused(self, node: ast.AST, expected: str, why: str = "") -> ConversionError:
        where = f"{self._path}, line {getattr(node, 'lineno', '?')}"
        because = f" ({why})" if why else ""
        return ConversionError(
            f"{where}: expected {expected}, which can be read without running the file, got "
            f"{ast.unparse(node)!r:.100}{because}; {_MERGED}"
        )

    def _Constant(self, node: ast.Constant) -> Any:
        return node.value

    def _Name(self, node: ast.Name) -> Any:
        if node.id not in self._names:
            raise self._refused(node, "a name that was assigned before")
        value = self._names[node.id]
        if node.id != _BASES:
            self._count(_size(value))
        return value

    def _List(self, node: ast.List | ast.Tuple) -> list[Any]:
        return [self.value(item) for item in node.elts]

    _Tuple = _List

    def _Dict(self, node: ast.Dict) -> Settings:
        found: Settings = {}
        for key, value in zip(node.keys, node.values, strict=True):
            found |= self.value(value) if key is None else {self.value(key): self.value(value)}
        return found

    def _Call(self, node: ast.Call) -> Any:
        if not isinstance(node.func, ast.Name) or node.func.id != "dict" or node.args:
            raise self._refused(node, "dict(name=value, ...)")
        found: Settings = {}
        for keyword in node.keywords:
            value = self.value(keyword.value)
            found |= value if keyword.arg is None else {keyword.arg: value}
        return found

    def _Attribute(self, node: ast.Attribute) -> Any:
        if ast.unparse(node).split(".")[0] != _BASES:
            raise self._refused(node, f"{_BASES}.name")
        value = self.value(node.value)[node.attr]
        self._count(_size(value))
        return value

    def _Set(self, node: ast.Set) -> Any:
        """`{{_base_.name}}`, as older files write it."""
        inner = node.elts[0]
        if len(node.elts) != 1 or not isinstance(inner, ast.Set) or len(inner.elts) != 1:
            raise self._refused(node, "a plain value")
        return self.value(inner.elts[0])

    def _Subscript(self, node: ast.Subscript) -> Any:
        return self.value(node.value)[self.value(node.slice)]

    def _UnaryOp(self, node: ast.UnaryOp) -> Any:
        value = self.value(node.operand)
        if isinstance(node.op, ast.USub) and isinstance(value, int | float):
            return -value
        if isinstance(node.op, ast.Not):
            return not value
        raise self._refused(node, "a number with a sign")

    def _BinOp(self, node: ast.BinOp) -> Any:
        numbers = self.value(node.left), self.value(node.right)
        if type(node.op) not in _OPERATORS or not all(isinstance(number, int | float) for number in numbers):
            raise self._refused(node, "a sum or product of numbers")
        value = _OPERATORS[type(node.op)](*numbers)
        if abs(value) > _MAX_NUMBER:
            raise self._refused(node, "a number of ordinary size")
        return value

    def _ListComp(self, node: ast.ListComp) -> list[Any]:
        loop, items = node.generators[0], self.value(node.generators[0].iter)
        is_plain = len(node.generators) == 1 and not loop.ifs and isinstance(items, list)
        if not is_plain or not isinstance(loop.target, ast.Name):
            raise self._refused(node, "[... for name in list]")
        before, found = dict(self._names), []
        for item in items:
            self._names[loop.target.id] = item
            found.append(self.value(node.elt))
        self._names = before
        return found

    def _JoinedStr(self, node: ast.JoinedStr) -> str:
        text = "".join(str(self.value(part)) for part in node.values)
        if len(text) > _MAX_TEXT:
            raise self._refused(node, "a text of ordinary length")
        return text

    def _FormattedValue(self, node: ast.FormattedValue) -> str:
        value = self.value(node.value)
        if node.format_spec is not None or node.conversion != -1 or not isinstance(value, str | int | float):
            raise self._refused(node, "a text or number")
        return str(value)


def _size(value: Any) -> int:
    """How large a value is: characters of texts, and one for anything else."""
    if isinstance(value, dict):
        return 1 + sum(_size(key) + _size(each) for key, each in value.items())
    if isinstance(value, list):
        return 1 + sum(_size(each) for each in value)
    return len(value) if isinstance(value, str | bytes) else 1
