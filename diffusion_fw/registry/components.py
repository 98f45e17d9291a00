"""One decorator registers every component, built in or plugin; its signature is its config schema.

Standard library only, so that the name of a component can be looked up without importing Lightning or Hydra.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib
import inspect
import json
import keyword
import math
import pkgutil
import reprlib
import sys
import typing
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from diffusion_fw.registry.groups import GROUPS, OWN
from diffusion_fw.registry.messages import LONGEST_NAME, ConfigError, RegistrationError
from diffusion_fw.registry.signature import convert, describe, is_checkable, is_runtime, measured, misfit

if TYPE_CHECKING:
    from diffusion_fw.data.dataset import Data
    from diffusion_fw.guidance.guidance import Guidance
    from diffusion_fw.metrics.features.extractor import FeatureExtractor
    from diffusion_fw.objectives.objective import Objective
    from diffusion_fw.objectives.time_sampler import TimeSampler
    from diffusion_fw.objectives.weighting import Weighting
    from diffusion_fw.process.parameterization import Parameterization
    from diffusion_fw.process.schedule import Schedule
    from diffusion_fw.process.variance import Variance
    from diffusion_fw.samplers.grid import Grid
    from diffusion_fw.samplers.sampler import Sampler
    from diffusion_fw.training.ema import Averages

T = TypeVar("T")

# --------------------------------------------------------------------------------------------------------------------
# Entries
# --------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a signature; ``default`` is ``inspect.Parameter.empty`` where it has none."""

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered component, where it was defined, and the names that it and its parameters had before."""

    group: str
    name: str
    factory: Callable[..., Any]
    source: str
    formerly: tuple[str, ...] = ()
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    absent: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Keys that a user may look for, which it has not, and what to do instead."""

    @property
    def summary(self) -> str:
        """The first line of the component's docstring."""
        return self.documentation.partition("\n")[0]

    @property
    def documentation(self) -> str:
        """The component's docstring, without its indentation."""
        return inspect.getdoc(self.factory) or ""

    @functools.cached_property
    def arguments(self) -> dict[str, Parameter]:
        """Every parameter of the signature, including those that the composition root passes."""
        target = self.factory.__init__ if inspect.isclass(self.factory) else self.factory
        hints = (
            typing.get_type_hints(self.factory, include_extras=True)
            if dataclasses.is_dataclass(self.factory)
            else typing.get_type_hints(target, include_extras=True)
        )
        signature = inspect.signature(self.factory)
        found = (
            Parameter(_key(name), hints.get(name, inspect.Parameter.empty), _default(self.factory, parameter))
            for name, parameter in signature.parameters.items()
        )
        return {parameter.name: parameter for parameter in found}

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The arguments that are keys of the config."""
        return {name: item for name, item in self.arguments.items() if not is_runtime(item.annotation)}

    @property
    def runtime(self) -> dict[str, Parameter]:
        """The arguments that the composition root or a caller in Python passes."""
        return {name: item for name, item in self.arguments.items() if is_runtime(item.annotation)}

    @property
    def python_only(self) -> bool:
        """Whether it needs an argument that only a caller in Python can pass, so that no config can choose it."""
        return any(item.required and name in GROUPS[self.group].python for name, item in self.runtime.items())

    def measured(self, values: Mapping[str, Any]) -> set[str]:
        """The facts of the data that must be measured for these values of the parameters."""
        return {
            fact
            for key, parameter in self.parameters.items()
            for value, fact in measured(parameter.annotation).items()
            if values.get(key, parameter.default) == value
        }


def _key(name: str) -> str:
    """The key of a parameter: ``class_`` is class, a word that Python reserves."""
    word = name.removesuffix("_")
    return word if keyword.iskeyword(word) else name


def _default(factory: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    for field in dataclasses.fields(factory) if dataclasses.is_dataclass(factory) else ():
        if field.name == parameter.name and field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    return parameter.default


_entries: dict[str, dict[str, Entry]] = {}
_loaded: set[str] = set()
catalogue: dict[str, dict[str, Entry]] = {}
"""Entries that stand for the registered ones while ``registry.catalogue`` fills it, which no torch is imported for."""


def _shown(value: Any) -> str:
    """A value in a message, cut where it is long or deep: a file's nested lists can spell out to any length."""
    short = reprlib.Repr()
    short.maxlist = short.maxtuple = short.maxdict = 20
    short.maxstring = short.maxother = short.maxlong = 200
    short.maxlevel = 3
    return short.repr(value)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """`` - did you mean 'x'?`` for the closest of the allowed names, or nothing."""
    name = name[:LONGEST_NAME]

    def similarity(candidate: str) -> float:
        # Half for the order of the letters, half for the letters alone, so that swapped letters count as close.
        pairs = ((name, candidate), ("".join(sorted(name)), "".join(sorted(candidate))))
        return sum(difflib.SequenceMatcher(None, *pair).ratio() for pair in pairs) / 2

    best = max(allowed, key=similarity, default="")
    return f" - did you mean '{best}'?" if best and similarity(best) >= 0.6 else ""


