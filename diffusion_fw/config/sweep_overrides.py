"""What the overrides of a sweep need, checked before anything runs: packages, `-m`, intervals with two ends."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override
from omegaconf import DictConfig, OmegaConf

from diffusion_fw.config import command_line
from diffusion_fw.registry import ConfigError, nearest

REQUIRED = {
    ("sweep", "optuna"): ("optuna", "optuna"),
    ("launcher", "joblib"): ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    ("launcher", "submitit_local"): ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    ("launcher", "submitit_slurm"): ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    ("launcher", "ray"): ("hydra_plugins.hydra_ray_launcher", "ray"),
}
"""The module that a choice needs, and the extra of this package that installs it."""


HYDRA_GROUPS = {"sweeper": "sweep", "launcher": "launcher"}
"""Hydra's own groups, and ours that choose in them, with settings that fit."""


def check_words(overrides: Sequence[Override], options: Callable[[str], Sequence[str]]) -> None:
    """ConfigError for a sweeper or launcher that is chosen by another word than ours; ``options`` lists a group's."""
    for override in overrides:
        hydra, _, part = override.key_or_group.replace("/", ".").partition(".")
        if hydra != "hydra" or part not in HYDRA_GROUPS or override.value() is None:
            continue
        given, value, group = override.input_line, override.value(), HYDRA_GROUPS[part]
        if "." in override.key_or_group:
            if isinstance(value, str):
                raise ConfigError(f"{given}: hydra.{part} is a section of settings; say {group}={value}")
        elif value not in options(f"hydra/{part}"):
            known = options(group)
            if value not in known:
                raise ConfigError(
                    f"{given}: no such {part}{nearest(str(value), known)}; say {group}=..., one of: {', '.join(known)}"
                )
            raise ConfigError(f"{given}: say {group}={value}")


def check_installed(overrides: Sequence[Override]) -> None:
    """ConfigError for a sweep or launcher that needs a package which is not installed."""
    for override in overrides:
        group, given = override.key_or_group, override.input_line
        if group not in HYDRA_GROUPS.values():
            continue
        if override.is_sweep_override():
            raise ConfigError(f"{given}: a sweep has one {group}; give one of the values")
        module, extra = REQUIRED.get((group, str(override.value())), ("diffusion_fw", ""))
        if not _installed(module):
            raise ConfigError(f"{given} needs a package that is not installed: pip install 'diffusion-fw[{extra}]'")


def with_params(hydra: DictConfig, overrides: Sequence[Override], loader: Any) -> list[Override]:
    """The overrides of a sweep: first those that its file keeps in hydra.sweeper.params, unless one is given anew."""
    given = {override.get_key_element() for override in overrides}
    parsed = command_line.parse(kept_params(hydra.sweeper), loader)
    for item in parsed:
        if item.is_hydra_override():
            raise ConfigError(f"hydra.sweeper.params: {item.input_line}: settings of Hydra cannot be swept")
        if item.package is not None:
            raise ConfigError(f"hydra.sweeper.params: {item.input_line}: a choice cannot be put elsewhere by @ there")
    return [*(item for item in parsed if item.get_key_element() not in given), *overrides]


def sweep_overrides(config: DictConfig, arguments: Sequence[str], loader: Any) -> list[Override]:
    """What a sweeper varies and fixes: the overrides that Hydra passes to it, and those that a file keeps."""
    searching = loader
    if own := OmegaConf.select(config, "hydra.overrides.hydra"):
        searching = command_line.Searching(loader, config.hydra.job.config_name, list(own))
    return with_params(config.hydra, command_line.parse(arguments, searching), searching)


def kept_params(sweeper: Any) -> list[str]:
    """The overrides that hydra.sweeper.params holds: of a mapping key: values, or of a list of key=values."""
    settings: Any = OmegaConf.to_container(sweeper)
    params = (settings or {}).get("params")
    if isinstance(params, list):
        return [str(word) for word in params]
    return [f"{key}={_spelled(value)}" for key, value in (params or {}).items()]


def _spelled(value: Any) -> str:
    """A value of a file as an override has it: null, true, [a,b]; a text as it stands, since it lists the values."""
    if isinstance(value, str):
        return value
    return json.dumps(value)


def check_sweep_overrides(overrides: Sequence[Override], hydra: DictConfig, *, multirun: bool) -> None:
    """ConfigError for a sweep that cannot start, and for an interval without a sweep that draws from it."""
    chosen, kept = hydra.runtime.choices, kept_params(hydra.sweeper)
    for override in overrides:
        if not multirun and (override.key_or_group, str(override.value())) in REQUIRED:
            raise ConfigError(f"{override.input_line} is for sweeps; add -m, or leave it out to run once, here")
    if not multirun and kept:
        raise ConfigError(f"hydra.sweeper.params keeps a sweep over {', '.join(kept)}: add -m or hydra.mode=MULTIRUN")
    searched = chosen.get("hydra/sweeper") not in ("diffusion_fw_grid", "basic")
    swept = [override for override in overrides if override.is_sweep_override()]
    for override in swept:
        if not multirun:
            remedy = command_line.remedy(override.input_line or "") if "." in override.key_or_group else ""
            raise ConfigError(f"{override.input_line} lists several values, which is a sweep: add -m{remedy}")
        if override.is_discrete_sweep() and not list(override.sweep_string_iterator()):
            raise ConfigError(f"{override.input_line} has no values")
        if isinstance(interval := override.value(), IntervalSweep):
            _check_interval(override, interval, searched)
    if multirun and not swept and chosen.get("hydra/sweeper") == "diffusion_fw_optuna":
        raise ConfigError(
            "sweep=optuna has nothing to vary; add values, such as schedule=linear,cosine, or an interval, such as "
            "'optimizer.lr=tag(log,interval(1e-4,1e-2))'"
        )


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        # The package above it is missing.
        return False


def _check_interval(override: Override, interval: IntervalSweep, searched: bool) -> None:
    given, start, end = override.input_line, interval.start, interval.end
    if not searched:
        raise ConfigError(f"{given}: only sweep=optuna draws from an interval; add it, or list values: a,b,c")
    if start is None or end is None or not start < end:
        raise ConfigError(f"{given}: the interval's start must be below its end")
    if "log" in interval.tags and start <= 0:
        raise ConfigError(f"{given}: a logarithmic interval must start above 0")
