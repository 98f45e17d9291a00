"""DDIM: a family of samplers from a deterministic map to ancestral sampling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, Noise
from diffusion_fw.process.level import combine
from diffusion_fw.process.transition import posterior
from diffusion_fw.registry import ConfigError, Fraction, register
from diffusion_fw.samplers.methods.inversion import leave_data, warn_without_signal
from diffusion_fw.samplers.sampler import Sampler, Step


@register("sampler", "ddim")
@dataclass(frozen=True)
class DDIM(Sampler):
    """x_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 var_small) eps + eta sqrt(var_small) z.

    Song et al. 2020, equations 12 and 16: eta = 0 is deterministic, eta = 1 has DDPM's posterior variance. The paper's
    sigma-hat, the mean of eta = 1 with noise of var_large, is sampler=ddpm variance=large (with guidance=[clip], as in
    its code).
    """

    eta: Fraction = 0.0

    repeats_times: ClassVar[bool] = True

    @property
    def order(self) -> int | None:
        return 1 if self.eta == 0 else None

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, *, cond: Any = None, noise: Noise = torch.randn_like
    ) -> Iterator[Step]:
        levels = self.levels(denoiser.schedule)
        starts, following = levels.steps()
        variance = self.eta**2 * posterior(starts, following).var_small
        direction = (following.sigma.square() - variance).clamp(min=0).sqrt().tolist()
        deviation, alpha, times = variance.sqrt().tolist(), following.alpha.tolist(), following.t.tolist()
        for i, level in enumerate(starts):
            prediction = denoiser(x, level, cond)
            x = combine(alpha[i], prediction.x0, direction[i], prediction.eps)
            if deviation[i] > 0:
                x = x + deviation[i] * noise(x)
            yield Step(times[i], x, prediction.x0)

    @torch.no_grad()
    def encode(self, denoiser: Denoiser, x: Tensor, *, cond: Any = None) -> Tensor:
        """DDIM inversion: x_T from x = x_0 (B, ...) by the same step with t and s exchanged (section 4.3).

        A step from s to t evaluates the denoiser at s; the first step, from clean data, at the level that it reaches.
        """
        if self.stochastic:
            raise ConfigError(f"sampler.eta={self.eta:g}: DDIM cannot encode x_0 with noise; set sampler.eta=0")
        levels = self.levels(denoiser.schedule)
        *noisy, _ = levels.unbind()
        warn_without_signal(noisy[0])
        alpha, sigma = levels.alpha.tolist(), levels.sigma.tolist()
        x = leave_data(denoiser, x, noisy[-1], cond)
        for i in range(self.steps - 1, 0, -1):
            prediction = denoiser(x, noisy[i], cond)
            x = alpha[i - 1] * prediction.x0 + sigma[i - 1] * prediction.eps
        return x
