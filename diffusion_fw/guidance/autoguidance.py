"""Guidance by a weaker model of the same data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser
from diffusion_fw.guidance.extrapolation import extrapolate
from diffusion_fw.guidance.wrapper import Wrapper
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.registry import ConfigError, NonNegative, Runtime, register


@register("guidance", "autoguidance")
@dataclass(frozen=True)
class Autoguidance(Wrapper):
    """D = D_weak + scale (D_main - D_weak): scale = 1 is unguided, and then the weak model is not evaluated.

    Karras et al. 2024, "Guiding a diffusion model with a bad version of itself": ``weak`` is smaller or less trained,
    on the same condition and the same schedule.

    Raises ConfigError where the two models stand on different paths.
    """

    weak: Runtime[Denoiser]
    scale: NonNegative = 2.0

    def __post_init__(self) -> None:
        times = self.schedule.fraction(torch.linspace(0, 1, 9, dtype=torch.float64))
        own, other = self.schedule(times), self.weak.schedule(times)
        if not (torch.allclose(own.alpha, other.alpha) and torch.allclose(own.sigma, other.sigma)):
            raise ConfigError(
                f"guidance=autoguidance: the weak model is on {self.weak.schedule}, the guided one on {self.schedule}; "
                "train both on one schedule, or wrap the weak one in guidance=rescheduled with the other's as target"
            )

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        strong = self.denoiser(x, level, cond)
        if self.scale == 1:
            return strong
        return extrapolate(strong, self.weak(x, level, cond), torch.full_like(level.t, self.scale))
