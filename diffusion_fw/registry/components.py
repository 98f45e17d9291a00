"""One decorator registers every component, built in or plugin; its signature is its config schema.

Standard library only, so that the name of a component can be looked up without importing Lightning or Hydra.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import inspect
import pkgutil
import reprlib
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from diffusion_fw.registry.signature import convert, describe, is_checkable, is_runtime, misfit

T = TypeVar("T")

LONGEST_NAME = 100
"""Longer names are compared by their beginning."""


# Where the built-in components of a group are registered: one module, or a package whose modules are all imported, so
# that a module dropped into it is found.
GROUPS: dict[str, str] = {
    "schedule": "diffusion_fw.process.schedules",
    "parameterization": "diffusion_fw.process.parameterization",
    "variance": "diffusion_fw.process.variance",
    "network": "diffusion_fw.networks",
    "objective": "diffusion_fw.objectives",
    "weighting": "diffusion_fw.objectives.weighting",
    "time_sampler": "diffusion_fw.objectives.time_sampler",
    "sampler": "diffusion_fw.samplers",
    "grid": "diffusion_fw.samplers.grid",
    "guidance": "diffusion_fw.guidance",
    "data": "diffusion_fw.data",
    "features": "diffusion_fw.metrics.features",
    "metric": "diffusion_fw.metrics",
    "ema": "diffusion_fw.training.ema",
    "optimizer": "diffusion_fw.training.optimizer",
    "lr_schedule": "diffusion_fw.training.lr_schedule",
    "logger": "diffusion_fw.training.loggers.builders",
    "callbacks": "diffusion_fw.training.callbacks.builders",
    "trainer": "diffusion_fw.training.trainer",
    "settings": "diffusion_fw.config.settings",
}


class ConfigError(ValueError):
    """A choice of the user's that cannot work: says what was given, what is allowed and which key to change."""


class RegistrationError(TypeError):
    """A component that cannot be registered: its name is taken, or its signature cannot be checked."""


# --------------------------------------------------------------------------------------------------------------------
# Entries
# --------------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a component; ``default`` is ``inspect.Parameter.empty`` where the user must give a value."""

    name: str
    annotation: Any
    default: Any

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered component and where it was defined."""

    group: str
    name: str
    factory: Callable[..., Any]
    source: str

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
        """Everything that the signature takes, what the composition root passes included."""
        target = self.factory.__init__ if inspect.isclass(self.factory) else self.factory
        hints = (
            typing.get_type_hints(self.factory, include_extras=True)
            if dataclasses.is_dataclass(self.factory)
            else typing.get_type_hints(target, include_extras=True)
        )
        signature = inspect.signature(self.factory)
        return {
            name: Parameter(name, hints.get(name, inspect.Parameter.empty), _default(self.factory, parameter))
            for name, parameter in signature.parameters.items()
        }

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The arguments that are keys of the config."""
        return {name: item for name, item in self.arguments.items() if not is_runtime(item.annotation)}


def _default(factory: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    for field in dataclasses.fields(factory) if dataclasses.is_dataclass(factory) else ():
        if field.name == parameter.name and field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    return parameter.default


_entries: dict[str, dict[str, Entry]] = {}
_loaded: set[str] = set()


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
    try:
        arguments = entry.arguments
    except Exception as error:
        raise RegistrationError(f"{entry.group}={entry.name} ({entry.source}): {error}") from error
    for parameter in arguments.values():
        if is_runtime(parameter.annotation):
            continue
        where = f"{entry.group}={entry.name}: parameter '{parameter.name}' ({entry.source})"
        if parameter.name == "name":
            raise RegistrationError(f"{where}: 'name' is taken by the config; call it something else")
        if not is_checkable(parameter.annotation):
            raise RegistrationError(
                f"{where} has the annotation {parameter.annotation!r}, which cannot be checked; use int, float, bool, "
                "str, Literal, Optional, list, tuple, dict[str, ...] or Annotated[..., Range(...)] of these, "
                "or Runtime[...] for what composition.py passes"
            )
        if not parameter.required:
            try:
                convert(parameter.annotation, parameter.default)
            except ValueError:
                raise RegistrationError(
                    f"{where}: the default {parameter.default!r} is not {describe(parameter.annotation)}"
                ) from None


def register(group: str, name: str) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Decorator: make a class or function the choice ``name`` of ``group``.

    Raises RegistrationError where the name is taken (both sources are named) or a parameter's annotation cannot be
    checked. The factory itself is returned unchanged.
    """

    caller = sys._getframe(1)
    source = f"{caller.f_code.co_filename}:{caller.f_lineno}"

    def decorate(factory: Callable[..., T]) -> Callable[..., T]:
        _require_group(group)
        entry = Entry(group, name, factory, source)
        known = _entries.setdefault(group, {}).get(name)
        if known is not None and known.source != entry.source:
            raise RegistrationError(f"{group}={name} is registered twice: {known.source} and {entry.source}")
        _check_signature(entry)
        _entries[group][name] = entry
        return factory

    return decorate


def _load_builtins(group: str) -> None:
    if group in _loaded:
        return
    _loaded.add(group)
    package = importlib.import_module(GROUPS[group])
    for module in pkgutil.iter_modules(getattr(package, "__path__", ())):
        if not module.ispkg and not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")


def entries(group: str) -> dict[str, Entry]:
    """Every entry of a group, by name, sorted."""
    _require_group(group)
    _load_builtins(group)
    return dict(sorted(_entries.get(group, {}).items()))


def names(group: str) -> list[str]:
    """The registered names of a group, sorted."""
    return list(entries(group))


def entry(group: str, name: str) -> Entry:
    """One entry; ConfigError with the nearest name where there is none."""
    known = entries(group)
    if name not in known:
        raise ConfigError(f"{group}={name}: no such {group}{nearest(name, known)}; choose from: {', '.join(known)}")
    return known[name]


def validate(group: str, name: str, values: Mapping[str, Any], path: str | None = None) -> dict[str, Any]:
    """The parameters of a component, converted to their annotated types.

    Raises ConfigError for an unknown key (with the nearest valid one), a missing one, a wrong type, a value out of
    range. Parameters that the composition root passes are let through as they are. ``path`` is where the component
    stands in the config, if not under the name of its group.
    """
    path = path or group
    component = entry(group, name)
    arguments = component.arguments
    result = {}
    for key, value in values.items():
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
            raise ConfigError(
                f"{path}.{key}{where}={_shown(part)}: must be {describe(wanted)} (of {group}={name})"
            ) from None
    for key, parameter in component.parameters.items():
        if parameter.required and key not in values:
            raise ConfigError(
                f"{path}.{key} is missing: {group}={name} needs {describe(parameter.annotation)}; give {path}.{key}=..."
            )
    return result


def build(group: str, name: str, /, **kwargs: Any) -> Any:
    """A component by its config name, e.g. ``build("schedule", "linear", num_steps=1000)``.

    Raises ConfigError for an unknown group, name or key, for a value of the wrong type or out of range, and where a
    parameter is missing that only the caller can give.
    """
    component = entry(group, name)
    values = validate(group, name, kwargs)
    missing = [key for key, parameter in component.arguments.items() if parameter.required and key not in values]
    if missing:
        raise ConfigError(
            f"{group}={name} needs {', '.join(missing)}, which is not a key of the config and was not passed here; "
            f'in Python, build("{group}", "{name}", {missing[0]}=...)'
        )
    try:
        return component.factory(**values)
    except ConfigError as error:
        raise ConfigError(f"{group}={name}: {error}") from None
