"""EDM's sigma_data: the standard deviation of the data, given or measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffusion_fw.registry import ConfigError, Positive, Runtime


@dataclass(frozen=True)
class SigmaData:
    """The standard deviation of the data over all examples and dimensions; sigma_data=auto measures it.

    Karras et al. 2022, table 1: 0.5 for images in [-1, 1].
    """

    sigma_data: Positive | Literal["auto"] = 0.5
    data_std: Runtime[float | None] = None

    def __post_init__(self) -> None:
        if self.sigma_data == "auto" and self.data_std is None:
            raise ConfigError(
                "sigma_data=auto needs the standard deviation of the training data, and no data is given here; "
                "set sigma_data to a number"
            )

    @property
    def data_deviation(self) -> float:
        """sigma_data as a number."""
        deviation = self.data_std if self.sigma_data == "auto" else self.sigma_data
        assert deviation is not None
        return deviation
