"""Steps of the reverse SDE that are linear in x and eps, and how all of them end."""

from __future__ import annotations

from torch import Tensor

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.samplers.methods.exponential import hold_eps, require_signal
from diffusion_fw.samplers.methods.linear import LinearStep, Stage


def reverse_steps(levels: NoiseLevel, c_x: Tensor, c_eps: Tensor, deviation: Tensor) -> list[LinearStep]:
    """x_s = c_x x_t + c_eps eps + deviation z between the levels (N + 1,); to sigma = 0 the step is x_0 = x0, no noise.

    The last step so is Tweedie's formula, which leaves none of the noise that the grid's last noisy level holds
    (Jolicoeur-Martineau et al. 2020).
    """
    require_signal(levels, "where a step of the reverse SDE has no limit")
    start, end = levels.steps()
    denoise_x, denoise_eps = hold_eps(start, end)
    clean = end.sigma == 0
    rows = (
        end.t.tolist(),
        start.unbind(),
        denoise_x.where(clean, c_x).tolist(),
        denoise_eps.where(clean, c_eps).tolist(),
        deviation.masked_fill(clean, 0).tolist(),
    )
    return [
        LinearStep(t, (Stage(level, scale, (gain,)),), noise)
        for t, level, scale, gain, noise in zip(*rows, strict=True)
    ]