def _require_group(group: str) -> None:
    if group not in GROUPS:
        raise ConfigError(f"no group '{group}'{nearest(group, GROUPS)}; groups: {', '.join(sorted(GROUPS))}")


def _check_signature(entry: Entry) -> None:
    where = f"{entry.group}={entry.name} ({entry.source})"
    try:
        arguments = entry.arguments
    except Exception as error:
        raise RegistrationError(f"{where}: {error}") from error
    group = GROUPS[entry.group]
    passed = {**group.runtime, **group.python}
    for name in entry.runtime:
        if name not in passed:
            raise RegistrationError(
                f"{where}: nothing is passed to its Runtime parameter '{name}'{nearest(name, passed)}; "
                f"what a {entry.group} can ask for: {', '.join(passed) or '(nothing)'}"
            )
    for name, parameter in entry.parameters.items():
        if name == "name":
            raise RegistrationError(f"{where}: 'name' is a key of every component; rename the parameter")
        if not is_checkable(parameter.annotation):
            raise RegistrationError(
                f"{where}: parameter '{name}' has the annotation {parameter.annotation!r}, which cannot be checked; "
                "use int, float, bool, str, Literal, Optional, list, tuple, dict[str, ...] or "
                "Annotated[..., Range(...)] of these, or Runtime[...] for what the composition root passes"
            )
        if not parameter.required:
            try:
                convert(parameter.annotation, parameter.default)
            except ValueError:
                raise RegistrationError(
                    f"{where}: the default {parameter.default!r} of parameter '{name}' is not "
                    f"{describe(parameter.annotation)}"
                ) from None
        for fact in measured(parameter.annotation).values():
            if fact not in entry.runtime:
                raise RegistrationError(f"{where}: parameter '{name}' needs '{fact}: Runtime[float | None]' beside it")
    for old, new in entry.renamed.items():
        if old in arguments or new not in entry.parameters:
            raise RegistrationError(
                f"{where}: renamed={{'{old}': '{new}'}} must map a name that is no longer a parameter to one that is"
            )


def _check_names(entry: Entry) -> None:
    """RegistrationError where another component has one of the names, or the name has a meaning of its own."""
    if GROUPS[entry.group].own and OWN in (entry.name, *entry.formerly):
        raise RegistrationError(
            f"{entry.group}={OWN} ({entry.source}): this name stands for what a model was trained with; choose another"
        )
    for known in _entries[entry.group].values():
        taken = {entry.name, *entry.formerly} & {known.name, *known.formerly}
        if taken and known.source != entry.source and not _is_again(entry, known):
            raise RegistrationError(
                f"{entry.group}={min(taken)} is registered twice: {known.source} and {entry.source}"
            )


def _is_again(entry: Entry, known: Entry) -> bool:
    """Whether a cell of a notebook that has defined a component is run again."""
    one, other = (getattr(item.factory, "__qualname__", "") for item in (entry, known))
    return one == other and entry.factory.__module__ == known.factory.__module__ == "__main__"


