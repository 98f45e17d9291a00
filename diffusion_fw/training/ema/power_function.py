"""The power-function average: its length is a fixed part of the training so far."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_fw.registry import register
from diffusion_fw.training.average import Average
from diffusion_fw.training.power_profile import RelativeStd, exponent


@register("ema", "power_function")
@dataclass(frozen=True)
class PowerFunction(Average):
    """d = (1 - 1 / n)^(gamma + 1), so that theta_t' weighs t'^gamma: the random start has no weight at all.

    std is the standard deviation of those weights as a part of the training time, from which gamma follows
    (Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", section 3.1). 0.05 to
    0.1 is usual; 1 / sqrt(12), at most, weighs all steps alike.
    """

    std: RelativeStd = 0.05

    def decay(self, step: int) -> float:
        return float((1 - 1 / step) ** (exponent(self.std) + 1))

    @property
    def length(self) -> dict[str, float]:
        return {"std": self.std}
