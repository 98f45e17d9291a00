"""The usual exponential moving average, with a warm-up."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_fw.registry import Fraction, register
from diffusion_fw.training.average import Average


@register("ema", "exponential")
@dataclass(frozen=True)
class Exponential(Average):
    """d = rate, at first min(rate, (1 + n) / (10 + n)) if warmup, so that the random start is soon forgotten.

    rate 0.9999 in Ho et al. 2020, appendix B; the warm-up is that of TensorFlow's ExponentialMovingAverage, which
    Song et al. 2021 use. rate 0 follows the trained weights.
    """

    rate: Fraction = 0.9999
    warmup: bool = True

    def decay(self, step: int) -> float:
        return min(self.rate, (1 + step) / (10 + step)) if self.warmup else self.rate

    @property
    def length(self) -> dict[str, float]:
        return {"rate": self.rate}
