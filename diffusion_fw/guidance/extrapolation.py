"""Guidance by the difference of two predictions."""

from __future__ import annotations

from torch import Tensor

from diffusion_fw.process.level import expand
from diffusion_fw.process.parameterization import Prediction


def extrapolate(strong: Prediction, weak: Prediction, scale: Tensor) -> Prediction:
    """weak + scale (strong - weak) for x_0 and eps, with the variance of ``strong``; scale float64, scalar or (B,).

    Both ends are moved alike, so x_t = alpha x_0 + sigma eps holds for the result; scale = 1 is ``strong`` to the bit.
    """
    excess = expand(scale - 1, strong.x0)
    x0 = strong.x0 + excess * (strong.x0 - weak.x0)
    eps = strong.eps + excess * (strong.eps - weak.eps)
    return Prediction(x0, eps, strong.variance_logit)
