"""The cosine path in continuous time, without clipping."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.schedule import LogSNRSchedule
from diffusion_fw.registry import NonNegative, register


@register("schedule", "cosine_continuous")
@dataclass(frozen=True)
class CosineContinuous(LogSNRSchedule):
    """alpha^2 = f(t) / f(0), f(t) = cos(pi/2 (t + s) / (1 + s))^2, sigma^2 = 1 - alpha^2; alpha = 0 at t = 1.

    Nichol & Dhariwal 2021, equation 17; with s = 0 log_snr = -2 log tan(pi t / 2) (Hoogeboom et al. 2023, section 2).
    Written without a difference that cancels: sigma^2 f(0) = sin(pi/2 t / (1 + s)) sin(pi/2 (t + 2 s) / (1 + s)).
    """

    s: NonNegative = 0.008

    def log_snr(self, t: Tensor) -> Tensor:
        quarter = math.pi / 2 / (1 + self.s)
        signal = torch.sin(quarter * (1 - t)).log()
        noise = torch.sin(quarter * t).log() + torch.sin(quarter * (t + 2 * self.s)).log()
        return 2 * signal - noise

    def inverse(self, log_snr: Tensor) -> Tensor:
        start = math.pi / 2 * self.s / (1 + self.s)
        sine = (math.sin(start) ** 2 + math.cos(start) ** 2 * torch.sigmoid(-log_snr)).sqrt()
        cosine = math.cos(start) * torch.sigmoid(log_snr).sqrt()
        return (torch.atan2(sine, cosine) - start) * (1 + self.s) / (math.pi / 2)
