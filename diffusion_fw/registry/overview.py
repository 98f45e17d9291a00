"""The names of all components for ``--help``, read from the sources, so that torch need not be imported.

A file is read without being run if its components are plain to see: each is decorated with ``@register("group",
"name")`` at the top of the file, and the file imports only what cannot register further ones. Otherwise everything is
imported, which takes longer and gives the same answer. Standard library only.
"""

from __future__ import annotations

import ast
import importlib.metadata
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from diffusion_fw.registry import components, discovery
from diffusion_fw.registry.groups import GROUPS

READABLE = sys.stdlib_module_names - {"importlib", "runpy"} | {
    "diffusion_fw",
    "lightning",
    "matplotlib",
    "numpy",
    "PIL",
    "safetensors",
    "torch",
    "torchmetrics",
    "tqdm",
}
"""Packages whose import registers no component that is not in the built-in files."""
RUNS_CODE = {"__import__", "eval", "exec"}


class Choice(NamedTuple):
    """A registered name, and whether no config can choose it."""

    group: str
    name: str
    python_only: bool


class _UnreadableError(Exception):
    """The components of a file are known only once it has run."""


def overview() -> dict[str, list[Choice]]:
    """Every choice of every group, sorted by name; ConfigError for a plugin that cannot be imported."""
    try:
        found = [*_built_in(), *_plugins()]
        if len({(choice.group, choice.name) for choice in found}) < len(found):
            raise _UnreadableError
    except _UnreadableError:
        discovery.load_plugins()
        found = [
            Choice(group, name, entry.python_only)
            for group in GROUPS
            for name, entry in components.entries(group).items()
        ]
    return {group: sorted(choice for choice in found if choice.group == group) for group in GROUPS}


def _built_in() -> Iterator[Choice]:
    package = Path(__file__).parents[1]
    files: set[Path] = set()
    for group in GROUPS.values():
        place = package.joinpath(*group.module.split(".")[1:])
        files.update(place.glob("[!_]*.py") if place.is_dir() else [place.with_suffix(".py")])
    for path in files:
        yield from _registered(_parsed(path))


def _plugins() -> Iterator[Choice]:
    if importlib.metadata.entry_points(group=discovery.PLUGIN_ENTRY_POINTS):
        raise _UnreadableError
    for path in discovery.plugin_files().values():
        tree = _parsed(path)
        choices = [*_registered(tree)]
        # What a class inherits may be an argument that only Python can pass.
        if not _is_plain(tree, len(choices)) or any(GROUPS[choice.group].python for choice in choices):
            raise _UnreadableError
        yield from choices


def _parsed(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (OSError, ValueError, SyntaxError):
        raise _UnreadableError from None


def _is_plain(tree: ast.Module, count: int) -> bool:
    """Whether a file registers ``count`` components and no others, in whatever way."""
    mentions = 0
    for item in ast.walk(tree):
        modules: list[str] = []
        if isinstance(item, ast.Import):
            modules = [alias.name for alias in item.names]
        elif isinstance(item, ast.ImportFrom):
            modules = ["." * item.level + (item.module or "")]
            mentions += any(alias.name == "register" and alias.asname for alias in item.names)
        elif isinstance(item, (ast.Name, ast.Attribute)):
            mentions += (item.id if isinstance(item, ast.Name) else item.attr) == "register"
        runs_code = isinstance(item, ast.Name) and item.id in RUNS_CODE
        if runs_code or not all(map(_is_readable, modules)):
            return False
    return mentions == count


def _is_readable(module: str) -> bool:
    return module.partition(".")[0] in READABLE and not module.startswith(discovery.PLUGIN_PACKAGE)


def _registered(tree: ast.Module) -> Iterator[Choice]:
    for item in tree.body:
        if isinstance(item, (ast.ClassDef, ast.FunctionDef)):
            for call in item.decorator_list:
                if isinstance(call, ast.Call):
                    yield from _choice(call, item)


def _choice(call: ast.Call, item: ast.ClassDef | ast.FunctionDef) -> Iterator[Choice]:
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if function != "register":
        return
    given = [value.value for value in call.args if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    if len(given) != 2 or len(call.args) != 2 or given[0] not in GROUPS:
        raise _UnreadableError
    group, name = given
    yield Choice(group, name, bool(_required(item) & GROUPS[group].python.keys()))


def _required(item: ast.ClassDef | ast.FunctionDef) -> set[str]:
    """The parameters without a default: of a function, of ``__init__``, or the fields of a dataclass."""
    if isinstance(item, ast.FunctionDef):
        own = item.args
        ordered = [*own.posonlyargs, *own.args]
        required = ordered[: len(ordered) - len(own.defaults)]
        required += [name for name, default in zip(own.kwonlyargs, own.kw_defaults, strict=True) if default is None]
        return {name.arg for name in required}
    for member in item.body:
        if isinstance(member, ast.FunctionDef) and member.name == "__init__":
            return _required(member)
    fields = [member for member in item.body if isinstance(member, ast.AnnAssign) and member.value is None]
    return {field.target.id for field in fields if isinstance(field.target, ast.Name)}
