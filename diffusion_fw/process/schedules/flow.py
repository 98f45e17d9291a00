"""The straight path of flow matching."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_fw.process.level import linear_interpolant
from diffusion_fw.process.schedule import LogSNRSchedule
from diffusion_fw.registry import register


@register("schedule", "flow")
@dataclass(frozen=True)
class Flow(LogSNRSchedule):
    """alpha = 1 - t, sigma = t, with t replaced by t' = shift t / (1 + (shift - 1) t); alpha = 0 at t = 1.

    Lipman et al. 2023, equation 20 with sigma_min = 0, and Liu et al. 2023, equation 1, in reversed time; shift: Esser
    et al. 2024 (SD3), equation 23.
    """

    path: ClassVar[Callable[[Tensor], tuple[Tensor, Tensor]]] = staticmethod(linear_interpolant)

    def log_snr(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - t.log())

    def inverse(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)
