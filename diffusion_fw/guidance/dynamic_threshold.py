"""x_0 scaled into the data's bounds, so that few values saturate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor

from diffusion_fw.guidance.guidance import Guidance, range_of
from diffusion_fw.process.level import NoiseLevel, per_example
from diffusion_fw.process.parameterization import Prediction, with_x0
from diffusion_fw.registry import Fraction, Runtime, register


@register("guidance", "dynamic_threshold")
@dataclass(frozen=True)
class DynamicThreshold(Guidance):
    """x_0' = clamp(x_0, -s, s) / s, s = max(1, the given percentile of |x_0| within an example), and eps with it.

    Saharia et al. 2022a (Imagen), section 2.3, for data in [-1, 1]. Other bounds are mapped to [-1, 1] and back;
    without bounds (None, or infinite ones) x_0 is unchanged. ``percentile`` is a fraction of the example's
    values; at 1 x_0 is scaled only.
    """

    data_range: Runtime[tuple[float, float] | Literal["of the denoiser"] | None] = "of the denoiser"
    percentile: Fraction = 0.995

    only_bounds: ClassVar[bool] = True

    def __post_init__(self) -> None:
        found = range_of(self.data_range, self.denoiser)
        bounded = found is not None and all(map(math.isfinite, found))
        object.__setattr__(self, "data_range", found if bounded else None)

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        prediction = self.denoiser(x, level, cond)
        if self.data_range is None:
            return prediction
        low, high = cast(tuple[float, float], self.data_range)
        center, radius = (low + high) / 2, (high - low) / 2
        relative = (prediction.x0 - center) / radius
        # torch.quantile supports float32 and float64 only.
        magnitude = relative.abs().flatten(1).to(torch.promote_types(relative.dtype, torch.float32))
        threshold = magnitude.quantile(self.percentile, dim=1).clamp(min=1).to(relative.dtype)
        threshold = per_example(threshold, x)
        return with_x0(prediction, level, center + radius * (relative.clamp(-threshold, threshold) / threshold))
