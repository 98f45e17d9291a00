"""The variational bound of a chain of reverse steps: bits per dimension of discrete data."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusion_fw.process.level import NoiseLevel, per_example
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.schedule import DiscreteSchedule, Schedule
from diffusion_fw.process.transition import posterior
from diffusion_fw.process.variance import Variance, log_variances
from diffusion_fw.registry import ConfigError

BIN = 2 / 255
"""The distance of neighbouring pixel values in [-1, 1]."""


def discretised_log_likelihood(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """log of the mass of N(mean, var) within half a bin of each pixel value x in [-1, 1]; elementwise, nats.

    The first and the last bin reach to infinity (Ho et al. 2020, equation 13). The exact distribution function is used,
    in a form whose gradient does not vanish however far x is from the mean.
    """
    precision = torch.exp(-log_variance / 2)
    low = torch.where(x < -1 + BIN / 2, -torch.inf, (x - mean - BIN / 2) * precision)
    high = torch.where(x > 1 - BIN / 2, torch.inf, (x - mean + BIN / 2) * precision)
    return _log_normal_mass(low, high)


def _log_normal_mass(low: Tensor, high: Tensor) -> Tensor:
    """log(Phi(high) - Phi(low)), computed in the tail where both are small."""
    upper = low + high > 0
    low, high = torch.where(upper, -high, low), torch.where(upper, -low, high)
    # A bin that reaches to infinity has no second term, and its gradient would be NaN.
    tail = low == -torch.inf
    log_high = torch.special.log_ndtr(high)
    ratio = torch.special.log_ndtr(torch.where(tail, -1.0, low)) - torch.where(tail, 0.0, log_high)
    result: Tensor = log_high + torch.where(tail, 0.0, torch.log(-torch.expm1(ratio)))
    return result


def kl_normal(squared_difference: Tensor, log_variance_q: Tensor, log_variance_p: Tensor) -> Tensor:
    """KL(N(m_q, v_q) || N(m_p, v_p)) in nats, elementwise, for (m_q - m_p)^2 and the logarithms of v_q and v_p."""
    difference = log_variance_q - log_variance_p
    return (torch.expm1(difference) - difference + squared_difference * torch.exp(-log_variance_p)) / 2


class VariationalBound:
    """-log p(x_0) <= L_T + sum of L over the steps t -> s of a chain, in bits per dimension.

    L_T = KL(q(x_T | x_0) || N(0, sigma_T^2)), the distribution from which samplers start.
    L = KL(q(x_s | x_t, x_0) || p(x_s | x_t)); for the last step, to clean data, -log of the discretised Gaussian.
    Sohl-Dickstein et al. 2015; Ho et al. 2020, equations 5 and 13. Any chain of levels has its bound, so a respaced
    model has its own (Nichol & Dhariwal 2021).

    levels (N + 1,) go from noise to clean data; data are pixel values in [-1, 1].
    """

    def __init__(self, levels: NoiseLevel, variance: Variance) -> None:
        self.levels, self.variance = levels, variance
        transition = posterior(*levels.steps())
        self.c_x0 = transition.c_x0
        self.log_variances = log_variances(levels)
        self.steps = len(self.c_x0)

    @classmethod
    def of_table(cls, schedule: Schedule, variance: Variance, user: str) -> VariationalBound:
        """The bound over all rows of a table; a ConfigError that names ``user`` for a continuous schedule."""
        if not isinstance(schedule, DiscreteSchedule):
            raise ConfigError(
                f"{user} sums over the rows of a table, but this schedule is continuous; "
                "choose a table such as schedule=cosine or schedule=linear"
            )
        return cls(
            schedule(torch.arange(schedule.num_steps, -1, -1, dtype=torch.float64) / schedule.num_steps), variance
        )

    def prior(self, x0: Tensor) -> Tensor:
        """L_T (B,) of x0 (B, ...): mean of (alpha_T x_0 / sigma_T)^2 / 2."""
        squared_ratio = float(self.levels.log_snr[0].exp())
        return squared_ratio * x0.square().flatten(1).mean(1) / (2 * math.log(2))

    def term(self, prediction: Prediction, x0: Tensor, step: Tensor) -> Tensor:
        """L (B,) of the steps with indices ``step`` (B,), on the host; 0 is the first step, from noise."""
        bits = torch.empty(len(x0), device=x0.device, dtype=x0.dtype)
        decoded = self.log_variances.to_data[step]
        for compute, chosen in ((self._kl, (~decoded).nonzero()[:, 0]), (self._decoder, decoded.nonzero()[:, 0])):
            if len(chosen):
                rows = chosen.to(x0.device, non_blocking=True)
                logit = prediction.variance_logit
                part = Prediction(prediction.x0[rows], prediction.eps[rows], None if logit is None else logit[rows])
                nats = compute(part, x0[rows], step[chosen]).flatten(1).mean(1)
                bits = bits.index_copy(0, rows, nats / math.log(2))
        return bits

    def _kl(self, prediction: Prediction, x0: Tensor, step: Tensor) -> Tensor:
        variances = self.log_variances[step].expand(x0)
        c_x0 = per_example(self.c_x0[step].to(x0), x0)
        log_variance = self.variance.log_variance(variances, prediction.variance_logit)
        return kl_normal((c_x0 * (x0 - prediction.x0)).square(), variances.small, log_variance)

    def _decoder(self, prediction: Prediction, x0: Tensor, step: Tensor) -> Tensor:
        variances = self.log_variances[step].expand(x0)
        log_variance = self.variance.log_variance(variances, prediction.variance_logit)
        return -discretised_log_likelihood(x0, prediction.x0, log_variance.expand_as(x0))
