"""The variance of the reverse step p(x_s | x_t), s < t, whose mean is the posterior's with the predicted x_0.

With tau = 1 - snr_t / snr_s, c_x0 = alpha_s tau and the network's v for every value of x:

    var_small = sigma_s^2 tau                the posterior's own: right for data of one point
    var_large = sigma_t^2 tau                the forward step's: right for data of N(0, I)

    small           log var = log var_small
    large           log var = log var_large
    learned_range   log var = u log var_large + (1 - u) log var_small,  u = (v + 1) / 2
    learned         log var = log var_large + v
    learned_spread  var = var_small + c_x0^2 exp(v) sigma_t^2 / (alpha_t^2 + sigma_t^2)

Every formula is written for the step (t, s) that is taken, so a model samples on any respacing of its training steps.
The step to clean data has var_small = 0, whose logarithm is replaced by that of the step before; ``large`` takes this
value there too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel, per_example
from diffusion_fw.process.rows import Rows
from diffusion_fw.process.transition import posterior
from diffusion_fw.registry import ConfigError, register


@dataclass(frozen=True, eq=False)
class LogVariances(Rows):
    """What the variances of reverse steps are made of, one row a step, in tensors of one shape."""

    small: Tensor
    """log var_small."""
    large: Tensor
    """log var_large."""
    spread: Tensor
    """log(c_x0^2 sigma_t^2 / (alpha_t^2 + sigma_t^2)): what the uncertainty of x_0 adds for data of N(0, I)."""
    to_data: Tensor
    """Whether the step ends in clean data (bool)."""

    def to(self, x: Tensor) -> LogVariances:
        """The same on the device and in the precision of x."""
        small, large, spread = (
            value.to(x.device, x.dtype, non_blocking=True) for value in (self.small, self.large, self.spread)
        )
        return LogVariances(small, large, spread, self.to_data.to(x.device, non_blocking=True))

    def expand(self, x: Tensor) -> LogVariances:
        """Rows (B,), one per example, in the form in which they broadcast with x (B, ...)."""
        return self.to(x).map(lambda value: per_example(value, x))


def log_variances(levels: NoiseLevel) -> LogVariances:
    """The logarithms for the N steps between N + 1 levels from noise to data, float64.

    The step to clean data has var_small = 0, which has no logarithm. It gets the var_small of the step before it, as in
    the code of Ho et al. 2020 and Nichol & Dhariwal 2021, or its own var_large where it is the only step.
    """
    start, end = levels.steps()
    transition = posterior(start, end)
    spread = (transition.c_x0 * start.sigma / torch.hypot(start.alpha, start.sigma)).square()
    small, large = transition.var_small.clone(), transition.var_large
    to_data = transition.var_small == 0
    if bool(to_data[-1]):
        small[-1] = small[-2] if len(small) > 1 else large[-1]
    return LogVariances(small.log(), large.log(), spread.log(), to_data)


class Variance(ABC):
    """The variance of p(x_s | x_t), whose mean is the posterior's with the predicted x_0."""

    outputs: ClassVar[int] = 1
    """What the network predicts for each value of x: 1 for F alone, 2 for F and a logit of the variance."""

    @abstractmethod
    def log_variance(self, step: LogVariances, logit: Tensor | None) -> Tensor:
        """log var, of a shape that broadcasts with x; ``logit`` is the denoiser's variance_logit.

        Raises ConfigError where a learned variance gets no logit.
        """


def required(logit: Tensor | None) -> Tensor:
    """The logit; ConfigError where the denoiser has none."""
    if logit is None:
        raise ConfigError(
            "variance: a learned variance needs a model that predicts it, and this one was trained without; "
            "choose variance=small or variance=large, or train with variance=learned_range and objective=hybrid"
        )
    return logit


@register("variance", "small")
@dataclass(frozen=True)
class Small(Variance):
    """var_small = sigma_s^2 tau, that of q(x_s | x_t, x_0): right for data of one point.

    Ho et al. 2020, section 3.2.
    """

    def log_variance(self, step: LogVariances, logit: Tensor | None) -> Tensor:
        return step.small


@register("variance", "large")
@dataclass(frozen=True)
class Large(Variance):
    """var_large = sigma_t^2 tau, beta_t on DDPM's own steps: right for data of N(0, I).

    Ho et al. 2020, section 3.2. The step to clean data has var_small, as in the paper's code.
    """

    def log_variance(self, step: LogVariances, logit: Tensor | None) -> Tensor:
        return torch.where(step.to_data, step.small, step.large)


@register("variance", "learned_range")
@dataclass(frozen=True)
class LearnedRange(Variance):
    """log var = u log var_large + (1 - u) log var_small, u = (v + 1) / 2, with the network's v for every value of x.

    Nichol & Dhariwal 2021, equation 15; v is not restricted to [-1, 1] there either.
    """

    outputs: ClassVar[int] = 2

    def log_variance(self, step: LogVariances, logit: Tensor | None) -> Tensor:
        u = (required(logit) + 1) / 2
        return u * step.large + (1 - u) * step.small


@register("variance", "learned")
@dataclass(frozen=True)
class Learned(Variance):
    """log var = log var_large + v, with the network's v for every value of x.

    The diagonal variance that Ho et al. 2020, section 4.2, found unstable to learn, here relative to the step's
    var_large, which it equals at v = 0, where a network starts.
    """

    outputs: ClassVar[int] = 2

    def log_variance(self, step: LogVariances, logit: Tensor | None) -> Tensor:
        return step.large + required(logit)


@register("variance", "learned_spread")
@dataclass(frozen=True)
class LearnedSpread(Variance):
    """var = var_small + c_x0^2 S, S = Var[x_0 | x_t] = exp(v) sigma_t^2 / (alpha_t^2 + sigma_t^2) for every value of x.

    The variance of x_s given x_t, since q(x_s | x_t, x_0) has mean c_x0 x_0 + c_xt x_t and variance var_small. It
    minimizes the bound (Bao et al. 2022, "Analytic-DPM", theorem 1, here for every value of x). S depends on t alone,
    so what was learned on short steps is right for long ones, which is not true of learned_range. At v = 0, where a
    network starts, it is exact for data of N(0, I).
    """

    outputs: ClassVar[int] = 2

    def log_variance(self, step: LogVariances, logit: Tensor | None) -> Tensor:
        spread = step.spread + required(logit)
        return torch.where(step.to_data, spread, torch.logaddexp(step.small, spread))
