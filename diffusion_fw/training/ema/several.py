"""Averages of several lengths at once."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_fw.registry import ConfigError, Fraction, register
from diffusion_fw.training.average import Average, Averages
from diffusion_fw.training.ema.exponential import Exponential
from diffusion_fw.training.ema.power_function import PowerFunction
from diffusion_fw.training.power_profile import RelativeStd


@register("ema", "several")
@dataclass(frozen=True)
class Several(Averages):
    """An exponential average for each of rates, then a power-function average for each of stds; memory for each.

    Samples are drawn with the first; the others are asked of the checkpoint by ``ema.rate`` or ``ema.std``. Raises
    ConfigError where there is none, or one twice.
    """

    rates: tuple[Fraction, ...] = (0.9999, 0.999)
    stds: tuple[RelativeStd, ...] = ()
    warmup: bool = True

    def __post_init__(self) -> None:
        for key, values in (("rates", self.rates), ("stds", self.stds)):
            if len(set(values)) < len(values):
                raise ConfigError(f"ema.{key}={list(values)} holds a length twice; give each once")
        if not self.rates and not self.stds:
            raise ConfigError("ema.rates and ema.stds are both empty; give a length, or choose ema=none")

    @property
    def tracks(self) -> tuple[Average, ...]:
        exponential = (Exponential(rate, self.warmup) for rate in self.rates)
        return (*exponential, *(PowerFunction(std) for std in self.stds))