def register(
    group: str,
    name: str,
    *,
    formerly: tuple[str, ...] = (),
    renamed: Mapping[str, str] | None = None,
    absent: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorator: make a class or function the choice ``name`` of ``group``.

    ``formerly`` holds earlier names of the component and ``renamed`` earlier names of its parameters, each mapped to
    the present one. They still work, with a FutureWarning: on the command line, in ``build`` and in checkpoints.
    ``absent`` maps keys that it does not have, but that a user may know from elsewhere, to what to do instead.

    What a notebook defines in a cell may be defined there again.

    Raises RegistrationError where the name is taken (both sources are named), a parameter's annotation cannot be
    checked, or a Runtime parameter has a name that is not passed in this group. Returns the factory unchanged.
    """

    caller = sys._getframe(1)
    source = f"{caller.f_code.co_filename}:{caller.f_lineno}"

    def decorate(factory: Callable[..., T]) -> Callable[..., T]:
        _require_group(group)
        entry = Entry(group, name, factory, source, formerly, dict(renamed or {}), dict(absent or {}))
        _entries.setdefault(group, {})
        _check_names(entry)
        _check_signature(entry)
        _entries[group][name] = entry
        return factory

    return decorate


def _load_builtins(group: str) -> None:
    if group in _loaded:
        return
    _loaded.add(group)
    package = importlib.import_module(GROUPS[group].module)
    for module in pkgutil.iter_modules(getattr(package, "__path__", ())):
        if not module.ispkg and not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")


def entries(group: str) -> dict[str, Entry]:
    """Every entry of a group, by name, sorted."""
    _require_group(group)
    if catalogue:
        return dict(catalogue[group])
    _load_builtins(group)
    return dict(sorted(_entries.get(group, {}).items()))


def names(group: str) -> list[str]:
    """The registered names of a group, sorted."""
    return list(entries(group))


def entry(group: str, name: str) -> Entry:
    """The component of this name, present or former (with a FutureWarning); ConfigError where there is none."""
    known = entries(group)
    if name in known:
        return known[name]
    for component in known.values():
        if name in component.formerly:
            _deprecated(f"{group}={name} is now called {group}={component.name}")
            return component
    raise ConfigError(f"{group}={name}: no such {group}{nearest(name, known)}; choose from: {', '.join(known)}")


def sections(config: Mapping[str, Any], several: Collection[str] = ()) -> Iterator[tuple[str, str, Any]]:
    """Every component of a config: its group, the key where it stands, and its section.

    ``several`` names groups of which this config may hold several components, besides those of which every one may.
    """
    for group in GROUPS:
        section = config.get(group)
        if not isinstance(section, Mapping):
            continue
        if GROUPS[group].several or group in several:
            yield from ((group, f"{group}.{name}", item) for name, item in section.items())
        else:
            yield group, group, section


def _deprecated(message: str) -> None:
    warnings.warn(f"{message}; the old name will be removed", FutureWarning, stacklevel=4)


def _renamed(component: Entry, values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The values by the present names of the parameters."""
    result = {key: value for key, value in values.items() if key not in component.renamed}
    for old, new in component.renamed.items():
        if old in values:
            if new in values:
                raise ConfigError(f"{path}.{old} is the old name of {path}.{new}, and both are given; leave out one")
            _deprecated(f"{path}.{old} is now called {path}.{new}")
            result[new] = values[old]
    return result


def _quoted(key: str, annotation: Any, value: Any) -> str:
    """How a file gives the value as text, where text is allowed: YAML reads 2024, 1e3 and yes as other types."""
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, (int, float, str)) for item in items):
        return ""
    try:
        texts = [str(item) for item in items]
        text = texts if isinstance(value, list) else texts[0]
        convert(annotation, text)
    except ValueError:
        return ""
    return f"; in a file, quote text that reads as another type: {key}: {json.dumps(text)[:LONGEST_NAME]}"


def validate(group: str, name: str, values: Mapping[str, Any], path: str | None = None) -> dict[str, Any]:
    """The arguments given to a component, by their present names and in their annotated types.

    Runtime arguments are let through as they are. ``path`` is where the component stands in the config, if not under
    the name of its group. Raises ConfigError for an unknown key (with the nearest valid one), a missing one, a wrong
    type and a value out of range.
    """
    path = path or group
    component = entry(group, name)
    name, arguments = component.name, component.arguments
    result = {}
    for key, value in _renamed(component, values, path).items():
        if key in component.absent and key not in arguments:
            raise ConfigError(f"{path}.{key}: {group}={name} has no such key: {component.absent[key]}")
        if key not in arguments:
            raise ConfigError(
                f"{path}.{key}: {group}={name} has no such key{nearest(key, component.parameters)}; "
                f"its keys: {', '.join(component.parameters) or '(none)'}"
            )
        if is_runtime(arguments[key].annotation):
            result[key] = value
            continue
        try:
            result[key] = convert(arguments[key].annotation, value)
        except ValueError:
            where, part, wanted = misfit(arguments[key].annotation, value)
            limits = ""
            if type(part) is int and part.bit_length() > 63:
                limits = ", in 64 bits"  # -2^63 to 2^63 - 1
            elif type(part) is float and not math.isfinite(part):
                limits = ", and finite"
            remedy = _quoted(key, wanted, part)
            raise ConfigError(
                f"{path}.{key}{where}={_shown(part)}: must be {describe(wanted)}{limits} (of {group}={name}){remedy}"
            ) from None
    for key, parameter in component.parameters.items():
        if parameter.required and key not in result:
            raise ConfigError(
                f"{path}.{key} is missing: {group}={name} needs {describe(parameter.annotation)}; give {path}.{key}=..."
            )
    return result


