"""The Gaussian step between two levels s < t of the path, with tau = 1 - snr_t / snr_s.

q(x_t | x_s)      = N(alpha_t / alpha_s x_s, sigma_t^2 tau)
q(x_s | x_t, x_0) = N(alpha_s tau x_0 + (sigma_s / sigma_t) sqrt(snr_t / snr_s) x_t, sigma_s^2 tau)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel


@dataclass(frozen=True)
class Transition:
    """q(x_s | x_t, x_0) = N(c_x0 x_0 + c_xt x_t, var_small), s < t; var_large is the variance of q(x_t | x_s).

    float64, of the shape of the levels.
    """

    c_x0: Tensor
    c_xt: Tensor
    var_small: Tensor
    var_large: Tensor


def posterior(level_t: NoiseLevel, level_s: NoiseLevel) -> Transition:
    """The posterior of x_s given x_t and x_0 (Ho et al. 2020, equations 6-7, for any two levels s < t).

    With tau = 1 - snr_t / snr_s:  c_x0 = alpha_s tau,  c_xt = (sigma_s / sigma_t) sqrt(snr_t / snr_s),
    var_small = sigma_s^2 tau,  var_large = sigma_t^2 tau.
    """
    difference = level_t.log_snr - level_s.log_snr
    tau = -torch.expm1(difference)
    return Transition(
        c_x0=level_s.alpha * tau,
        c_xt=level_s.sigma / level_t.sigma * torch.exp(difference / 2),
        var_small=level_s.sigma.square() * tau,
        var_large=level_t.sigma.square() * tau,
    )
