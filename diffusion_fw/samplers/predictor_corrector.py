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
    "ancestral": reverse_sde.ancestral,
    "none": reverse_sde.stay,
}


@register("sampler", "predictor_corrector")
@dataclass(frozen=True)
class PredictorCorrector(LinearSampler):
    """A predictor's step to each level, then corrector_steps of x + size score + sqrt(2 size) z there.

    Song et al. 2021, algorithms 1, 4 and 5: size = 2 a (snr |z| / |score|)^2, with a = alpha_t^2 / alpha_s^2 of the
    next step (1 - beta on DDPM's table, 1 on the variance-exploding path). The paper averages the norms over the batch,
    so that a sample depends on its neighbours. Here they are ``expected``: |z| = sqrt(d) and |score| = sqrt(d) / sigma,
    so size = 2 a (snr sigma)^2, or those of each ``example``. All three agree for images, where the norms concentrate;
    in few dimensions a norm may vanish. The last step gives the predictor's x0, uncorrected.
    """

    predictor: Literal["euler_maruyama", "reverse_diffusion", "ancestral", "none"] = "reverse_diffusion"
    corrector_steps: Annotated[int, Range(0, 1_000_000)] = 1
    snr: Positive = 0.16
    norm: Literal["expected", "example"] = "expected"

    stochastic: ClassVar[bool] = True
    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

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
        sizes = (2 * (self.snr * reached.sigma * reached.alpha / following).square()).tolist()
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
        squared = size * z.flatten(1).square().sum(1) / eps.flatten(1).square().sum(1)
        return per_example(squared, z)
