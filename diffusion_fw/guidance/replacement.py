"""Linear inverse problems: the part of x_0 that the measurement determines is replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from diffusion_fw.guidance.measurement import Measured
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Prediction, with_x0
from diffusion_fw.registry import register


@register("guidance", "replacement")
@dataclass(frozen=True)
class Replacement(Measured):
    """x_0' = A^+ y + (x_0 - A^+ A x_0) for a noiseless measurement y = A x_0, and eps with it.

    Wang et al. 2023 (DDNM), the range-null space decomposition: the range of A^+ comes from y, the null space of A from
    the model. With a mask this is inpainting by replacement, done in the denoiser, so it works with any sampler, and
    the samples agree with y to rounding. (Song et al. 2021, appendix I.2, and Lugmayr et al. 2022 replace x_t by a new
    draw at every step: guidance=imputation.) The rest of x_0 depends on
    y only through later steps, so the posterior is approximate (``posterior`` is closer).

    A is one of ``mask`` (an image, white where pixels are known), ``average_pool`` (the side of the blocks that are
    averaged), ``blur`` (the standard deviation of a Gaussian kernel in pixels) and ``grayscale``. y is the image
    ``measured``, or A of the image ``image``, with which samples are then compared. In place of these, ``file`` is an
    npz file with y as ``measurement`` (float values as the model sees them, or uint8 pixels) and A as one of ``mask``
    (true where known), ``average_pool``, ``blur``, ``matrix`` (for flattened examples) and ``channel_matrix`` (for
    the channels of each pixel).
    """

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        operator, y, _ = self.known
        prediction = self.denoiser(x, level, cond)
        x0 = prediction.x0
        null_space = x0 - operator.pseudo_inverse(operator(x0))
        return with_x0(prediction, level, operator.pseudo_inverse(y.to(x0)) + null_space)
