"""Averages from which one of any length is made after training."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_fw.registry import ConfigError, PositiveInt, register
from diffusion_fw.training.average import Average, Averages
from diffusion_fw.training.ema.power_function import PowerFunction
from diffusion_fw.training.power_profile import RelativeStd


@register("ema", "post_hoc")
@dataclass(frozen=True)
class PostHoc(Averages):
    """A power-function average for each of stds, written to the run's ``snapshots/`` every ``every`` steps in float32.

    ``ema.std`` of evaluate.py and sample.py then asks for any length: the combination of snapshots whose weights come
    nearest (Karras et al. 2024, section 3.2 and appendix C). Samples in training are drawn with the first. Raises
    ConfigError for an empty list or a length given twice.
    """

    stds: tuple[RelativeStd, ...] = (0.05, 0.1)
    every: PositiveInt = 100

    def __post_init__(self) -> None:
        if not self.stds or len(set(self.stds)) < len(self.stds):
            raise ConfigError(f"ema.stds={list(self.stds)} must hold at least one length, and each once")

    @property
    def snapshot_every(self) -> int:  # type: ignore[override]
        return self.every

    @property
    def tracks(self) -> tuple[Average, ...]:
        return tuple(PowerFunction(std) for std in self.stds)
