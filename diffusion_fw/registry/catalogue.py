"""The schemas of all components as data, kept in a file, so that the command line is checked without importing torch.

The file is used as long as no source of the components has changed: the package, the plugins and whatever these import
from outside the folders of installed packages. Standard library only.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import logging
import operator
import os
import re
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from diffusion_fw.files import atomic_write, default_cache, open_regular
from diffusion_fw.registry import components, discovery
from diffusion_fw.registry.components import Entry, Parameter
from diffusion_fw.registry.groups import GROUPS
from diffusion_fw.registry.signature import RUNTIME, Measured, Range, is_runtime

logger = logging.getLogger(__name__)

ELSEWHERE = re.compile(r"^\s*(import|from)\s+(hydra|omegaconf)\b", re.MULTILINE)
PACKAGE = Path(__file__).parents[1]
Stamps = dict[str, list[int]]


class Unimported:
    """Stands for a component that has not been imported; an entry of the catalogue has it as its factory."""

    def __init__(self, name: str, documentation: str) -> None:
        self.__name__, self.__doc__ = name, documentation

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(f"{self.__name__} is known by its signature alone; leave the catalogue first")


@contextlib.contextmanager
def catalogued() -> Iterator[None]:
    """For the block, or until ``leave``, entries are those of the catalogue: they can be checked, and not be built.

    Raises ConfigError for a plugin that cannot be imported.
    """
    components.catalogue.update(_kept() or _imported())
    try:
        yield
    finally:
        components.catalogue.clear()


def leave() -> None:
    """Import every plugin; from now on components are imported when they are asked for."""
    if components.catalogue:
        components.catalogue.clear()
        discovery.load_plugins()


# --------------------------------------------------------------------------------------------------------------------
# The file
# --------------------------------------------------------------------------------------------------------------------


def _path() -> Path:
    """The file for this interpreter, this package and these folders of plugins."""
    what = [sys.version, os.fspath(PACKAGE), *discovery.plugin_folders(), *sys.path[1:]]
    return default_cache() / "catalogue" / f"{hashlib.sha256(repr(what).encode()).hexdigest()[:32]}.json"


def _sources() -> Stamps:
    """What every source in the package and beside the plugins is known by: its size and its times."""
    folders = [os.fspath(PACKAGE), *discovery.plugin_folders()]
    found: Stamps = {}
    while folders:
        with os.scandir(folders.pop()) as items:
            for item in items:
                if item.name.startswith((".", "__pycache__")):
                    continue
                if item.is_dir(follow_symlinks=False):
                    folders.append(item.path)
                elif item.name.endswith(".py"):
                    # A link may lead nowhere, and a file may go meanwhile.
                    with contextlib.suppress(OSError):
                        found[item.path] = _stamp(item.stat())
    return found


def _stamp(found: os.stat_result) -> list[int]:
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _further_sources() -> Stamps:
    """Likewise, what was imported besides: files outside the folders of packages, and these folders themselves.

    Such a folder changes when a package is installed, removed or replaced.
    """
    installed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    below = tuple(f"{folder}{os.sep}" for folder in (*installed, Path(os.__file__).parent, PACKAGE))
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    own = [file for file in files if file and file.startswith(os.sep) and not file.startswith(below)]
    return {path: _stamp(Path(path).stat()) for path in {*installed, *own} if Path(path).exists()}


def _kept() -> dict[str, dict[str, Entry]] | None:
    """The catalogue in the file; None if there is none, or a source has changed."""
    discovery.plugin_files()
    try:
        with open_regular(_path()) as file:
            kept = json.loads(file.read())
        if kept.pop("sha256") != _digest(kept):
            logger.warning("%s is damaged; the components are imported again", _path())
            return None
        further = {path: _stamp(Path(path).stat()) for path in kept["further"]}
        if (kept["sources"], kept["further"]) != (_sources(), further):
            return None
        return {
            group: {name: _entry(group, name, item) for name, item in kept["groups"][group].items()} for group in GROUPS
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _digest(content: Mapping[str, Any]) -> str:
    """A hash of what the file holds and of its name."""
    return hashlib.sha256(f"{_path().name}{json.dumps(content, sort_keys=True)}".encode()).hexdigest()


def _registers_elsewhere() -> bool:
    """Whether a plugin uses Hydra or OmegaConf: what it gives these is there only once it is imported."""
    return any(ELSEWHERE.search(Path(file).read_text(errors="replace")) for file in discovery.plugin_files().values())


def _imported() -> dict[str, dict[str, Entry]]:
    """The registered components, which are written into the file if that can be done."""
    sources = _sources()
    discovery.load_plugins()
    groups = {group: components.entries(group) for group in GROUPS}
    content = {
        "sources": sources,
        "further": {path: stamp for path, stamp in _further_sources().items() if path not in sources},
        "groups": {group: {name: _data(entry) for name, entry in found.items()} for group, found in groups.items()},
    }
    # What cannot be written costs the time of importing, each time.
    with contextlib.suppress(OSError, TypeError, ValueError):
        if not _registers_elsewhere():
            text = json.dumps({**content, "sha256": _digest(json.loads(json.dumps(content)))})
            with atomic_write(_path()) as file:
                file.write(text.encode())
    return groups


def _data(entry: Entry) -> dict[str, Any]:
    return {
        "factory": entry.factory.__name__,
        "source": entry.source,
        "documentation": entry.documentation,
        "formerly": entry.formerly,
        "renamed": dict(entry.renamed),
        "absent": dict(entry.absent),
        "arguments": [[name, *_of_parameter(parameter)] for name, parameter in entry.arguments.items()],
    }


def _of_parameter(parameter: Parameter) -> list[Any]:
    """The annotation, and the default if there is one. What a run passes has any, which no config needs."""
    if is_runtime(parameter.annotation):
        return [None] if parameter.required else [None, None]
    annotation = encoded(parameter.annotation)
    return [annotation] if parameter.required else [annotation, _plain(parameter.default)]


def _plain(value: Any) -> Any:
    """A default as JSON has it, with tuples told from lists."""
    if isinstance(value, tuple):
        return {"tuple": [_plain(item) for item in value]}
    if isinstance(value, Mapping):
        return {"dict": {key: _plain(item) for key, item in value.items()}}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _value(plain: Any) -> Any:
    """The default that ``_plain`` wrote."""
    if isinstance(plain, list):
        return [_value(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if "tuple" in plain:
        return tuple(_value(item) for item in plain["tuple"])
    return {key: _value(item) for key, item in plain["dict"].items()}


def _entry(group: str, name: str, data: Mapping[str, Any]) -> Entry:
    factory = Unimported(data["factory"], data["documentation"])
    entry = Entry(group, name, factory, data["source"], tuple(data["formerly"]), data["renamed"], data["absent"])
    arguments = {}
    for key, annotation, *default in data["arguments"]:
        wanted = Annotated[Any, RUNTIME] if annotation is None else decoded(annotation)
        arguments[key] = Parameter(key, wanted, _value(default[0]) if default else inspect.Parameter.empty)
    vars(entry)["arguments"] = arguments
    return entry


# --------------------------------------------------------------------------------------------------------------------
# Annotations
# --------------------------------------------------------------------------------------------------------------------

SCALARS = {"bool": bool, "int": int, "float": float, "str": str, "null": types.NoneType}
CONTAINERS = {"list": list, "tuple": tuple, "dict": dict}


def encoded(annotation: Any) -> Any:
    """An annotation that can be checked, as JSON: a name, or a list of a kind and its parts."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        base, *extra = parts
        return ["annotated", encoded(base), *map(_encoded_extra, extra)]
    if origin is Literal:
        return ["literal", *parts]
    if origin in (Union, types.UnionType):
        return ["union", *map(encoded, parts)]
    if origin in CONTAINERS.values():
        return [origin.__name__, *("..." if part is Ellipsis else encoded(part) for part in parts)]
    return next(name for name, scalar in SCALARS.items() if scalar is annotation)


def _encoded_extra(extra: Any) -> Any:
    if isinstance(extra, Range):
        return {"range": [extra.low, extra.high, extra.low_open, extra.high_open]}
    if isinstance(extra, Measured):
        return {"measured": extra.fact}
    # What other packages read from an annotation is nothing to check.
    return {}


def decoded(data: Any) -> Any:
    """The annotation that ``encoded`` wrote."""
    if isinstance(data, str):
        return Ellipsis if data == "..." else SCALARS[data]
    kind, *parts = data
    if kind == "literal":
        return Literal[tuple(parts)]
    if kind == "annotated":
        base, *extra = parts
        kept = [_decoded_extra(item) for item in extra if item]
        return operator.getitem(Annotated, (decoded(base), *kept)) if kept else decoded(base)
    found = tuple(decoded(part) for part in parts)
    container: Any = Union if kind == "union" else CONTAINERS[kind]
    return container[found]


def _decoded_extra(data: Mapping[str, Any]) -> Any:
    return Range(*data["range"]) if "range" in data else Measured(data["measured"])
