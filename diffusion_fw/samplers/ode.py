"""The probability flow by an adaptive integrator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, Noise
from diffusion_fw.likelihood.integrate import integrate
from diffusion_fw.likelihood.probability_flow import angle, radius, require_every_level, velocity
from diffusion_fw.process.level import expand
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import Positive, Size, register
from diffusion_fw.samplers.methods.inversion import leave_data, warn_without_signal
from diffusion_fw.samplers.sampler import Sampler, Step


@register("sampler", "ode")
@dataclass(frozen=True)
class ODE(Sampler):
    """d(x / r)/dtheta = cos(theta) eps - sin(theta) x0: the probability flow of any path, r = |(alpha, sigma)|.

    Song et al. 2021, section 4.3, in the angle theta = atan(sigma / alpha), where the flow is the velocity of v
    prediction (Salimans and Ho 2022, appendix D). Dormand and Prince's pair integrates it to the tolerance from
    the grid's first time to the schedule's smallest noisy time, each example with its own step sizes; x_0 is the
    prediction there. The other times of the grid only choose the Steps that are yielded.
    """

    steps: Size = 1
    atol: Positive = 1e-5
    rtol: Positive = 1e-5
    max_steps: Size = 10_000

    evaluations_per_step: ClassVar[int | None] = None

    def check(self, schedule: Schedule) -> None:
        super().check(schedule)
        require_every_level(schedule, "sampler=ode")

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, *, cond: Any = None, noise: Noise = torch.randn_like
    ) -> Iterator[Step]:
        schedule = denoiser.schedule
        self.check(schedule)
        derivative, step = velocity(denoiser, cond), None
        times = self.grid(self.steps, schedule)
        # The flow ends at the smallest noisy time: below it the prediction is x_0.
        levels = schedule(times.clamp(min=schedule.t_min))
        theta, radii, t = angle(levels), radius(levels), times.tolist()
        u = x / expand(radii[0], x)
        for i in range(self.steps):
            solution = integrate(
                derivative,
                u,
                theta[i].item(),
                theta[i + 1].item(),
                atol=self.atol,
                rtol=self.rtol,
                first_step=step,
                max_steps=self.max_steps,
            )
            u, step = solution.x, solution.step
            x0 = expand(theta[i + 1].cos(), u) * u - expand(theta[i + 1].sin(), u) * solution.slope
            x = x0 if t[i + 1] == 0 else expand(radii[i + 1], u) * u
            yield Step(t[i + 1], x, x0, solution.evaluations)

    @torch.no_grad()
    def encode(self, denoiser: Denoiser, x: Tensor, *, cond: Any = None) -> Tensor:
        """x at the grid's first time from x = x_0 (B, ...), by the same flow backwards."""
        schedule = denoiser.schedule
        self.check(schedule)
        ends = torch.stack([torch.full((), schedule.t_min, dtype=torch.float64), self.grid(self.steps, schedule)[0]])
        levels = schedule(ends)
        warn_without_signal(levels[1])
        x = leave_data(denoiser, x, levels[0], cond) / expand(radius(levels)[0], x)
        solution = integrate(
            velocity(denoiser, cond),
            x,
            *angle(levels).tolist(),
            atol=self.atol,
            rtol=self.rtol,
            max_steps=self.max_steps,
        )
        return expand(radius(levels)[1], x) * solution.x