def as_component(group: str, given: Any, **passed: Any) -> Any:
    """``given``, or the component of a group that it describes: by its name, or as a section of a config.

    ``"leading"`` and ``{"name": "karras", "rho": 5}`` are grids. Of the ``passed`` values it gets those that its
    signature asks for as Runtime. Raises ConfigError as ``build`` does.
    """
    section = {"name": given} if isinstance(given, str) else given
    if not isinstance(section, Mapping):
        return given
    if not isinstance(section.get("name"), str):
        listed = ", ".join(names(group))
        raise ConfigError(f"{group}={_shown(dict(section))}: it has no name of a component; choose one of: {listed}")
    wanted = {key: passed[key] for key in passed.keys() & entry(group, section["name"]).runtime.keys() - section.keys()}
    return build(group, section["name"], **{key: value for key, value in section.items() if key != "name"}, **wanted)


def _with_components(owner: Entry, values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, with a component for each Runtime one that describes it: ``grid="leading"`` of a sampler."""
    result = dict(values)
    # The schedule first, for which the others may ask.
    for key in sorted(values.keys() & owner.runtime.keys(), key=lambda key: (key != "schedule", key)):
        if key in GROUPS:
            others = {name: result[name] for name in owner.runtime if name in result and name != key}
            result[key] = as_component(key, result[key], **others)
        elif isinstance(result[key], str) and key in GROUPS[owner.group].python and not takes_text(owner, key):
            what = GROUPS[owner.group].python[key]
            raise ConfigError(f"{owner.group}={owner.name}: {key}={_shown(result[key])} must be {what}, not a text")
    return result


def takes_text(owner: Entry, key: str) -> bool:
    """Whether a Runtime argument may be a text."""
    kind, *_ = typing.get_args(owner.runtime[key].annotation)
    return str in (kind, *typing.get_args(kind))


SECTION = "_section_of_config"
"""The attribute of a component that holds what ``section_of`` returns."""


def section_of(component: object) -> dict[str, Any] | None:
    """The section of a config by which ``build`` made a component, and copies of it; None for one made otherwise."""
    section: dict[str, Any] | None = getattr(component, "__dict__", {}).get(SECTION)
    return section


@overload
def build(group: Literal["schedule"], name: str, /, **kwargs: Any) -> Schedule: ...
@overload
def build(group: Literal["parameterization"], name: str, /, **kwargs: Any) -> Parameterization: ...
@overload
def build(group: Literal["variance"], name: str, /, **kwargs: Any) -> Variance: ...
@overload
def build(group: Literal["objective"], name: str, /, **kwargs: Any) -> Objective: ...
@overload
def build(group: Literal["weighting"], name: str, /, **kwargs: Any) -> Weighting: ...
@overload
def build(group: Literal["time_sampler"], name: str, /, **kwargs: Any) -> TimeSampler: ...
@overload
def build(group: Literal["sampler"], name: str, /, **kwargs: Any) -> Sampler: ...
@overload
def build(group: Literal["grid"], name: str, /, **kwargs: Any) -> Grid: ...
@overload
def build(group: Literal["guidance"], name: str, /, **kwargs: Any) -> Guidance: ...
@overload
def build(group: Literal["data"], name: str, /, **kwargs: Any) -> Data: ...
@overload
def build(group: Literal["features"], name: str, /, **kwargs: Any) -> FeatureExtractor: ...
@overload
def build(group: Literal["ema"], name: str, /, **kwargs: Any) -> Averages: ...
@overload
def build(group: str, name: str, /, **kwargs: Any) -> Any: ...
def build(group: str, name: str, /, **kwargs: Any) -> Any:
    """A component by its config name, e.g. ``build("schedule", "linear", num_steps=1000)``.

    A component that it is passed may be described too, by its name or as a section of a config:
    ``build("sampler", "ddim", grid="leading")``.

    Raises ConfigError for an unknown group, name or key, for a value of the wrong type or out of range, and for a
    missing Runtime argument.
    """
    component = entry(group, name)
    values = _with_components(component, validate(group, component.name, kwargs))
    missing = [key for key, parameter in component.runtime.items() if parameter.required and key not in values]
    if missing:
        raise ConfigError(
            f"{group}={name} needs {', '.join(missing)}, which no config can give; "
            f'in Python, build("{group}", "{name}", {missing[0]}=...)'
        )
    try:
        built = component.factory(**{f"{key}_" if keyword.iskeyword(key) else key: values[key] for key in values})
    except ConfigError as error:
        chosen, said = f"{group}={component.name}", str(error)
        raise ConfigError(said if said.startswith((f"{chosen} ", f"{chosen}:")) else f"{chosen}: {said}") from None
    # What has no attributes of its own is not remembered.
    with contextlib.suppress(AttributeError, TypeError):
        keys = {key: values.get(key, parameter.default) for key, parameter in component.parameters.items()}
        object.__setattr__(built, SECTION, {"name": component.name, **keys})
    return built
