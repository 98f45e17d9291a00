"""From the command line to a checked config: every component's signature is a node of Hydra's config store."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion_fw import registry
from diffusion_fw.config import command_line
from diffusion_fw.config.groups import OWN_GROUPS, STACKED, groups, has_own, stacked, unregistered
from diffusion_fw.config.sources import check_files
from diffusion_fw.registry import OWN, ConfigError


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a config with its dotted key; an empty mapping is a leaf."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


MISSING = "???"
"""OmegaConf's mark of a key without a value."""


def node(entry: registry.Entry) -> dict[str, Any]:
    """A component's section: its name and its parameters with their defaults; former keys are there without a value."""
    values = {key: MISSING if item.required else _plain(item.default) for key, item in entry.parameters.items()}
    return {"name": entry.name, **values, **dict.fromkeys(entry.renamed, MISSING)}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def store_components() -> None:
    """Put every registered component into Hydra's config store, and each program's settings.

    A preset in conf/ is a new name for a component with other values.
    """
    check_files()
    store = ConfigStore.instance()
    for group in registry.GROUPS:
        for entry in registry.entries(group).values():
            provider = f"signature of {entry.factory.__name__}"
            if group == "settings":
                values = {key: value for key, value in node(entry).items() if key != "name"}
                store.store(group=group, name=entry.name, node=values, package="_global_", provider=provider)
                continue
            for name in (entry.name, *entry.formerly):
                package = f"{group}.{name}" if group in STACKED else group
                section = {**node(entry), "name": name}
                store.store(group=group, name=name, node=section, package=package, provider=provider)
    for group in STACKED:
        store.store(group=group, name="none", node={}, package=group)
    for group in OWN_GROUPS:
        # Its keys are those of a component that the checkpoint names.
        section = {OWN: {"name": OWN}} if group in STACKED else {"name": OWN}
        store.store(group=group, name=OWN, node=OmegaConf.create(section, flags={"struct": False}), package=group)
    store.store(group="features", name="auto", node={"name": "auto"}, package="features")


def store_stacked(program: str) -> None:
    """Put the components of groups of which some program takes several, and others one, into the store for this one.

    In a stack a component stands at group.name, and the key group.KEY sets KEY of every component that has it.
    """
    store = ConfigStore.instance()
    for group in {group for other in registry.names("settings") for group in stacked(other)} - set(STACKED):
        for entry in registry.entries(group).values():
            for name in (entry.name, *entry.formerly):
                section = {**node(entry), "name": name}
                shared = {key: MISSING for key in section if key != "name"}
                own = {**shared, name: section} if group in stacked(program) else section
                provider = f"signature of {entry.factory.__name__}"
                store.store(group=group, name=name, node=own, package=group, provider=provider)


def _unshared(section: Mapping[str, Any], typed: dict[str, str], group: str) -> dict[str, Any]:
    """The components of a stack, each with the keys that are set for all of them, unless its own is."""
    parts = {name: part for name, part in section.items() if name in registry.names(group) or isinstance(part, Mapping)}
    shared = {key: value for key, value in section.items() if key not in parts and value != MISSING}
    for name, part in parts.items():
        given = {key: value for key, value in shared.items() if isinstance(part, Mapping) and key in part}
        for key in [key for key in given if f"{group}.{name}.{key}" in typed]:
            del given[key]
        typed.update({f"{group}.{name}.{key}": typed[f"{group}.{key}"] for key in given if f"{group}.{key}" in typed})
        parts[name] = {**part, **given} if given else part
    return parts


def choices(group: str) -> list[str]:
    """Every choice of a group by its present name: registered components and the presets of conf/."""
    registered = registry.names(group) if group in registry.GROUPS else []
    return sorted({*registered, *unregistered(group)})


# --------------------------------------------------------------------------------------------------------------------
# Checking before anything is built
# --------------------------------------------------------------------------------------------------------------------


def check_choices(program: str, options: Callable[[str], Sequence[str]], overrides: Sequence[Override]) -> None:
    """ConfigError for a choice that a group does not have, with the nearest one; ``options`` lists a group's."""
    known, several = groups(program), stacked(program)
    for override in overrides:
        group = override.key_or_group
        if group in known:
            hidden = _former_names(group) | _hidden_choices(program, group)
            allowed = sorted({*options(group)} - hidden)
            _check_choice(override, allowed, several)
        elif group in groups():
            raise _unknown_key(program, group)


