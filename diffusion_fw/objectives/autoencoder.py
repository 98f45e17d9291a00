"""The loss of an autoencoder whose latents a model is to work on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from diffusion_fw.networks.kl_autoencoder import divergence
from diffusion_fw.objectives.objective import Objective
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.registry import NonNegative, register


@register("objective", "autoencoder")
@dataclass(frozen=True)
class AutoencoderLoss(Objective):
    """(||x - D(z)|| + kl_weight KL(q(z | x) || N(0, I))) / dim(x), z drawn from q(z | x).

    Rombach et al. 2022, section 3.1 and appendix G, without their perceptual and adversarial losses, which give large
    images their fine texture. ||.|| is the sum of absolute differences (norm=l1) or of squares (l2). Their kl_weight
    is 1e-6. It trains an autoencoder, such as network=kl_autoencoder; there is no noise level in it, so that schedule,
    parameterization, weighting and time_sampler do not apply.
    """

    norm: Literal["l1", "l2"] = "l1"
    kl_weight: NonNegative = 1e-6

    trains_autoencoder: ClassVar[bool] = True
    draws: ClassVar[bool] = True

    def __call__(self, denoiser: Any, x0: Tensor, level: NoiseLevel, eps: Tensor, cond: Any = None) -> Tensor:
        mean, deviation = denoiser.network.posterior(x0)
        back = denoiser.network.reconstruct(mean + deviation * torch.randn_like(mean))
        errors = (back - x0).abs() if self.norm == "l1" else (back - x0).square()
        total: Tensor = errors.float().flatten(1).sum(1) + self.kl_weight * divergence(mean.float(), deviation.float())
        return total / x0[0].numel()
