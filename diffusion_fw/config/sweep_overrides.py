"""What the overrides of a sweep need, checked before anything runs: packages, `-m`, intervals with two ends."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from hydra.core.override_parser.types import IntervalSweep, Override

from diffusion_fw.config import command_line
from diffusion_fw.registry import ConfigError

REQUIRED = {
    ("sweep", "optuna"): ("optuna", "optuna"),
    ("launcher", "joblib"): ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    ("launcher", "submitit_local"): ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    ("launcher", "submitit_slurm"): ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    ("launcher", "ray"): ("hydra_plugins.hydra_ray_launcher", "ray"),
}
"""The module that a choice needs, and the extra of this package that installs it."""


def check_sweep_overrides(overrides: Sequence[Override], *, multirun: bool) -> None:
    """ConfigError for a sweep or launcher that cannot start, and for an interval without a sweep that draws from it."""
    for override in overrides:
        if override.key_or_group in ("sweep", "launcher"):
            _check_choice(override, multirun)
    searched = any(item.key_or_group in ("sweep", "hydra/sweeper") and item.value() != "basic" for item in overrides)
    swept = [override for override in overrides if override.is_sweep_override()]
    for override in swept:
        if not multirun:
            remedy = command_line.remedy(override.input_line or "") if "." in override.key_or_group else ""
            raise ConfigError(f"{override.input_line} lists several values, which is a sweep: add -m{remedy}")
        if override.is_discrete_sweep() and not list(override.sweep_string_iterator()):
            raise ConfigError(f"{override.input_line} has no values")
        if isinstance(interval := override.value(), IntervalSweep):
            _check_interval(override, interval, searched)
    if multirun and not swept and any((o.key_or_group, o.value()) == ("sweep", "optuna") for o in overrides):
        raise ConfigError(
            "sweep=optuna has nothing to vary; add values, such as schedule=linear,cosine, or an interval, such as "
            "'optimizer.lr=tag(log,interval(1e-4,1e-2))'"
        )


def _check_choice(override: Override, multirun: bool) -> None:
    given = override.input_line
    if override.is_sweep_override():
        raise ConfigError(f"{given}: a sweep has one {override.key_or_group}; give one of the values")
    choice = (override.key_or_group, str(override.value()))
    module, extra = REQUIRED.get(choice, ("diffusion_fw", ""))
    if not _installed(module):
        raise ConfigError(f"{given} needs a package that is not installed: pip install 'diffusion-fw[{extra}]'")
    if not multirun and choice in REQUIRED:
        raise ConfigError(f"{given} is for sweeps; add -m, or leave it out to run once, here")


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
