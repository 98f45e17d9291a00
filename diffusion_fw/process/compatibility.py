"""Whether a parameterization determines x_0 at every level of a schedule that will be used, found by arithmetic."""

from __future__ import annotations

from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Parameterization
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError


def fitting_parameterizations(level: NoiseLevel) -> list[str]:
    """The registered parameterizations that are solvable at all of the levels, with their default parameters."""
    return [
        name
        for name, entry in registry.entries("parameterization").items()
        if not any(parameter.required for parameter in entry.parameters.values())
        and bool(registry.build("parameterization", name).solvable(level).all())
    ]


def check_parameterization(schedule: Schedule, parameterization: Parameterization, times: Tensor) -> None:
    """Raise ConfigError if the parameterization does not determine x_0 at one of the noisy times (those above 0).

    epsilon on a schedule of zero terminal SNR is the known case (Lin et al. 2024, section 3.2).
    """
    level = schedule(times[times > 0])
    wrong = ~parameterization.solvable(level)
    if not bool(wrong.any()):
        return
    first = level[int(wrong.nonzero()[0])]
    raise ConfigError(
        f"parameterization={_name('parameterization', parameterization)} does not determine x_0 at t = "
        f"{first.t.item():g}, where schedule={_name('schedule', schedule)} has alpha = {first.alpha.item():g} and "
        f"sigma = {first.sigma.item():g}; choose parameterization={'|'.join(fitting_parameterizations(level))}, "
        "another schedule, or a grid without that time, such as grid=leading for t = 1"
    )


def _name(group: str, component: object) -> str:
    names = [name for name, entry in registry.entries(group).items() if entry.factory is type(component)]
    return names[0] if names else type(component).__name__
