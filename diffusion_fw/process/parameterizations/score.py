"""The network predicts the score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Parameterization
from diffusion_fw.registry import register


@register("parameterization", "score")
@dataclass(frozen=True)
class Score(Parameterization):
    """F = grad log q(x_t | x_0) = -eps / sigma: (a, b) = (0, -1 / sigma). Song & Ermon 2019, equation 5.

    weighting=snr is the paper's lambda = sigma^2. The target grows as 1 / sigma; with scale_by_sigma the network's
    output is divided by sigma to become the score, so that F = -eps, (a, b) = (0, -1) (Song & Ermon 2020, technique 3;
    NCSN++ in Song et al. 2021).

    The label is 100 log(sigma / alpha), so that the fastest wave of a sinusoidal embedding has the typical frequency of
    NCSN++'s Fourier features of log sigma, 2 pi 16 (Song et al. 2021, appendix H). x_t enters as it is, up to sigma_max
    in size, as in these papers, whose networks normalize it in their first layers (Karras et al. 2022, table 1, column
    VE: c_in = 1); for one that does not, such as an MLP, scale_input divides it by sqrt(alpha^2 + sigma^2).
    """

    scale_by_sigma: bool = False
    scale_input: bool = False

    def coefficients(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        b = -torch.ones_like(level.t) if self.scale_by_sigma else -1 / level.sigma
        return torch.zeros_like(level.t), b

    def input(self, level: NoiseLevel) -> tuple[Tensor, Tensor]:
        c_in = 1 / torch.hypot(level.alpha, level.sigma) if self.scale_input else torch.ones_like(level.t)
        # Clean data and pure noise have no finite log(sigma / alpha).
        return c_in, -50 * level.log_snr.clamp(-40, 40)
