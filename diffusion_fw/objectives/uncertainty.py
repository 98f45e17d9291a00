"""EDM2's multi-task weights: each noise level's loss divided by its own learned size."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.networks.blocks.magnitude import normalize
from diffusion_fw.objectives.objective import Objective
from diffusion_fw.objectives.simple import Simple
from diffusion_fw.objectives.weighting import Weighting
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.registry import Runtime, Size, register


@register("objective", "uncertainty")
class Uncertainty(nn.Module, Objective):
    """L / exp(u) + u, where L is objective=simple and u(log_snr) is learned too; at its minimum exp(u) = E[L].

    Karras et al. 2024b, equations 14 and 21 (after Kendall et al. 2018). u is linear in random Fourier features of
    log(sigma / alpha) / 4 and starts at 0, so that training begins as with objective=simple. With ``normalized`` it is
    the layer of their code: the coefficients have a random start and the length sqrt(channels), of which training
    changes the direction alone (equations 47 and 66).
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, weighting: Runtime[Weighting], channels: Size = 128, normalized: bool = False) -> None:
        super().__init__()
        self.normalized = self.writes_weights = normalized
        self.simple = Simple(weighting)
        # A seed of their own gives every process and every run the same features.
        source = torch.Generator().manual_seed(0)
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(channels, generator=source))
        self.register_buffer("phases", 2 * math.pi * torch.rand(channels, generator=source))
        self.coefficients = nn.Parameter(
            torch.randn(channels, generator=source) if normalized else torch.zeros(channels)
        )

    def log_loss(self, level: NoiseLevel) -> Tensor:
        """u at each level (B,), float32: the logarithm of the expected loss there."""
        # Pure noise has no finite log(sigma / alpha).
        label = (-level.log_snr.clamp(-40, 40) / 8).to(
            device=self.phases.device, dtype=torch.float32, non_blocking=True
        )
        features = torch.cos(label[..., None] * self.frequencies + self.phases) * math.sqrt(2 / len(self.phases))
        return features @ (normalize(self.coefficients, (0,)) if self.normalized else self.coefficients)

    def plain(self) -> Objective:
        """objective=simple, without u."""
        return self.simple

    def forward(
        self, denoiser: NetworkDenoiser, x0: Tensor, level: NoiseLevel, eps: Tensor, cond: Any = None
    ) -> Tensor:
        if self.normalized and self.training and torch.is_grad_enabled():
            self.coefficients.data.copy_(normalize(self.coefficients.data, (0,)))
        u = self.log_loss(level)
        return self.simple(denoiser, x0, level, eps, cond) * torch.exp(-u) + u
