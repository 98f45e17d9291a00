"""Linear inverse problems by the gradient of the measurement's likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diffusion_fw.guidance.guidance import Guidance, linearize, with_gradient
from diffusion_fw.guidance.operators import LinearOperator
from diffusion_fw.process.level import NoiseLevel, expand
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.registry import ConfigError, NonNegative, Runtime, register


@register("guidance", "posterior")
@dataclass(frozen=True)
class Posterior(Guidance):
    """The score with scale grad log N(y; A x_0(x_t), r^2 A A^T + noise_std^2 I) added, for y = A x_0 + noise.

    The gradient is (dx_0/dx_t)^T A^T (r^2 A A^T + noise_std^2 I)^{-1} (y - A x_0), by one backward pass through the
    denoiser. r^2 = sigma^2 data_std^2 / (sigma^2 + alpha^2 data_std^2), the variance of x_0 given x_t for Gaussian data
    of standard deviation data_std, is ΠGDM's (Song et al. 2023, with data_std = 1):
    exact for such data. data_std = 0 takes x_0(x_t) for certain, which is DPS (Chung et al. 2023, equation 16); its
    gradient then grows as 1 / noise_std^2 and wants small steps or a smaller scale. scale = 0 is unguided.

    measurement: of one example's shape, or (B, ...). Stack it after a guidance that doubles the batch.
    Raises ConfigError where both standard deviations are 0.
    """

    operator: Runtime[LinearOperator]
    measurement: Runtime[Tensor]
    noise_std: NonNegative = 0.0
    data_std: NonNegative = 1.0
    scale: NonNegative = 1.0

    def __post_init__(self) -> None:
        if self.noise_std == 0 and self.data_std == 0:
            raise ConfigError(
                "guidance.posterior.data_std=0 takes the prediction for certain, which no exact measurement "
                "(guidance.posterior.noise_std=0) allows; raise one of the two"
            )

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        prediction, pullback = linearize(self.denoiser, x, level, cond)
        noise, data = level.sigma.square(), level.alpha.square() * self.data_std**2
        variance = noise * self.data_std**2 / (noise + data)
        residual = self.measurement.to(x) - self.operator(prediction.x0)
        weighted = self.operator.solve(residual, expand(variance, residual), self.noise_std**2)
        gradient = pullback(self.operator.transpose(weighted))
        return with_gradient(prediction, level, self.scale * gradient)
