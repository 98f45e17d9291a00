"""x_0 clamped to the data's bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

from torch import Tensor

from diffusion_fw.guidance.guidance import Guidance, range_of
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Prediction, with_x0
from diffusion_fw.registry import Runtime, register


@register("guidance", "clip")
@dataclass(frozen=True)
class Clip(Guidance):
    """x_0 clamped to the bounds of the data, and eps with it; unchanged for data without bounds (None).

    In Python ``data_range`` is by default the ``bounds`` of the denoiser, or [-1, 1] for one that knows none.

    Ho et al. 2020 clamp x_0 in their samplers: the posterior mean of bounded data lies within the bounds.
    """

    data_range: Runtime[tuple[float, float] | Literal["of the denoiser"] | None] = "of the denoiser"

    only_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "data_range", range_of(self.data_range, self.denoiser))

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        prediction = self.denoiser(x, level, cond)
        if self.data_range is None:
            return prediction
        return with_x0(prediction, level, prediction.x0.clamp(*cast(tuple[float, float], self.data_range)))