def _check_choice(override: Override, allowed: Sequence[str], several: Sequence[str]) -> None:
    group, given = override.key_or_group, override.input_line or ""
    if override.is_delete():
        remedy = f"{group}=none leaves it empty" if group in STACKED else f"choose one by {group}=..."
        raise ConfigError(f"~{group}: the group itself cannot be removed; {remedy}")
    if override.package is not None:
        raise ConfigError(f"{given}: a config has one {group}, at the key {group}; choose it by {group}=...")
    if override.is_add() or override.is_force_add():
        raise ConfigError(f"{given}: {group} is a group of every config; say {given.lstrip('+')}")
    if override.value() is None:
        if "none" in allowed:
            raise ConfigError(f"{given}: say {group}=none")
        raise ConfigError(f"{group}=null: leave it out, or choose from: {', '.join(allowed)}")
    if override.is_sweep_override():
        values = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []
    else:
        value = override.value()
        values = [str(item) for item in value] if isinstance(value, list) else [str(value)]
        if isinstance(value, list) and group in registry.GROUPS.keys() - set(several):
            raise ConfigError(f"{given}: a config has one {group}; choose from: {', '.join(allowed)}")
    for value in values:
        if not value.startswith("[") and value not in allowed and value not in _former_names(group):
            raise ConfigError(
                f"{group}={value}: no such {group}{registry.nearest(value, allowed)}; choose from: {', '.join(allowed)}"
            )


def _hidden_choices(program: str, group: str) -> set[str]:
    """Of what is stored, the choices that a program does not have."""
    return {OWN} if group in OWN_GROUPS and not has_own(program, group) else set()


def _former_names(group: str) -> set[str]:
    known = registry.entries(group).values() if group in registry.GROUPS else ()
    return {name for entry in known for name in entry.formerly}


COMPOSITION_ERRORS = (HydraException, OmegaConfBaseException, ValueError, AssertionError, RecursionError)
"""What Hydra and OmegaConf raise for a config that they cannot compose. Nothing of this package is called there."""


def reason(error: BaseException) -> str:
    """What an error of Hydra or OmegaConf says, in one line."""
    said = str(error) or str(error.__cause__ or "") or type(error).__name__
    # OmegaConf appends the key, and types of its own.
    said, _, key = said.partition("full_key: ")
    where = f"{key.split()[0]}: " if key else ""
    return where + " ".join(said.partition("See https")[0].split())


