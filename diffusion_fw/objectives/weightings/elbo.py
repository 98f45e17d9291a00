"""The weights of the variational bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from diffusion_fw.objectives.weighting import Weighting
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import Runtime, register


@register("weighting", "elbo")
@dataclass(frozen=True)
class ELBO(Weighting):
    """w_x0 = -1/2 d snr / dt, w_eps = -1/2 d log_snr / dt: the likelihood bound in nats per dimension for t uniform.

    Kingma et al. 2021, equations 16 and 17; on a table T / 2 (snr_{k-1} - snr_k), equation 13.
    """

    schedule: Runtime[Schedule]

    space: ClassVar[Literal["native", "eps", "x0"]] = "x0"

    def __call__(self, level: NoiseLevel) -> Tensor:
        return self.schedule.elbo_weight(level.t)
