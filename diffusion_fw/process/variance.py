"""The variance of the reverse step: what is between the least and the largest that make sense."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.transition import posterior
from diffusion_fw.registry import ConfigError


class LogVariances(NamedTuple):
    """What the variances of reverse steps are made of, in tensors of one shape.

    log var_small; log var_large; the logarithm of what c_x0 x_0 adds for data of N(0, I), c_x0^2 Var[x_0 | x_t] with
    Var[x_0 | x_t] = sigma_t^2 / (alpha_t^2 + sigma_t^2); whether the step ends in clean data.
    """

    small: Tensor
    large: Tensor
    spread: Tensor
    to_data: Tensor

    def at(self, key: int | slice | Tensor) -> LogVariances:
        """Those of the steps selected by an index, a slice or a tensor of indices."""
        return LogVariances(*(value[key] for value in self))

    def to(self, x: Tensor) -> LogVariances:
        """Moved to the device and precision of x."""
        small, large, spread = (value.to(x.device, x.dtype, non_blocking=True) for value in self[:3])
        return LogVariances(small, large, spread, self.to_data.to(x.device, non_blocking=True))

    def expand(self, x: Tensor) -> LogVariances:
        """Values (B,), one per example, ready for arithmetic with x (B, ...)."""
        return LogVariances(*(value.view(-1, *(1,) * (x.ndim - 1)) for value in self.to(x)))


def log_variances(levels: NoiseLevel) -> LogVariances:
    """Those of the N steps between N + 1 levels from noise to data, float64.

    The step to clean data has var_small = 0, of which there is no logarithm: the decoder takes that of the step before
    it, as the code of Ho et al. 2020 and Nichol & Dhariwal 2021 do (var_large where there is no other step).
    """
    start = levels.at(slice(None, -1))
    transition = posterior(start, levels.at(slice(1, None)))
    spread = (transition.c_x0 * start.sigma / torch.hypot(start.alpha, start.sigma)).square()
    small, large = transition.var_small.clone(), transition.var_large
    to_data = transition.var_small == 0
    if bool(to_data[-1]):
        small[-1] = small[-2] if len(small) > 1 else large[-1]
    return LogVariances(small.log(), large.log(), spread.log(), to_data)


class Variance(ABC):
    """The variance of p(x_s | x_t), of which the mean is the posterior's with the predicted x_0."""

    outputs: ClassVar[int] = 1
    """What the network emits for each value of x: 1, its prediction, or 2, with a logit of the variance."""

    @abstractmethod
    def log_variance(self, step: LogVariances, logit: Tensor | None) -> Tensor:
        """log variance, of a shape that broadcasts with x; ``logit`` is the denoiser's variance_logit."""


def required(logit: Tensor | None) -> Tensor:
    """The logit; ConfigError where the denoiser has none."""
    if logit is None:
        raise ConfigError(
            "variance: a learned variance needs a model that predicts it, and this one was trained without; "
            "choose variance=small or variance=large, or train with variance=learned_range and objective=hybrid"
        )
    return logit
