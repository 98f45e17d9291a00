"""Power over frequency and over time: for any series, without weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d

from diffusion_fw.data.dataset import to_model, usual_features
from diffusion_fw.metrics.features.extractor import FeatureExtractor
from diffusion_fw.registry import ConfigError, Runtime, register

BANDS, PARTS, BANDS_OF_A_PART = 32, 4, 8
QUIET = 1e-2
"""Power that counts as silence, in the square of the unit of the values."""


@register("features", "spectra")
class Spectra(FeatureExtractor):
    """phi(x) = the log-powers of each channel in at most 32 bands and of each quarter in at most 8, and four moments.

    The power of z_0 .. z_(L-1) at frequency j is P_j = |sum_l w_l z_l e^(-2 pi i j l / L)|^2 / sum_l w_l^2, with Hann's
    window w. Neighbouring frequencies are averaged to bands, and a feature is log(P + 0.01). z is the whole series, and
    each of four quarters of it, as far as these have 8 values: so decays and sweeps count too, which the spectrum of
    the whole doesn't show. The moments are mean, deviation, skewness and excess kurtosis. Phases are not seen.

    The values should have a deviation around 1. Raises ConfigError for data that are no series (C, L), L >= 2.
    """

    name = "spectra"
    settings = f"bands {BANDS}, {PARTS} parts of {BANDS_OF_A_PART}, silence {QUIET}"

    def __init__(self, shape: Runtime[tuple[int, ...]]):
        super().__init__()
        if len(shape) != 2 or shape[1] < 2:
            raise ConfigError(
                f"these features need series (C, L), L >= 2, but an example of data=... has the shape {tuple(shape)}; "
                f"choose features={usual_features(shape)} instead of features=spectra"
            )
        channels, length = shape
        self.part = length // PARTS if length >= PARTS * BANDS_OF_A_PART else 0
        bands = min(BANDS, length // 2 + 1) + (PARTS * min(BANDS_OF_A_PART, self.part // 2 + 1) if self.part else 0)
        self.num_features = channels * (bands + 4)
        self.freeze()

    def forward(self, examples: Tensor) -> Tensor:
        x = to_model(examples)
        found = [log_power(x, BANDS), moments(x)]
        if self.part:
            parts = x[..., : PARTS * self.part].unflatten(-1, (PARTS, self.part))
            found.append(log_power(parts.flatten(1, 2), BANDS_OF_A_PART))
        return torch.cat([each.flatten(1) for each in found], dim=1)


def log_power(x: Tensor, bands: int) -> Tensor:
    """log(P + 0.01) of series (B, C, L) in at most ``bands`` bands: (B, C, bands)."""
    window = torch.hann_window(x.shape[-1] + 1, device=x.device)[1:]
    power = torch.fft.rfft(x * window).abs().square() / window.square().sum()
    return (adaptive_avg_pool1d(power, min(bands, power.shape[-1])) + QUIET).log()


def moments(x: Tensor) -> Tensor:
    """Mean, deviation, skewness and excess kurtosis of series (B, C, L): (B, C, 4)."""
    mean = x.mean(-1, keepdim=True)
    deviation = ((x - mean).square().mean(-1, keepdim=True) + QUIET).sqrt()
    z = (x - mean) / deviation
    return torch.cat([mean, deviation, z.pow(3).mean(-1, keepdim=True), z.pow(4).mean(-1, keepdim=True) - 3], dim=-1)
