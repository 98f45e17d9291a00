"""From the command line to a checked config: every component's signature is a node of Hydra's config store."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

import diffusion_fw
from diffusion_fw import registry
from diffusion_fw.config.sweep_overrides import check_sweep_words
from diffusion_fw.registry import ConfigError

STACKED = ("guidance", "logger", "callbacks")
"""Groups of which several choices hold at once, in order: each stands at group.name in the config."""

MAX_CHECKED_JOBS = 64


def conf_dir() -> Path:
    """The folder of the composed configs: in the wheel beside this file, in a checkout beside the package."""
    package = Path(diffusion_fw.__file__).parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def node(entry: registry.Entry) -> dict[str, Any]:
    """A component's config: its name and its knobs with their defaults, ??? where the user must give a value."""
    knobs = {key: "???" if knob.required else _plain(knob.default) for key, knob in entry.knobs.items()}
    return {"name": entry.name, **knobs}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def store_components() -> None:
    """Make every registered component a choice of its group. A preset in conf/ is a new name built on one of them."""
    store = ConfigStore.instance()
    for group in registry.GROUPS:
        if group == "settings":
            continue
        for name, entry in registry.entries(group).items():
            if (conf_dir() / group / f"{name}.yaml").exists():
                raise ConfigError(f"conf/{group}/{name}.yaml has the name of a registered component; rename the preset")
            package = f"{group}.{name}" if group in STACKED else group
            store.store(group=group, name=name, node=node(entry), package=package, provider=entry.source)
    for group in STACKED:
        store.store(group=group, name="none", node={}, package=group)
    store.store(group="features", name="auto", node={"name": "auto"}, package="features")


def choices(group: str) -> list[str]:
    """Every choice of a group: registered components and the presets of conf/."""
    presets = [path.stem for path in (conf_dir() / group).glob("*.yaml")]
    registered = registry.names(group) if group in registry.GROUPS else []
    extra = ["none"] if group in STACKED else ["auto"] if group == "features" else []
    return sorted({*registered, *presets, *extra})


def groups() -> list[str]:
    """Every group that can be chosen from: those of the registry and the folders of conf/."""
    folders = [path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "hydra"]
    return sorted({*registry.GROUPS, *folders} - {"settings"})


# --------------------------------------------------------------------------------------------------------------------
# Checking before anything is built
# --------------------------------------------------------------------------------------------------------------------


def check_command_line(program: str, arguments: Sequence[str]) -> list[dict[str, Any]]:
    """Compose and check every job that the arguments ask for; the checked configs, at most MAX_CHECKED_JOBS of them.

    Raises ConfigError for an unknown choice, key, type or value, before Hydra makes a folder.
    """
    if any(argument.startswith("-") and argument not in ("-m", "--multirun") for argument in arguments):
        return []
    words = [argument for argument in arguments if not argument.startswith("-")]
    overrides = [_parse(word) for word in words]
    known = groups()
    for override in overrides:
        _check_choice(override, known)
    check_sweep_words(overrides, multirun=len(words) < len(arguments))
    own = [override for override in overrides if not override.get_key_element().lstrip("+~").startswith("hydra")]
    return [_compose(program, job) for job in itertools.islice(_jobs(own), MAX_CHECKED_JOBS)]


def _parse(word: str) -> Override:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        reason = str(error).partition("See https")[0].strip()
        raise ConfigError(f"{word}: cannot be read as key=value: {reason}") from None


def _jobs(overrides: Sequence[Override]) -> Iterator[list[str]]:
    """The overrides of each job of a sweep; one job where nothing is swept. Intervals are taken at their two ends."""
    ends = (
        ("start", "end") if any(isinstance(override.value(), IntervalSweep) for override in overrides) else ("start",)
    )
    for end in ends:
        options = []
        for override in overrides:
            key, value = override.get_key_element(), override.value()
            if isinstance(value, IntervalSweep):
                options.append([f"{key}={getattr(value, end)}"])
            elif override.is_discrete_sweep():
                options.append([f"{key}={value}" for value in override.sweep_string_iterator()])
            else:
                options.append([override.input_line or ""])
        yield from (list(job) for job in itertools.product(*options))


