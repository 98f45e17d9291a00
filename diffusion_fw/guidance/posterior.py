"""Linear inverse problems by the gradient of the measurement's likelihood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.guidance.guidance import linearize, with_gradient
from diffusion_fw.guidance.measurement import Measured
from diffusion_fw.noise import generator
from diffusion_fw.process.level import NoiseLevel, expand
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.registry import ConfigError, NonNegative, register

NOISE_STREAM = 17


@register("guidance", "posterior")
@dataclass(frozen=True)
class Posterior(Measured):
    """The score with scale grad log N(y; A x_0(x_t), r^2 A A^T + noise_std^2 I) added, for y = A x_0 + noise.

    The gradient is (dx_0/dx_t)^T A^T (r^2 A A^T + noise_std^2 I)^{-1} (y - A x_0), by one backward pass through the
    denoiser. r^2 = sigma^2 data_std^2 / (sigma^2 + alpha^2 data_std^2), the variance of x_0 given x_t for Gaussian data
    of standard deviation data_std, is that of Song et al. 2023 (ΠGDM, data_std = 1) and exact for such data.
    data_std = 0 treats x_0(x_t) as certain, which is DPS (Chung et al. 2023, equation 16); its gradient grows as
    1 / noise_std^2 and needs small steps or a smaller scale. scale = 0 is unguided.

    A is one of ``mask`` (an image, white where pixels are known), ``average_pool`` (the side of the blocks that are
    averaged), ``blur`` (the standard deviation of a Gaussian kernel in pixels) and ``grayscale``. y is the image
    ``measured``, or A of the image ``image``, with which samples are then compared. In place of these, ``file`` is an
    npz file with y as ``measurement`` (float values as the model sees them, or uint8 pixels) and A as one of ``mask``
    (true where known), ``average_pool``, ``blur``, ``matrix`` (for flattened examples) and ``channel_matrix`` (for
    the channels of each pixel). To A of ``image`` noise of noise_std is added, by the seed of the run.
    Put it after a guidance that doubles the batch. Raises ConfigError where both standard deviations are 0.
    """

    noise_std: NonNegative = 0.0
    data_std: NonNegative = 1.0
    scale: NonNegative = 1.0

    def __post_init__(self) -> None:
        if self.noise_std == 0 and self.data_std == 0:
            raise ConfigError(
                "guidance.posterior.data_std=0 and guidance.posterior.noise_std=0 treat both the prediction and the "
                "measurement as certain, which they cannot be at once; raise one of the two"
            )
        super().__post_init__()

    def observed(self, y: Tensor) -> Tensor:
        """y with noise of noise_std, by the seed of the run."""
        return y + self.noise_std * torch.randn(y.shape, generator=generator(self.seed, NOISE_STREAM))

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        operator, y, _ = self.known
        prediction, pullback = linearize(self.denoiser, x, level, cond)
        noise, data = level.sigma.square(), level.alpha.square() * self.data_std**2
        variance = noise * self.data_std**2 / (noise + data)
        residual = y.to(x) - operator(prediction.x0)
        weighted = operator.solve(residual, expand(variance, residual), self.noise_std**2)
        gradient = pullback(operator.transpose(weighted))
        return with_gradient(prediction, level, self.scale * gradient)
