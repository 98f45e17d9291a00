"""Closed-form distributions whose exact denoiser, score and log-density are known at every noise level."""

from diffusion_fw.oracles.empirical import Empirical
from diffusion_fw.oracles.gaussian import CorrelatedDenoiser, CorrelatedGaussian, Gaussian
from diffusion_fw.oracles.mixture import GaussianMixture, MixtureDenoiser

__all__ = [
    "CorrelatedDenoiser",
    "CorrelatedGaussian",
    "Empirical",
    "Gaussian",
    "GaussianMixture",
    "MixtureDenoiser",
]