def _check_choice(override: Override, known: Sequence[str]) -> None:
    group = override.key_or_group
    if group in known and override.is_delete():
        remedy = f"{group}=none leaves it empty" if group in STACKED else f"choose one by {group}=..."
        raise ConfigError(f"~{group}: the group itself cannot be removed; {remedy}")
    if group not in known or override.value() is None:
        return
    allowed = choices(group)
    if override.is_sweep_override():
        values = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []
    else:
        value = override.value()
        values = [str(item) for item in value] if isinstance(value, list) else [str(value)]
    for value in values:
        if not value.startswith("[") and value not in allowed:
            raise ConfigError(
                f"{group}={value}: no such {group}{registry.nearest(value, allowed)}; choose from: {', '.join(allowed)}"
            )


def _compose(program: str, overrides: Sequence[str]) -> dict[str, Any]:
    with initialize_config_dir(version_base="1.3", config_dir=os.fspath(conf_dir())):
        try:
            config = compose(program, list(overrides))
        except HydraException as error:
            _check_keys(program, overrides)
            raise ConfigError(str(error)) from None
    return checked(program, OmegaConf.to_container(config, resolve=True))


def _check_keys(program: str, overrides: Sequence[str]) -> None:
    """Look for keys that the choices made don't have, since Hydra's message doesn't name the nearest one."""
    known = groups()
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    try:
        base = compose(program, [item.input_line or "" for item in parsed if item.key_or_group in known])
    except HydraException:
        return
    for item in parsed:
        if item.key_or_group not in known and not (item.is_add() or item.is_force_add() or item.is_delete()):
            _check_key(OmegaConf.to_container(base), item.key_or_group, known)


def _check_key(base: Any, key: str, known: Sequence[str]) -> None:
    place: Any = base
    walked: list[str] = []
    for part in key.split("."):
        if not isinstance(place, Mapping) or (walked and not place):
            return
        if part not in place:
            where = ".".join(walked)
            options = sorted({option for option in place if option != "name"} | (set() if walked else set(known)))
            close = registry.nearest(part, options)
            raise ConfigError(
                f"{key}: no such key{close}; keys {'of ' + where if where else 'at the top'}: {', '.join(options)}"
            )
        place, walked = place[part], [*walked, part]


def sections(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Every component of a config: its group, the key where it stands, and its node."""
    for group, section in config.items():
        if group not in registry.GROUPS or not isinstance(section, Mapping):
            continue
        if group in STACKED:
            yield from ((group, f"{group}.{name}", item) for name, item in section.items())
        else:
            yield group, group, section


def checked(program: str, config: Any) -> dict[str, Any]:
    """The config with every value checked against the signature it belongs to and converted to its type.

    Raises ConfigError that names the key.
    """
    result = dict(config)
    top = {key: value for key, value in config.items() if key in registry.entry("settings", program).parameters}
    try:
        result.update(registry.validate("settings", program, _given(top)))
    except ConfigError as error:
        message = str(error).replace("settings.", "").replace(f" (of settings={program})", "")
        raise ConfigError(message.replace(f"settings={program} needs", "it must be")) from None
    for group in STACKED:
        # Hydra leaves out a group of which nothing is chosen.
        result.setdefault(group, {})
    for group, path, section in sections({key: value for key, value in config.items() if key not in top}):
        if not isinstance(section, Mapping):
            raise ConfigError(
                f"{path}={section}: that is a component, whose knobs are set by {path}.KNOB=...; to choose, {group}=..."
            )
        if section.get("name") == "auto" and group == "features":
            continue
        if "name" not in section:
            raise ConfigError(f"{path} has no component; choose one of: {', '.join(choices(group))}")
        knobs = {key: value for key, value in section.items() if key != "name"}
        values = {"name": section["name"], **registry.validate(group, section["name"], _given(knobs), path)}
        if path == group:
            result[group] = values
        else:
            result[group] = {**result[group], path.removeprefix(f"{group}."): values}
    return result


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value != "???"}
