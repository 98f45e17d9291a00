"""Published constants beside ours: each figure of published.json, measured on the components of this package."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.likelihood import bits_per_dim
from diffusion_fw.oracles import Gaussian
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.process.transition import Transition, posterior
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.annealed_langevin import fitting_step

Component = dict[str, Any]
"""A name and parameters, as in published.json."""


@dataclass(frozen=True)
class Comparison:
    """One published figure, or a list of them, and ours; ``passed`` if they agree in every printed digit."""

    section: str
    what: str
    published: str
    ours: str
    source: str
    passed: bool


def _build(group: str, component: Component, **runtime: Any) -> Any:
    parameters = {key: value for key, value in component.items() if key != "name"}
    return registry.build(group, component["name"], **parameters, **runtime)


def _rows(schedule: Component, rows: Sequence[int]) -> NoiseLevel:
    """The levels of a table's rows k; DDPM's index is k - 1, and negative numbers count from the end."""
    table = _build("schedule", schedule).table
    result: NoiseLevel = table[list(rows)]
    return result


def _transition(schedule: Component, rows: Sequence[int]) -> Transition:
    """q(x_{k-1} | x_k, x_0) at rows k > 0."""
    return posterior(_rows(schedule, rows), _rows(schedule, [row - 1 for row in rows]))


def _level(schedule: Component, times: Sequence[float]) -> NoiseLevel:
    level: NoiseLevel = _build("schedule", schedule)(torch.tensor(times, dtype=torch.float64))
    return level


def _gaussian(std: float) -> Gaussian:
    return Gaussian(torch.zeros(1, dtype=torch.float64), std)


def _flow_error(schedule: Component, sampler: Component, grid: Component, steps: Sequence[int]) -> list[float]:
    """|x_0 - exact| of the sampler on data N(0, 0.5^2), from 2.5 sigma at the grid's first level."""
    path: Schedule = _build("schedule", schedule)
    data, times = _gaussian(0.5), _build("grid", grid)
    errors = []
    for count in steps:
        begin, end = path(times(count, path)[[0, -1]]).unbind()
        x = torch.full((1, 1), 2.5, dtype=torch.float64) * begin.sigma
        found = _build("sampler", {**sampler, "steps": count}, grid=times)(data.denoiser(path), x)
        errors.append((found - data.flow(x, begin, end)).abs().item())
    return errors


def _evaluations(schedule: Component, sampler: Component, grid: Component) -> list[int]:
    """How often the sampler evaluates the denoiser."""
    path: Schedule = _build("schedule", schedule)
    built = _build("sampler", sampler, grid=_build("grid", grid))
    x = torch.ones(1, 1, dtype=torch.float64)
    return [sum(step.evaluations for step in built.trajectory(_gaussian(0.5).denoiser(path), x))]


def _indices(schedule: Component, grid: Component, steps: int, positions: Sequence[int]) -> list[Any]:
    """DDPM's indices in the grid, increasing, at some positions of the list; "error" if it refuses."""
    path: Schedule = _build("schedule", schedule)
    try:
        times = _build("grid", grid)(steps, path)[:-1].flip(0)
    except ConfigError:
        return ["error"]
    visited = ((times / path.t_min).round().long() - 1).tolist()
    return [visited[position] for position in positions]


def _respaced_betas(schedule: Component, grid: Component, steps: int, positions: Sequence[int]) -> Tensor:
    """1 - alpha_t^2 / alpha_s^2 between neighbouring times of the grid, from data to noise."""
    path: Schedule = _build("schedule", schedule)
    level = path(_build("grid", grid)(steps, path).flip(0))
    return posterior(level[1:], level[:-1]).var_large[list(positions)]


def _grid_sigmas(schedule: Component, grid: Component, steps: int, positions: Sequence[int]) -> Tensor:
    """sigma at some of the grid's times, from noise to data."""
    path: Schedule = _build("schedule", schedule)
    return path(_build("grid", grid)(steps, path)).sigma[list(positions)]


def _terminal_bits(schedule: Component, squares: Sequence[float]) -> Tensor:
    """L_T = KL(q(x_T | x_0) | N(0, I)) in bits per dimension, for dimensions with these values of x_0^2."""
    level = _rows(schedule, [-1])
    # 1 - sigma^2 = alpha^2, so that the two terms without x_0 cancel before they are rounded.
    signal = level.alpha.square()
    rest = -signal - torch.log1p(-signal)
    return (signal * torch.tensor(squares, dtype=torch.float64) + rest) / 2 / math.log(2)


def _irreducible_eps(schedule: Component, stds: Sequence[float]) -> list[float]:
    """The irreducible mean squared error of eps on data N(0, s^2), over uniform rows of a table."""
    table: NoiseLevel = _build("schedule", schedule).table[1:]
    return [((table.alpha / table.sigma).square() * _gaussian(s).irreducible(table)).mean().item() for s in stds]


