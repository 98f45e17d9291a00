"""The geometric noise of NCSN and of the variance-exploding path, with its largest sigma taken from the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from diffusion_fw.registry import AutoDiameter, ConfigError, Positive, Runtime


@dataclass(frozen=True)
class GeometricNoise:
    """sigma from sigma_min to sigma_max by a constant factor; sigma_max=auto is the largest distance in the data.

    Song & Ermon 2020 (NCSNv2), technique 1: noise as large as the greatest Euclidean distance between two training
    examples lets sampling move from any of them to any other.
    """

    sigma_min: Positive = 0.01
    sigma_max: Positive | AutoDiameter = 50.0
    data_diameter: Runtime[float | None] = None

    def __post_init__(self) -> None:
        if self.sigma_max == "auto" and self.data_diameter is None:
            raise ConfigError(
                "schedule.sigma_max=auto needs the largest distance between two training examples, and no data is "
                "given here; set schedule.sigma_max to a number"
            )
        if self.log_sigmas[1] <= self.log_sigmas[0]:
            raise ConfigError(
                f"schedule.sigma_max={self.sigma_max} ({math.exp(self.log_sigmas[1]):g}) must be above "
                f"schedule.sigma_min={self.sigma_min:g}"
            )

    @property
    def log_sigmas(self) -> tuple[float, float]:
        """log sigma_min and log sigma_max."""
        largest = self.data_diameter if self.sigma_max == "auto" else self.sigma_max
        assert largest is not None
        return math.log(self.sigma_min), math.log(largest)
