"""The weighted squared error of the network's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diffusion_fw.denoiser import Denoiser, NetworkDenoiser
from diffusion_fw.objectives.objective import Objective
from diffusion_fw.objectives.weighting import Weighting, output_weight
from diffusion_fw.process.level import NoiseLevel, noised
from diffusion_fw.process.parameterization import Parameterization
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
        output, _ = denoiser.output(noised(level, x0, eps), level, cond)
        return self.error(denoiser.parameterization, output, x0, level, eps)

    def irreducible(
        self, denoiser: NetworkDenoiser, oracle: Denoiser, x0: Tensor, level: NoiseLevel, eps: Tensor
    ) -> Tensor | None:
        exact = oracle(noised(level, x0, eps), level)
        output = denoiser.parameterization.target(level, exact.x0, exact.eps)
        return self.error(denoiser.parameterization, output, x0, level, eps)

    def error(
        self, parameterization: Parameterization, output: Tensor, x0: Tensor, level: NoiseLevel, eps: Tensor
    ) -> Tensor:
        """The weighted mean squared error (B,) of an output F."""
        error = (output - parameterization.target(level, x0, eps)).square().flatten(1).mean(1)
        weight = output_weight(self.weighting, parameterization, level)
        return error * weight.to(device=error.device, dtype=error.dtype, non_blocking=True)