def _irreducible_edm(stds: Sequence[float], count: int = 1 << 17) -> list[float]:
    """The irreducible loss of EDM's objective on data N(0, s^2) over its own levels, by the midpoint rule."""
    u = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    sampler: Any = registry.build("time_sampler", "log_normal")
    weighting = registry.build("weighting", "edm")
    log_sigma = sampler.mean + sampler.std * torch.special.ndtri(u)
    sigma = log_sigma.exp()
    level = NoiseLevel(sigma, torch.ones_like(sigma), sigma, -2 * log_sigma)
    weight = weighting(level)
    errors = ((s * sigma / torch.hypot(torch.tensor(s, dtype=torch.float64), sigma)).square() for s in stds)
    return [(weight * error).mean().item() for error in errors]


def _parameters(
    network: Component,
    shape: Sequence[int],
    outputs: int = 1,
    classes: int = 0,
    without: str | None = None,
    objective: Component | None = None,
) -> list[int]:
    """The number of trained parameters, less one row of the embedding ``without``, and with those of an objective."""
    facts = {"shape": tuple(shape), "outputs": outputs, "num_classes": classes}
    wanted = registry.entry("network", network["name"]).runtime
    with torch.device("meta"):
        built = [_build("network", network, **{key: value for key, value in facts.items() if key in wanted})]
        if objective is not None:
            built.append(_build("objective", objective, weighting=registry.build("weighting", "native")))
    row = 0 if without is None else built[0].get_parameter(without).shape[1]
    return [sum(parameter.numel() for item in built for parameter in item.parameters()) - row]


def _langevin_steps(sigma_max: float, sigma_min: float, levels: int) -> list[float]:
    """Annealed Langevin's default steps per level, and its automatic step size on geometric sigmas."""
    (steps,) = _defaults("sampler", "annealed_langevin", ["steps_per_level"])
    growth = (sigma_max / sigma_min) ** (2 / (levels - 1))
    return [steps, fitting_step(growth, steps) * sigma_min**2]


def _defaults(group: str, name: str, keys: Sequence[str]) -> list[Any]:
    """The defaults of some parameters."""
    return [registry.entry(group, name).parameters[key].default for key in keys]


MEASURES: dict[str, Callable[..., Any]] = {
    "langevin_steps": _langevin_steps,
    "alpha_bar": lambda **place: _rows(**place).alpha.square(),
    "alpha": lambda **place: _rows(**place).alpha,
    "sigma": lambda **place: _rows(**place).sigma,
    "log_snr": lambda **place: _rows(**place).log_snr,
    "sigma_over_alpha": lambda **place: torch.exp(-_rows(**place).log_snr / 2),
    "beta": lambda **place: _transition(**place).var_large,
    "posterior_variance": lambda **place: _transition(**place).var_small,
    "posterior_c_x0": lambda **place: _transition(**place).c_x0,
    "posterior_c_xt": lambda **place: _transition(**place).c_xt,
    "ratio_of_sigmas": lambda schedule: [float(_rows(schedule, [2]).sigma / _rows(schedule, [1]).sigma)],
    "alpha_at": lambda **place: _level(**place).alpha,
    "sigma_at": lambda **place: _level(**place).sigma,
    "sigma_over_alpha_at": lambda **place: torch.exp(-_level(**place).log_snr / 2),
    "indices": _indices,
    "respaced_betas": _respaced_betas,
    "grid_sigmas": _grid_sigmas,
    "evaluations": _evaluations,
    "flow_error": _flow_error,
    "terminal_bits": _terminal_bits,
    "bits_offset": lambda widths: [
        float(bits_per_dim(torch.zeros((), dtype=torch.float64), 1, width=width)) for width in widths
    ],
    "irreducible_eps": _irreducible_eps,
    "irreducible_edm": _irreducible_edm,
    "parameters": _parameters,
    "default": _defaults,
}
"""What can be measured, by its name in published.json."""


def entries() -> list[dict[str, Any]]:
    """published.json: section, what, published figures as printed, measure, its arguments, source."""
    text = resources.files("diffusion_fw.checking").joinpath("published.json").read_text(encoding="utf-8")
    found: list[dict[str, Any]] = json.loads(text)
    return found


def agrees(published: str, ours: Any, tolerance: float | None = None) -> bool:
    """Whether a number agrees to one unit of the last printed digit, or to a relative tolerance; a word if equal."""
    try:
        printed = Decimal(published)
    except ArithmeticError:
        return published == str(ours)
    unit = 10.0 ** int(printed.as_tuple().exponent)
    exact = "." not in published and "e" not in published
    allowed = 0.0 if exact else unit if tolerance is None else tolerance * abs(float(printed))
    return abs(float(ours) - float(printed)) <= allowed


def compare(entry: dict[str, Any]) -> Comparison:
    """A published figure beside ours."""
    ours = MEASURES[entry["measure"]](**entry["arguments"])
    ours = ours.tolist() if isinstance(ours, Tensor) else list(ours)
    published = entry["published"]
    tolerance = entry.get("tolerance")
    passed = len(ours) == len(published) and all(
        agrees(theirs, mine, tolerance) for theirs, mine in zip(published, ours, strict=False)
    )
    shown = [f"{value:.10g}" if isinstance(value, float) else str(value) for value in ours]
    printed = ", ".join(published)
    return Comparison(entry["section"], entry["what"], printed, ", ".join(shown), entry["source"], passed)


def comparisons() -> Iterator[Comparison]:
    """Every published figure beside ours."""
    return map(compare, entries())
