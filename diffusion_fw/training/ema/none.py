"""No average."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_fw.registry import register
from diffusion_fw.training.average import Average, Averages


@register("ema", "none")
@dataclass(frozen=True)
class NoAverage(Averages):
    """Samples are drawn with the trained weights, and no copy of them is kept in memory."""

    @property
    def tracks(self) -> tuple[Average, ...]:
        return ()
