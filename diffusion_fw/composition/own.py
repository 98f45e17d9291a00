"""What a program that uses a checkpoint takes from the training: sampler=own, grid=own, guidance=own and the like."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from diffusion_fw import registry
from diffusion_fw.composition.experiment import plain
from diffusion_fw.composition.facts import Config
from diffusion_fw.composition.parts import FIXED_VARIANCE
from diffusion_fw.data.dataset import places
from diffusion_fw.files import with_home
from diffusion_fw.registry import OWN, ConfigError, Entry, may_name_a_file

USUAL: dict[str, dict[str, Any]] = {
    "sampler": {"name": "ddim"},
    "grid": {"name": "uniform"},
    "guidance": {"clip": {"name": "clip"}},
    "variance": FIXED_VARIANCE,
    "condition": {},
    "text_encoder": {"name": "hashing"},
    "features": {"name": "auto"},
    "codec": {"name": "none"},
}
"""What stands for the model's own where its checkpoint names none, as one that was imported may."""

logger = logging.getLogger(__name__)


DRAWING = ("sampler", "grid", "guidance", "variance", "condition", "text_encoder", "codec")
"""The groups that drawing samples takes; the data and the features may be of a plugin that is not here."""


def with_training(config: Config, trained: Config, groups: Collection[str]) -> dict[str, Any]:
    """A program's config, in which ``own`` in these groups is replaced by what the model was trained with.

    A key of the program's section changes that key: sampler=own sampler.steps=10 is the model's own sampler with 10
    steps. Of the data only their place can be changed. Several own guidances stand where ``own`` stands among others.
    Raises ConfigError for a key that the model's own component does not have, with the keys that it has.
    """
    result = dict(config)
    for group in config.keys() & groups:
        section = config[group]
        if registry.GROUPS[group].several:
            result[group] = _stack(group, section, trained)
        elif section.get("name") != OWN:
            _note_differences(group, section, trained)
        elif own := _recorded(group, trained):
            changes = {key: value for key, value in section.items() if key != "name"}
            result[group] = _changed(group, group, own, changes)
        else:
            del result[group]
    return result


def _recorded(group: str, trained: Config) -> dict[str, Any]:
    """The section of a checkpoint's config, or what stands for it; ConfigError for what is no section."""
    recorded = trained.get(group)
    if recorded is None:
        recorded = USUAL.get(group, {})
    if not isinstance(recorded, Mapping) or not all(isinstance(key, str) for key in recorded):
        raise ConfigError(f"{group}={OWN}: the checkpoint's config has no section {group}; choose {group}=...")
    return dict(recorded)


def _stack(group: str, sections: Config, trained: Config) -> dict[str, Any]:
    """The sections of a group of several, with the model's own in the place of ``own``."""
    if OWN not in sections:
        return dict(sections)
    own = _recorded(group, trained)
    changes = {name: section for name, section in sections.items() if "name" not in section}
    for name in changes.keys() - own.keys():
        allowed = ", ".join(own) or "none"
        raise ConfigError(f"{group}.{name}: the model's own {group} is {allowed}; choose {group}=[{OWN},{name}]")
    own = {name: _changed(group, f"{group}.{name}", section, changes.get(name, {})) for name, section in own.items()}
    result: dict[str, Any] = {}
    for name, section in sections.items():
        if name == OWN:
            result |= {key: value for key, value in own.items() if key not in result}
        elif name not in changes:
            result[name] = section
    return result


def _changed(group: str, path: str, own: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The model's own section, complete and checked, with the changes of a command line."""
    if own == USUAL["features"] and not changes:
        return dict(own)
    try:
        if not isinstance(own, Mapping) or not all(isinstance(key, str) for key in own):
            raise ConfigError(f"{path} of the checkpoint's config is no component")
        entry = registry.entry(group, str(own.get("name")))
        given = {key: value for key, value in own.items() if key != "name"}
        if group == "codec" and "path" in given:
            # The file beside the checkpoint, or that of the command line: a checkpoint may be a stranger's.
            given["path"] = None
        if group == "data":
            given = _without_fetching(entry, given, changes, path)
        given = registry.validate(group, entry.name, given, path)
        if group in DRAWING:
            _check_files(entry, given, changes, path)
    except ConfigError as error:
        raise ConfigError(f"{group}={OWN}: {error}; or choose another {group}=...") from None
    if group == "data":
        _check_places(entry.name, changes)
    known = {key: item.default for key, item in entry.parameters.items() if not item.required}
    for old, new in entry.renamed.items():
        if old in changes:
            given.pop(new, None)
    try:
        given = registry.validate(group, entry.name, {**given, **changes}, path)
    except ConfigError as error:
        raise ConfigError(f"{error} ({group}={OWN} is the model's own, {group}={entry.name})") from None
    return {"name": entry.name, **known, **given}


def _check_files(entry: Entry, given: Mapping[str, Any], changes: Mapping[str, Any], path: str) -> None:
    """ConfigError for a value that may name a file: a checkpoint may be a stranger's, and chooses no file here.

    Any free text may, but what a signature marks as a Name.
    """
    for key, parameter in entry.parameters.items():
        chosen = given.get(key) not in (None, parameter.default) and key not in changes
        if chosen and may_name_a_file(parameter.annotation):
            raise ConfigError(f"{path}.{key}={given[key]} is not taken from a checkpoint; give {path}.{key}=...")


def _without_fetching(entry: Any, given: dict[str, Any], changes: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The data's section without what would fetch them: a checkpoint may be a stranger's, and writes nothing.

    Raises ConfigError for data that are known by a name of elsewhere, unless the command line gives it.
    """
    key = getattr(entry.factory, "fetched_by", None)
    if key is None or key in changes or not given.get(key):
        return given
    if isinstance(given[key], bool):
        return {**given, key: False}
    if not Path(with_home(str(given[key]))).exists():
        raise ConfigError(
            f"{path}.{key}={given[key]} is fetched, and is not taken from a checkpoint; give {path}.{key}=..."
        )
    return given


def _check_places(name: str, changes: Mapping[str, Any]) -> None:
    """ConfigError for a change of the model's own data that is not their place, or whether they are fetched."""
    known = places(name)
    if (fetched := getattr(registry.entry("data", name).factory, "fetched_by", None)) and fetched not in known:
        known = (*known, fetched)
    for key in changes.keys() - set(known):
        allowed = " and ".join(f"data.{place}" for place in known)
        taken = f"takes {allowed} alone" if known else "takes no place"
        raise ConfigError(
            f"data.{key}={changes[key]}: the model's own data={name} {taken} here; for other data choose data=NAME"
        )


def _note_differences(group: str, section: Config, trained: Config) -> None:
    """A warning where a component is chosen that is the model's own, but with a default in which it differs."""
    own = trained.get(group, USUAL.get(group))
    if group == "data" or not isinstance(own, Mapping) or own.get("name") != section["name"]:
        return
    if section["name"] not in registry.names(group):
        # features=auto has no settings.
        return
    entry = registry.entry(group, section["name"])
    defaults = {key: item.default for key, item in entry.parameters.items()}
    differing = {
        key: own[key]
        for key, value in defaults.items()
        if key in own and section.get(key) == value and plain(own[key]) != plain(value)
    }
    if differing:
        logger.warning(
            "%s=%s has %s, which is its default; the model's own has %s, as %s=%s would",
            group,
            section["name"],
            ", ".join(f"{key}={section[key]}" for key in differing),
            ", ".join(f"{key}={value}" for key, value in differing.items()),
            group,
            OWN,
        )
