"""Annealed Langevin dynamics, NCSN's sampler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, Noise
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, Positive, PositiveInt, register
from diffusion_fw.samplers.base import Sampler, Step
from diffusion_fw.samplers.exponential import require_signal
from diffusion_fw.samplers.langevin import langevin_step


@register("sampler", "annealed_langevin")
@dataclass(frozen=True)
class AnnealedLangevin(Sampler):
    """At each noisy level steps_per_level times y + a_i score + sqrt(2 a_i) z, a_i = step_size sigma_i^2 / sigma_L^2.

    Song and Ermon 2020, algorithm 1 (2019, algorithm 1, writes a_i / 2 and sqrt(a_i)), with ``denoise`` its
    last line: x_0 is the prediction at the last level. y = x_t / alpha and sigma = sigma_t / alpha,
    which on NCSN's path are x_t and sigma_t themselves. The defaults are NCSNv2's for CIFAR-10.
    """

    steps_per_level: PositiveInt = 5
    step_size: Positive = 6.2e-6
    denoise: bool = True

    stochastic: ClassVar[bool] = True

    @property
    def evaluations_per_step(self) -> int | None:
        return self.steps_per_level

    def check(self, schedule: Schedule) -> None:
        levels = self.levels(schedule)
        ratio = self.step_size * torch.exp(levels.log_snr[-2]).item()
        if not 0 < ratio < 2:
            raise ConfigError(
                f"sampler.step_size={self.step_size:g}: Langevin steps of {ratio:.3g} times the variance of the last "
                f"noisy level diverge; it must be below {2 * self.step_size / ratio if ratio > 0 else 0:.3g} here, "
                "or choose a schedule or grid with a larger last level"
            )
        require_signal(levels, "where x_t / alpha has no meaning")

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, *, cond: Any = None, noise: Noise = torch.randn_like
    ) -> Iterator[Step]:
        self.check(denoiser.schedule)
        levels = self.levels(denoiser.schedule)
        # The same relative size a_i / sigma_i^2 at every level, written for x_t.
        ratio = self.step_size * torch.exp(levels.log_snr[-2]).item()
        sizes, sigma, times = (ratio * levels.sigma.square()).tolist(), levels.sigma.tolist(), levels.t.tolist()
        scale = (levels.alpha[1:] / levels.alpha[:-1]).tolist()
        for i, level in zip(range(self.steps), levels.unbind(), strict=False):
            for _ in range(self.steps_per_level):
                prediction = denoiser(x, level, cond)
                x = langevin_step(x, prediction.eps, noise(x), sigma[i], sizes[i])
            evaluations = self.steps_per_level
            if self.denoise and sigma[i + 1] == 0:
                prediction = denoiser(x, level, cond)
                x, evaluations = prediction.x0, evaluations + 1
            else:
                x = scale[i] * x
            yield Step(times[i + 1], x, prediction.x0, evaluations)
