"""One-step discretizations of the reverse SDE, and of the probability flow, linear in x_t and eps.

    euler_maruyama     x_s = x_t - (t - s) (f x_t + g^2 eps / sigma_t) + g sqrt(t - s) z
    reverse_diffusion  x_s = (2 - a) x_t - G^2 eps / sigma_t + G z       where the forward step is x_t = a x_s + G z
    probability_flow   x_s = (2 - a) x_t - G^2 eps / (2 sigma_t)
    ancestral          a draw from q(x_s | x_t, x0), with the posterior's variance
    stay               x_s = x_t

The step to sigma = 0 of each is x_0 = x0 without noise. This is Tweedie's formula, which removes the noise of the last
noisy level (Jolicoeur-Martineau et al. 2020).
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.process.transition import posterior
from diffusion_fw.samplers.methods.exponential import hold_eps, require_signal
from diffusion_fw.samplers.methods.linear import LinearStep, Stage


def reverse_steps(levels: NoiseLevel, c_x: Tensor, c_eps: Tensor, deviation: Tensor) -> list[LinearStep]:
    """x_s = c_x x_t + c_eps eps + deviation z between the levels (N + 1,), and x_0 = x0 to sigma = 0."""
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


def euler_maruyama(levels: NoiseLevel, schedule: Schedule) -> list[LinearStep]:
    """Song et al. 2021, equation 6 with the score -eps / sigma; f and g^2 are the schedule's rates at t."""
    start, length = levels[:-1], -levels.t.diff()
    f, g_squared = schedule.rates(start.t)
    c_x = 1 - length * f
    c_eps = -length * g_squared / start.sigma
    return reverse_steps(levels, c_x, c_eps, (length * g_squared).sqrt())


def reverse_diffusion(levels: NoiseLevel, schedule: Schedule) -> list[LinearStep]:
    """Song et al. 2021, equation 46; a = alpha_t / alpha_s, G^2 is the variance of q(x_t | x_s)."""
    start, end = levels.steps()
    variance = posterior(start, end).var_large
    c_x = 2 - start.alpha / end.alpha
    c_eps = -variance / start.sigma
    return reverse_steps(levels, c_x, c_eps, variance.sqrt())


def probability_flow(levels: NoiseLevel, schedule: Schedule) -> list[LinearStep]:
    """Song et al. 2021, equation 47: reverse diffusion with half the score and no noise."""
    start, end = levels.steps()
    c_x = 2 - start.alpha / end.alpha
    c_eps = -posterior(start, end).var_large / (2 * start.sigma)
    return reverse_steps(levels, c_x, c_eps, torch.zeros_like(c_x))


def ancestral(levels: NoiseLevel, schedule: Schedule) -> list[LinearStep]:
    """DDPM's step (Song et al. 2021, appendix F)."""
    start, end = levels.steps()
    transition = posterior(start, end)
    c_x = transition.c_xt + transition.c_x0 / start.alpha
    c_eps = -transition.c_x0 * start.sigma / start.alpha
    return reverse_steps(levels, c_x, c_eps, transition.var_small.sqrt())


def stay(levels: NoiseLevel, schedule: Schedule) -> list[LinearStep]:
    """No step, and no evaluation but that of the last, to sigma = 0."""
    zero = torch.zeros_like(levels.t[1:])
    *steps, last = reverse_steps(levels, zero + 1, zero, zero)
    return [*(step._replace(stages=(Stage(None, 1.0, ()),)) for step in steps), last]
