"""The weighted squared error of the network's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.objectives.objective import Objective
from diffusion_fw.objectives.weighting import Weighting, output_weight
from diffusion_fw.process.level import NoiseLevel, expand
from diffusion_fw.registry import Runtime, register


@register("objective", "simple")
@dataclass(frozen=True)
class Simple(Objective):
    """w_F mean((F - a x_0 - b eps)^2) over an example's dimensions, at x_t = alpha x_0 + sigma eps.

    Ho et al. 2020, equation 14, for any parameterization and weighting.
    """

    weighting: Runtime[Weighting]

    def __call__(
        self, denoiser: NetworkDenoiser, x0: Tensor, level: NoiseLevel, eps: Tensor, cond: Any = None
    ) -> Tensor:
        x = expand(level.alpha, x0) * x0 + expand(level.sigma, x0) * eps
        output, _ = denoiser.output(x, level, cond)
        error = (output - denoiser.parameterization.target(level, x0, eps)).square().flatten(1).mean(1)
        weight = output_weight(self.weighting, denoiser.parameterization, level)
        return error * weight.to(device=error.device, dtype=error.dtype, non_blocking=True)
