"""The forward step's variance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.variance import LogVariances, Variance
from diffusion_fw.registry import register


@register("variance", "large")
@dataclass(frozen=True)
class Large(Variance):
    """var_large = sigma_t^2 tau, beta_t on DDPM's own steps: right for data of N(0, I).

    Ho et al. 2020, section 3.2. The step to clean data has var_small, as in the paper's code.
    """

    def log_variance(self, step: LogVariances, logit: Tensor | None) -> Tensor:
        return torch.where(step.to_data, step.small, step.large)
