"""Linear inverse problems: the part of x_t that the measurement determines is drawn again at every evaluation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, Noise, seeded
from diffusion_fw.guidance.guidance import changed
from diffusion_fw.guidance.measurement import Measured
from diffusion_fw.process.level import NoiseLevel, expand
from diffusion_fw.process.parameterization import Prediction, with_x0
from diffusion_fw.registry import Runtime, register


@register("guidance", "imputation")
@dataclass(frozen=True)
class Imputation(Measured):
    """The denoiser sees P (alpha A^+ y + sigma z) + (I - P) x_t, P = A^+ A, z new at every evaluation; y = A x_0.

    Song et al. 2021, appendix I.2: inpainting with ``mask`` and colourisation with ``channel_matrix``, where the known
    part of x_t is replaced by a draw from q(x_t | y) before each step of predictor and corrector. With
    sampler=annealed_langevin it is NCSN's inpainting (Song & Ermon 2019, algorithm 2), but for their single z of a
    level. The sample agrees with y to rounding: in the range of P x_0 is A^+ y. The rest is approximate
    (``posterior`` is closer), as the model never learned of y; Langevin steps at each level bring it closer.
    ``replacement`` keeps the noise of the sampler's own path in place of z. As the denoiser is random, sampler=ode,
    encodings and the likelihood of the flow refuse it.

    A is one of ``mask`` (an image, white where pixels are known), ``average_pool`` (the side of the blocks that are
    averaged), ``blur`` (the standard deviation of a Gaussian kernel in pixels) and ``grayscale``. y is the image
    ``measured``, or A of the image ``image``, with which samples are then compared. In place of these, ``file`` is an
    npz file with y as ``measurement`` (float values as the model sees them, or uint8 pixels) and A as one of ``mask``
    (true where known), ``average_pool``, ``blur``, ``matrix`` (for flattened examples) and ``channel_matrix`` (for
    the channels of each pixel).
    """

    noise: Runtime[Noise] = torch.randn_like

    def seeded(self, noise: Noise) -> Denoiser:
        return changed(self, denoiser=seeded(self.denoiser, noise), noise=noise)

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        operator, y, _ = self.known
        known = operator.pseudo_inverse(y.to(x))

        def inside(value: Tensor) -> Tensor:
            return operator.pseudo_inverse(operator(value))

        drawn = expand(level.alpha, x) * known + expand(level.sigma, x) * inside(self.noise(x))
        # What leads from the state that the model sees to the sampler's.
        rest = inside(x) - drawn
        prediction = self.denoiser(x - rest, level, cond)
        x0 = prediction.x0 - inside(prediction.x0) + known
        replaced = with_x0(prediction, level, x0)
        per_sigma = torch.where(level.sigma > 0, 1 / level.sigma, 0.0)
        return dataclasses.replace(replaced, eps=replaced.eps + expand(per_sigma, x) * rest)
