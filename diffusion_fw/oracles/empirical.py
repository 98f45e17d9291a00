"""The distribution of a finite data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel, require_level
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.schedule import Schedule


@dataclass(frozen=True)
class Empirical:
    """The denoiser of the uniform distribution over the examples ``data`` (N, *shape): a network that memorises them.

    E[x_0 | x_t] = sum_i p_i x_i with p = softmax_i(-|x_t - alpha x_i|^2 / (2 sigma^2)), computed ``chunk`` examples at
    a time. At sigma = 0 it is the nearest example, and eps, which x_t does not determine there, is 0.
    """

    data: Tensor
    schedule: Schedule
    chunk: int = 4096

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        require_level(level, self)
        alpha, sigma = (value.to(x).reshape(-1, 1) for value in (level.alpha, level.sigma))
        precision = 1 / sigma.square().clamp(min=torch.finfo(x.dtype).tiny)
        flat = x.flatten(1)
        best, total, mean = flat.new_full((len(x), 1), -torch.inf), flat.new_zeros(len(x), 1), torch.zeros_like(flat)
        for part in self.data.split(self.chunk):
            points = part.to(x).flatten(1)
            # -|x - alpha x_i|^2 / 2 without |x|^2, which is the same for all i.
            closeness = alpha * (flat @ points.T) - alpha.square() / 2 * points.square().sum(1)
            largest = torch.maximum(best, closeness.amax(1, keepdim=True))
            # Subtracting before the division keeps weight 1 for the nearest example at sigma = 0.
            kept, weight = torch.exp((best - largest) * precision), torch.exp((closeness - largest) * precision)
            total, mean = kept * total + weight.sum(1, keepdim=True), kept * mean + weight @ points
            best = largest
        x0 = mean / total
        eps = torch.where(sigma > 0, (flat - alpha * x0) / sigma, 0.0)
        return Prediction(x0.view_as(x), eps.view_as(x))
