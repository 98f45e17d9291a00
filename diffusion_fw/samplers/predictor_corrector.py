"""Predictor-corrector sampling: a step of the reverse SDE, then Langevin steps at the new level."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, Noise
from diffusion_fw.process.level import NoiseLevel, per_example
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, Positive, Range, register
from diffusion_fw.samplers.methods import reverse_sde
from diffusion_fw.samplers.methods.langevin import langevin_step
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep
from diffusion_fw.samplers.sampler import Step

PREDICTORS: dict[str, Callable[[NoiseLevel, Schedule], list[LinearStep]]] = {
    "euler_maruyama": reverse_sde.euler_maruyama,
    "reverse_diffusion": reverse_sde.reverse_diffusion,
    "probability_flow": reverse_sde.probability_flow,
    "ancestral": reverse_sde.ancestral,
    "none": reverse_sde.stay,
}
SNR: dict[str, tuple[float, float]] = {
    "euler_maruyama": (0.16, 0.01),
    "reverse_diffusion": (0.16, 0.01),
    "probability_flow": (0.17, 0.04),
    "ancestral": (0.17, 0.01),
    "none": (0.22, 0.27),
}
"""The signal-to-noise ratios of snr=auto on the variance-exploding path and on others."""


@register("sampler", "predictor_corrector")
@dataclass(frozen=True)
class PredictorCorrector(LinearSampler):
    """A predictor's step to each level, then corrector_steps of x + size score + sqrt(2 size) z there.

    Song et al. 2021, algorithms 1, 4 and 5: size = 2 a (snr |z| / |score|)^2, with a = alpha_t^2 / alpha_s^2 of the
    next step (1 - beta on DDPM's table, 1 on the variance-exploding path). The norms are ``expected``: |z| = sqrt(d)
    and |score| = sqrt(d) / sigma, so size = 2 a (snr sigma)^2; or those of each ``example``; or their means over the
    ``batch``, as in the paper: a sample then depends on the others of its batch, and on batch_size. All three agree for
    images, where the norms concentrate; in few dimensions a norm may vanish.

    snr=auto is that of the paper's table 5, which depends on the path and on the predictor: where alpha = 1, ancestral
    .17, reverse_diffusion .16, probability_flow .17, none .22; otherwise .01, .01, .04, .27 (the table is for VP).
    euler_maruyama, which is not in the table, has that of reverse_diffusion.

    Predictor ancestral has the variance of the posterior; on VP the paper's has beta, as sampler=ddpm variance=large.
    Predictor probability_flow is x_s = (2 - a) x_t - G^2 eps / (2 sigma_t), reverse_diffusion with half the score and
    without noise (equation 47), of order 1 and made for hundreds of steps. The last step gives the predictor's x0,
    uncorrected.
    """

    predictor: Literal["euler_maruyama", "reverse_diffusion", "probability_flow", "ancestral", "none"] = (
        "reverse_diffusion"
    )
    corrector_steps: Annotated[int, Range(0, 1_000_000)] = 1
    snr: Positive | Literal["auto"] = "auto"
    norm: Literal["expected", "example", "batch"] = "expected"

    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    @property
    def stochastic(self) -> bool:
        return self.corrector_steps > 0 or self.predictor != "probability_flow"

    @property
    def order(self) -> int | None:
        return None if self.stochastic else 1

    @property
    def evaluations_per_step(self) -> int | None:
        return (self.predictor != "none") + self.corrector_steps

    def __post_init__(self) -> None:
        if self.predictor == "none" and self.corrector_steps == 0:
            raise ConfigError(
                "sampler.predictor=none needs sampler.corrector_steps of 1 or more; raise one or set the other"
            )
        if self.predictor == "none" and self.analytic_first_step:
            raise ConfigError(
                "sampler.analytic_first_step=true takes the place of the predictor's first evaluation, but "
                "sampler.predictor=none has none; set one of them otherwise"
            )

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        """The predictor's steps."""
        return PREDICTORS[self.predictor](self.levels(schedule), schedule)

    def trajectory(
        self, denoiser: Denoiser, x: Tensor, *, cond: Any = None, noise: Noise = torch.randn_like
    ) -> Iterator[Step]:
        plan = self.checked_plan(denoiser.schedule)
        reached = self.levels(denoiser.schedule)[1:]
        following = torch.cat([reached.alpha[1:], reached.alpha[-1:]])
        sizes = (2 * (self._snr(reached) * reached.sigma * reached.alpha / following).square()).tolist()
        rows = zip(plan, reached.unbind(), reached.sigma.tolist(), sizes, strict=True)
        for planned, level, sigma, size in rows:
            analytic = self.analytic_first_step and planned is plan[0]
            step = next(self.run([planned], denoiser, x, cond, noise, analytic=analytic))
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
        noise, signal = (value.flatten(1).square().sum(1) for value in (z, eps))
        if self.norm == "batch":
            noise, signal = (value.sqrt().mean(0, keepdim=True).square() for value in (noise, signal))
        return per_example(size * noise / signal, z)

    def _snr(self, levels: NoiseLevel) -> float:
        """The ratio of the noise and the score, in norm."""
        if self.snr != "auto":
            return self.snr
        exploding, other = SNR[self.predictor]
        return exploding if bool((levels.alpha == 1).all()) else other
