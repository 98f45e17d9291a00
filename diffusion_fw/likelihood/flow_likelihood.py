"""The log-density of a model by its probability flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, Noise
from diffusion_fw.likelihood.integrate import integrate
from diffusion_fw.likelihood.probability_flow import angle, radius, require_every_level, velocity
from diffusion_fw.process.level import expand
from diffusion_fw.registry import ConfigError


@dataclass(frozen=True)
class Likelihood:
    """log p(x) (B,) in nats, float64, and the number of evaluations of the denoiser."""

    nats: Tensor
    evaluations: int


def evaluate(
    denoiser: Denoiser,
    x: Tensor,
    *,
    cond: Any = None,
    prior: Callable[[Tensor], Tensor] | None = None,
    divergence: Literal["exact", "rademacher", "gaussian"] = "exact",
    probes: int = 1,
    noise: Noise = torch.randn_like,
    atol: float = 1e-6,
    rtol: float = 1e-6,
) -> Likelihood:
    """log p_0(x) = log p_T(x_T) + integral of the divergence of the flow from x (B, *shape) to x_T.

    Song et al. 2021, equation 39, with u = x / r and the angle theta = atan(sigma / alpha): d log p / dtheta =
    -div(du/dtheta). x is taken at the schedule's smallest noisy time, t_min; nothing is added for the step from there
    to 0. x_T has the log-density ``prior``, by default that of N(0, sigma_T^2), from which samplers start. If
    alpha_T > 0 this is not exactly the density of noised data: the result is the likelihood of the model.

    divergence "exact" takes as many backward passes as x has dimensions. "rademacher" and "gaussian" estimate it
    without bias (Hutchinson 1990; Grathwohl et al. 2019) by the mean over ``probes`` draws from ``noise``, the same
    along the whole path. The error in nats is of the order of atol + rtol |log p|.
    Raises ConfigError for another divergence, probes < 1, and a schedule whose log-SNR has a jump.
    """
    directions = _directions(x, divergence, probes, noise)
    schedule = denoiser.schedule
    require_every_level(schedule, "likelihood")
    levels = schedule(torch.tensor([schedule.t_min, 1.0], dtype=torch.float64))
    theta, radii = angle(levels).tolist(), radius(levels)
    flow = velocity(denoiser, cond)
    size = x[0].numel()

    def derivative(s: Tensor, state: Tensor) -> Tensor:
        with torch.enable_grad():
            u = state[:, :size].view_as(x).detach().requires_grad_()
            slope = flow(s, u)
            traces = []
            for index, direction in enumerate(directions):
                last = index == len(directions) - 1
                (product,) = torch.autograd.grad(slope, u, direction, retain_graph=not last)
                traces.append((product * direction).flatten(1).sum(1))
        return torch.cat([slope.detach().flatten(1), torch.stack(traces).sum(0)[:, None]], dim=1)

    start = torch.cat([(x / expand(radii[0], x)).flatten(1), x.new_zeros(len(x), 1)], dim=1)
    solution = integrate(derivative, start, *theta, atol=atol, rtol=rtol)
    last = solution.x.double()
    x_T = float(radii[1]) * last[:, :size].view_as(x)
    final = _normal(x_T, float(levels.sigma[1])) if prior is None else prior(x_T)
    change_of_scale = size * math.log(float(radii[1] / radii[0]))
    return Likelihood(final + last[:, size] + change_of_scale, solution.evaluations)


def log_prob(denoiser: Denoiser, x: Tensor, **options: Any) -> Tensor:
    """log p(x) (B,) in nats; the options of ``evaluate``."""
    return evaluate(denoiser, x, **options).nats


def bits_per_dim(nats: Tensor, dimensions: int, *, levels: int = 256, width: float = 2.0) -> Tensor:
    """Bits per dimension of discrete data from the log-density of its dequantised values.

    -nats / (D log 2) + log2(levels / width) for ``levels`` values on an interval of this width: 7 bits are added for
    bytes in [-1, 1], 8 for bytes in [0, 1] (Theis et al. 2016, equation 4).
    """
    return -nats / (dimensions * math.log(2)) + math.log2(levels / width)


def dequantise(pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """uint8 pixels p as (p + u) / 128 - 1, u uniform on [0, 1): in [-1, 1), with a density that bounds p's mass."""
    # u is a multiple of 2^-15: float32 holds p + u exactly and never rounds it up to p + 1.
    u = (torch.randint(0, 2**14, pixels.shape, generator=generator).to(pixels.device) + 0.5) / 2**14
    return (pixels.float() + u) / 128 - 1


def _normal(x: Tensor, std: float) -> Tensor:
    """The log-density (B,) of N(0, std^2 I)."""
    return -((x / std).square() / 2 + math.log(std) + math.log(2 * math.pi) / 2).flatten(1).sum(1)


def _directions(x: Tensor, divergence: str, probes: int, noise: Noise) -> list[Tensor]:
    """Vectors v like x for which the sum of v^T J v is the trace of J, exactly or in expectation."""
    if divergence == "exact":
        basis = torch.eye(x[0].numel(), dtype=x.dtype, device=x.device)
        return [row.view_as(x[0]).expand_as(x) for row in basis]
    draws: dict[str, Callable[[Tensor], Tensor]] = {
        "rademacher": lambda z: torch.where(z < 0, -1.0, 1.0).to(z),
        "gaussian": lambda z: z,
    }
    if divergence not in draws:
        raise ConfigError(f"divergence={divergence!r}: must be one of exact, {', '.join(draws)}")
    if probes < 1:
        raise ConfigError(f"probes={probes}: must be at least 1")
    return [draws[divergence](noise(x)) / probes**0.5 for _ in range(probes)]
