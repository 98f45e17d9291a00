"""Annealed Langevin dynamics, NCSN's sampler."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, Noise
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, Positive, Size, register
from diffusion_fw.samplers.methods.exponential import require_signal
from diffusion_fw.samplers.methods.langevin import langevin_step
from diffusion_fw.samplers.sampler import Sampler, Step


def fitting_step(growth: float, steps: int) -> float:
    """eta = a_i / sigma_i^2 for which ``steps`` steps per level bring the variance closest to that level's sigma_i^2.

    For data of one point and sigma_{i-1}^2 = growth sigma_i^2 their quotient is (1 - eta)^{2 steps} (growth - c) + c,
    c = 2 / (2 - eta), and ideally 1: Song & Ermon 2020, proposition 3 and technique 4.
    """
    eta = torch.linspace(0, 1, 10_001, dtype=torch.float64)[1:-1]
    c = 2 / (2 - eta)
    quotient = (1 - eta) ** (2 * steps) * (growth - c) + c
    return float(eta[(quotient - 1).abs().argmin()])


@register("sampler", "annealed_langevin")
@dataclass(frozen=True)
class AnnealedLangevin(Sampler):
    """steps_per_level steps y + a_i score + sqrt(2 a_i) z at each noisy level, a_i = step_size sigma_i^2 / sigma_L^2.

    Song and Ermon 2020, algorithm 1 (2019, algorithm 1, writes a_i / 2 and sqrt(a_i)). ``denoise`` adds its last line:
    x_0 is the prediction at the last level. y = x_t / alpha and sigma = sigma_t / alpha, which are x_t and sigma_t on
    NCSN's path. step_size "auto" is the one of technique 4: 6.2e-6 on the 232 levels of NCSNv2 for CIFAR-10.
    """

    steps_per_level: Size = 5
    step_size: Positive | Literal["auto"] = "auto"
    denoise: bool = True

    stochastic: ClassVar[bool] = True

    @property
    def evaluations_per_step(self) -> int | None:
        return self.steps_per_level

    def check(self, schedule: Schedule) -> None:
        self._relative_step(self.levels(schedule))

    def _relative_step(self, levels: NoiseLevel) -> float:
        """a_i / sigma_i^2, the same at every level; ConfigError where it is too large, or a level has no signal."""
        require_signal(levels, "where x_t / alpha has no meaning")
        if self.step_size == "auto":
            growth = math.exp(float(levels.log_snr[-2] - levels.log_snr[0]) / max(1, self.steps - 1))
            return fitting_step(growth, self.steps_per_level)
        ratio = self.step_size * torch.exp(levels.log_snr[-2]).item()
        if not 0 < ratio < 2:
            raise ConfigError(
                f"sampler.step_size={self.step_size:g}: Langevin steps of {ratio:.3g} times the variance of the last "
                f"noisy level diverge; it must be below {2 * self.step_size / ratio if ratio > 0 else 0:.3g} here, "
                "or choose sampler.step_size=auto, or a schedule or grid with a larger last level"
            )
        return ratio

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, *, cond: Any = None, noise: Noise = torch.randn_like
    ) -> Iterator[Step]:
        levels = self.levels(denoiser.schedule)
        # In terms of x_t = alpha y.
        ratio = self._relative_step(levels)
        sizes, sigma, times = (ratio * levels.sigma.square()).tolist(), levels.sigma.tolist(), levels.t.tolist()
        scale = (levels.alpha[1:] / levels.alpha[:-1]).tolist()
        for i, level in enumerate(levels[:-1]):
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
