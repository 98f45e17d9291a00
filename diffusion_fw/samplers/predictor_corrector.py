"""Predictor-corrector sampling: a step of the reverse SDE, then Langevin steps at the new level."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, Noise
from diffusion_fw.process.level import per_example
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.process.transition import posterior
from diffusion_fw.registry import ConfigError, NonNegativeInt, Positive, register
from diffusion_fw.samplers.euler_maruyama import EulerMaruyama
from diffusion_fw.samplers.methods.langevin import langevin_step
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep, Stage
from diffusion_fw.samplers.methods.reverse_sde import reverse_steps
from diffusion_fw.samplers.reverse_diffusion import ReverseDiffusion
from diffusion_fw.samplers.sampler import Sampler, Step


@dataclass(frozen=True)
class Ancestral(LinearSampler):
    """A draw from q(x_s | x_t, x0): DDPM's step with the posterior's variance (Song et al. 2021, appendix F)."""

    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        levels = self.levels(schedule)
        start, end = levels.steps()
        transition = posterior(start, end)
        c_x = transition.c_xt + transition.c_x0 / start.alpha
        c_eps = -transition.c_x0 * start.sigma / start.alpha
        return reverse_steps(levels, c_x, c_eps, transition.var_small.sqrt())


@dataclass(frozen=True)
class Stay(LinearSampler):
    """x_s = x_t: no predictor, so that the corrector alone follows the levels."""

    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        levels = self.levels(schedule)
        zero = torch.zeros_like(levels.t[1:])
        *steps, last = reverse_steps(levels, zero + 1, zero, zero)
        return [*(step._replace(stages=(Stage(None, 1.0, ()),)) for step in steps), last]


PREDICTORS: dict[str, type[LinearSampler]] = {
    "euler_maruyama": EulerMaruyama,
    "reverse_diffusion": ReverseDiffusion,
    "ancestral": Ancestral,
    "none": Stay,
}


@register("sampler", "predictor_corrector")
@dataclass(frozen=True)
class PredictorCorrector(Sampler):
    """A predictor's step to each level, then corrector_steps of x + size score + sqrt(2 size) z there.

    Song et al. 2021, algorithms 1, 4 and 5: size = 2 a (snr |z| / |score|)^2, a = alpha_t^2 / alpha_s^2 of the next
    step (1 - beta on DDPM's table, 1 on the variance-exploding path). The paper takes the norms' means over the
    batch, by which a sample depends on its neighbours. Here they are ``expected``: |z| = sqrt(d) and |score| =
    sqrt(d) / sigma, so size = 2 a (snr sigma)^2, or those of each ``example``; all three agree for images, where the
    norms concentrate, but a norm of few dimensions may vanish. The last step gives the predictor's x0, uncorrected.
    """

    predictor: Literal["euler_maruyama", "reverse_diffusion", "ancestral", "none"] = "reverse_diffusion"
    corrector_steps: NonNegativeInt = 1
    snr: Positive = 0.16
    norm: Literal["expected", "example"] = "expected"

    stochastic: ClassVar[bool] = True

    @property
    def evaluations_per_step(self) -> int | None:
        return (self.predictor != "none") + self.corrector_steps

    def __post_init__(self) -> None:
        if self.predictor == "none" and self.corrector_steps == 0:
            raise ConfigError(
                "sampler.predictor=none needs sampler.corrector_steps of 1 or more; raise one or set the other"
            )

    def _predictor(self) -> LinearSampler:
        return PREDICTORS[self.predictor](self.steps, self.grid)

    def check(self, schedule: Schedule) -> None:
        self._predictor().check(schedule)

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, *, cond: Any = None, noise: Noise = torch.randn_like
    ) -> Iterator[Step]:
        levels = self.levels(denoiser.schedule)
        predictor = self._predictor()
        plan = predictor.checked_plan(denoiser.schedule)
        reached = levels[1:]
        following = torch.cat([reached.alpha[1:], reached.alpha[-1:]])
        scales = (2 * (self.snr * reached.sigma * reached.alpha / following).square()).tolist()
        rows = zip(plan, reached.unbind(), reached.sigma.tolist(), scales, strict=True)
        for planned, level, sigma, size in rows:
            step = next(predictor.run([planned], denoiser, x, cond, noise))
            x, x0 = step.x, step.x0
            corrections = self.corrector_steps if sigma > 0 else 0
            for _ in range(corrections):
                prediction = denoiser(x, level, cond)
                z = noise(x)
                x = langevin_step(x, prediction.eps, z, sigma, self._size(size, prediction.eps, z))
                x0 = prediction.x0
            yield Step(step.t, x, x0, step.evaluations + corrections)

    def _size(self, size: float, eps: Tensor, z: Tensor) -> float | Tensor:
        if self.norm == "expected":
            return size
        squared = size * z.flatten(1).square().sum(1) / eps.flatten(1).square().sum(1)
        return per_example(squared, z)
