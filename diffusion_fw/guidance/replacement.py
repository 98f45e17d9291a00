"""Linear inverse problems by replacing what the measurement determines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diffusion_fw.guidance.guidance import Guidance, with_x0
from diffusion_fw.guidance.operators import LinearOperator
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.registry import Runtime, register


@register("guidance", "replacement")
@dataclass(frozen=True)
class Replacement(Guidance):
    """x_0' = A^+ y + (x_0 - A^+ A x_0) for a noiseless measurement y = A x_0, and eps with it.

    Wang et al. 2023 (DDNM), the range-null space decomposition: the measured part of x_0 is y's, the null space of A is
    the model's. With a mask this is inpainting by replacement (Song et al. 2021, appendix I.2; Lugmayr et al. 2022) at
    the level of the denoiser, so that it holds under any sampler, and the samples agree with y to rounding. The rest
    of x_0 learns of y only through the steps that follow, so the posterior is approximate (``posterior`` is sharper).

    measurement: of one example's shape, or (B, ...). Stack it after a guidance that doubles the batch.
    """

    operator: Runtime[LinearOperator]
    measurement: Runtime[Tensor]

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        prediction = self.denoiser(x, level, cond)
        x0 = prediction.x0
        null_space = x0 - self.operator.pseudo_inverse(self.operator(x0))
        return with_x0(prediction, level, self.operator.pseudo_inverse(self.measurement.to(x0)) + null_space)