def resolved(program: str, config: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """A composed config, resolved and checked; ``overrides`` are those that it was composed of."""
    try:
        content: Any = OmegaConf.to_container(config, resolve=True)
    except (OmegaConfBaseException, RecursionError) as error:
        raise ConfigError(reason(error)) from None
    for key in content:
        if key not in _top_keys(program):
            raise _unknown_key(program, str(key))
    # What ${oc.env:NAME} gives is text, though it may stand for a number.
    values = dict(flatten(content))
    written: Any = OmegaConf.to_container(config, resolve=False)
    looked_up = {
        key: values[key] for key, text in flatten(written) if "${" in str(text) and isinstance(values.get(key), str)
    }
    return checked(program, content, {**command_line.typed(overrides), **looked_up})


def _top_keys(program: str) -> set[str]:
    """The nodes of a program's config: its groups of components, and its settings. Presets leave no node."""
    return {*(set(groups(program)) & registry.GROUPS.keys()), *registry.entry("settings", program).parameters}


def _unknown_key(program: str, key: str) -> ConfigError:
    allowed = _top_keys(program)
    note = (
        ". A file of an experiment begins with the line `# @package _global_`"
        if "experiment" in groups(program)
        else ""
    )
    return ConfigError(
        f"{key}: no such key{registry.nearest(key, allowed)}; keys at the top: {', '.join(sorted(allowed))}{note}"
    )


def check_keys(program: str, loader: Any, name: str, overrides: Sequence[str]) -> None:
    """ConfigError for a key that the chosen components don't have; Hydra's message doesn't name the nearest one."""
    known = groups(program)
    parsed = command_line.parse(overrides)
    chosen = [item.input_line for item in parsed if item.key_or_group in known or item.is_hydra_override()]
    try:
        base = OmegaConf.to_container(loader.load_configuration(name, chosen, RunMode.MULTIRUN))
    except COMPOSITION_ERRORS:
        return
    for item in parsed:
        own = item.key_or_group not in known and not item.is_hydra_override()
        if own and not (item.is_add() or item.is_force_add() or item.is_delete()):
            _check_key(base, item.key_or_group, known)


def _check_key(base: Any, key: str, known: Sequence[str]) -> None:
    place: Any = base
    walked: list[str] = []
    for part in key.split("."):
        if not isinstance(place, Mapping) or (walked and not place) or _is_own(place):
            return
        if part not in place:
            where = ".".join(walked)
            if reason := _absent(place, walked).get(part):
                raise ConfigError(f"{key}: {walked[0]}={place['name']} has no such key: {reason}")
            hidden = _hidden_keys(place, walked)
            options = sorted({option for option in place if option not in hidden} | (set() if walked else set(known)))
            close = registry.nearest(part, options)
            raise ConfigError(
                f"{key}: no such key{close}; keys {'of ' + where if where else 'at the top'}: {', '.join(options)}"
            )
        place, walked = place[part], [*walked, part]


def _is_own(section: Mapping[str, Any]) -> bool:
    """Whether a section, or a part of a stack, is what the model was trained with."""
    return OWN in section or section.get("name") == OWN


def _absent(place: Mapping[str, Any], walked: Sequence[str]) -> Mapping[str, str]:
    """The keys that a section's component says not to have, and what to do instead."""
    known = walked and walked[0] in registry.GROUPS and place.get("name") in registry.names(walked[0])
    return registry.entry(walked[0], place["name"]).absent if known else {}


def _hidden_keys(place: Mapping[str, Any], walked: Sequence[str]) -> set[str]:
    """The keys of a section that messages don't list."""
    if not walked or walked[0] not in registry.GROUPS or place.get("name") not in registry.names(walked[0]):
        return {"name"}
    return {"name", *registry.entry(walked[0], place["name"]).renamed}


def checked(program: str, config: Any, typed: Mapping[str, str] = {}) -> dict[str, Any]:
    """The config with every value checked against its signature and converted to its type, by present names.

    ``typed`` holds values as they were typed, by key: 007 is a text where the signature wants one. Raises ConfigError
    that names the key.
    """
    result, typed = dict(config), dict(typed)
    several = stacked(program)
    settings = registry.entry("settings", program)
    top = {key: value for key, value in config.items() if key in settings.parameters}
    try:
        result.update(registry.validate("settings", program, _given(top, settings, typed)))
    except ConfigError as error:
        message = str(error).replace("settings.", "").replace(f" (of settings={program})", "")
        raise ConfigError(message.replace(f"settings={program} needs", "it must be")) from None
    for group in registry.GROUPS.keys() & config.keys() - top.keys():
        if not isinstance(config[group], Mapping):
            raise ConfigError(f"{group}={config[group]!r:.100}: must be one of: {', '.join(choices(group))}")
    result.update({group: {} for group in STACKED if group in groups(program)})
    known = {key: value for key, value in config.items() if key not in top}
    for group in set(several) - set(STACKED):
        # Hydra leaves out a group of which nothing is chosen.
        known[group] = _unshared(known.get(group, {}), typed, group)
        result[group] = {}
        if not known[group]:
            raise ConfigError(f"{group}=[]: must be one or more of: {', '.join(choices(group))}")
    for group, path, section in registry.sections(known, several):
        if not isinstance(section, Mapping):
            raise ConfigError(
                f"{path}={section}: {path} is a component; set its parameters by {path}.PARAMETER=..., "
                f"choose another by {group}=..."
            )
        if section.get("name") == "auto" and group == "features":
            continue
        if has_own(program, group) and (_is_own(section) or (OWN in config[group] and "name" not in section)):
            # Checked where the checkpoint is read.
            if group in STACKED:
                result[group] = {**result[group], path.removeprefix(f"{group}."): dict(section)}
            continue
        if not isinstance(section.get("name"), str):
            raise ConfigError(f"{path} has no component; choose one of: {', '.join(choices(group))}")
        entry = registry.entry(group, section["name"])
        given = _given({key: value for key, value in section.items() if key != "name"}, entry, typed, path)
        values = {"name": entry.name, **registry.validate(group, entry.name, given, path)}
        if group in several:
            key = path.removeprefix(f"{group}.")
            result[group] = {**result[group], entry.name if key in entry.formerly else key: values}
        else:
            result[group] = values
    return result


def _given(
    values: Mapping[str, Any], entry: registry.Entry, typed: Mapping[str, str], path: str | None = None
) -> dict[str, Any]:
    """The values that are set; of a parameter that is given by a former name, not the default beside it."""
    given = {key: value for key, value in values.items() if value != MISSING}
    for old, new in entry.renamed.items():
        if old in given and given.get(new) == _plain(entry.parameters[new].default):
            given.pop(new, None)
    for key, value in given.items():
        text = typed.get(f"{path}.{key}" if path else key)
        parameter = entry.parameters.get(entry.renamed.get(key, key))
        if text is not None and parameter is not None:
            given[key] = _as_typed(parameter.annotation, value, text)
    return given


def _as_typed(annotation: Any, value: Any, text: str) -> Any:
    """``value``, or the text that was typed for it, or what this text is read as, where only that fits."""
    inner = re.fullmatch(r"\[([^][{}'\"\\]*)\]", text)
    listed = [part.strip() for part in inner[1].split(",")] if inner else text
    for item in (value, text, listed, _read(text)):
        try:
            return registry.convert(annotation, item)
        except ValueError:
            continue
    return value


def _read(text: str) -> Any:
    """A text as OmegaConf reads it on a command line; the text itself where it cannot."""
    try:
        read: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
        return read["value"]
    except (OmegaConfBaseException, yaml.YAMLError, ValueError):
        return text
