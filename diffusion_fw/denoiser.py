"""What samplers see: a function of x_t and its noise level that predicts x_0 and eps."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from diffusion_fw.networks.network import Classifier, Network
from diffusion_fw.process.level import SMALLEST_SIGNAL, NoiseLevel, combine, expand, per_example, scale
from diffusion_fw.process.parameterization import Parameterization, Prediction, with_x0
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError

Noise = Callable[[Tensor], Tensor]
"""noise(like) draws standard normal noise of the shape, precision and device of ``like``."""


class Denoiser(Protocol):
    """A network, a closed-form oracle or a wrapper around another denoiser."""

    @property
    def schedule(self) -> Schedule: ...

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        """x (B, ...), level = schedule(t) with t scalar or (B,), cond as in training -> x0 and eps like x."""
        ...


def seeded(denoiser: Denoiser, noise: Noise) -> Denoiser:
    """The denoiser with its own randomness, if it has some, drawn from ``noise``."""
    own: Callable[[Noise], Denoiser] | None = getattr(denoiser, "seeded", None)
    return denoiser if own is None else own(noise)


def require_deterministic(denoiser: Denoiser, user: str) -> None:
    """ConfigError for a denoiser with randomness of its own: each evaluation is of another function."""
    if seeded(denoiser, torch.randn_like) is not denoiser:
        raise ConfigError(
            f"{user} needs a denoiser that draws no noise, but a guidance draws some at every evaluation, as "
            "guidance=imputation does; leave it out, or choose guidance=posterior"
        )


MAX_CACHED_LEVELS = 8192
MOST_AMPLIFIED = 1 / SMALLEST_SIGNAL
"""Where a relative error of F is amplified more than this in x_0, the network's x_0 says nothing."""


class NetworkDenoiser(nn.Module):
    """network(c_in x_t, label, cond) -> F, solved for x_0 and eps by the parameterization on the schedule.

    A network with twice the channels of x also predicts the variance: the second half is ``variance_logit``.

    Where F hardly determines x_0, x_0 is clamped to ``bounds``, the smallest and largest value of the data, and eps
    with it. This is so for epsilon at alpha < 0.001 sigma, such as the last row of schedule=cosine: there x_0 is a
    thousand times the error of the network, and would be all that a sample consists of.
    """

    def __init__(
        self,
        network: Network | nn.Module,
        schedule: Schedule,
        parameterization: Parameterization,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        # An nn.Module that is a Network: Python has no type for both.
        self.network = cast(nn.Module, network)
        self.schedule = schedule
        self.parameterization = parameterization
        self.bounds = bounds
        self.augmentation: Tensor | None = None
        self.precision: torch.dtype | None = None
        """What autocast computes the network in; None: no autocast but the caller's own."""
        self._cached: dict[float, tuple[float, ...]] = {}

    def augmented(self, labels: Tensor) -> NetworkDenoiser:
        """The same denoiser for examples that were augmented as ``labels`` (B, network.augment_dim) say."""
        other = copy.copy(self)
        other.augmentation = labels
        return other

    def output(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> tuple[Tensor, Tensor | None]:
        """F at x_t, and the raw variance if the network predicts it; all that an objective of F needs."""
        c_in, label = self._input(level, x)
        told = {} if self.augmentation is None else {"augmentation": self.augmentation}
        with self._autocast(x.device):
            result = self.network(scale(c_in, x), _labels(label, x), cond, **told)
        if result.shape == x.shape:
            return result, None
        mean, variance = result.chunk(2, dim=1)
        return mean, variance

    def forward(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        prediction = self.prediction(x, level, *self.output(x, level, cond))
        if self.bounds is None:
            return prediction
        if level.t.ndim:
            unknown = per_example(
                (self.parameterization.amplification(level) > MOST_AMPLIFIED).to(x.device, non_blocking=True), x
            )
            x0 = torch.where(unknown, prediction.x0.clamp(*self.bounds), prediction.x0)
            return with_x0(prediction, level, x0)
        if self._numbers(level)[-1] > MOST_AMPLIFIED:
            return with_x0(prediction, level, prediction.x0.clamp(*self.bounds))
        return prediction

    def prediction(
        self, x: Tensor, level: NoiseLevel, output: Tensor, variance_logit: Tensor | None = None
    ) -> Prediction:
        """x_0 and eps from x_t and an ``output`` of the network, unclamped, as objectives need them."""
        if level.t.ndim:
            return Prediction(*self.parameterization.solve(level, x, output), variance_logit)
        _, _, p, q, r, s, _ = self._numbers(level)
        return Prediction(combine(p, x, q, output), combine(r, x, s, output), variance_logit)

    def _autocast(self, device: torch.device) -> contextlib.AbstractContextManager[None]:
        return torch.autocast(device.type, self.precision) if self.precision else contextlib.nullcontext()

    def _input(self, level: NoiseLevel, x: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """c_in and the label; numbers for a scalar level."""
        if level.t.ndim:
            c_in, label = self.parameterization.input(level)
            return expand(c_in, x), label
        numbers = self._numbers(level)
        return numbers[0], numbers[1]

    def _numbers(self, level: NoiseLevel) -> tuple[float, ...]:
        """c_in, the label, p, q, r, s with x_0 = p x_t + q F and eps = r x_t + s F, and the amplification of F in x_0.

        They are computed once for each t.
        """
        t = float(level.t)
        if t not in self._cached:
            if len(self._cached) >= MAX_CACHED_LEVELS:
                self._cached.clear()
            given = self.parameterization
            values = (*given.input(level), *given.inverse(level), given.amplification(level))
            self._cached[t] = tuple(float(value) for value in values)
        return self._cached[t]


class NetworkClassifier(nn.Module):
    """classifier(x, level) -> the logits (B, num_classes) of log p(class | x_t), by network(c_in x_t, label).

    ``classifier`` of guidance=classifier. x (B, ...), level = schedule(t) with t scalar or (B,).
    """

    def __init__(
        self,
        network: Classifier | nn.Module,
        schedule: Schedule,
        parameterization: Parameterization,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.network = cast(nn.Module, network)
        self.schedule, self.parameterization, self.num_classes = schedule, parameterization, num_classes

    def forward(self, x: Tensor, level: NoiseLevel) -> Tensor:
        c_in, label = self.parameterization.input(level)
        logits: Tensor = self.network(expand(c_in, x) * x, _labels(label.expand(len(x)), x))
        return logits


def _labels(label: Tensor | float, x: Tensor) -> Tensor:
    """The time label of each example, float32."""
    if isinstance(label, Tensor):
        return label.to(device=x.device, dtype=torch.float32, non_blocking=True)
    return torch.full((x.shape[0],), label, dtype=torch.float32, device=x.device)


def prior(
    schedule: Schedule,
    shape: tuple[int, ...],
    noise: Noise = torch.randn_like,
    device: torch.device | str | None = None,
) -> Tensor:
    """x at t = 1 for data of scale 1: sigma(1) times standard normal noise of the given shape."""
    x = noise(torch.empty(shape, device=device))
    return expand(schedule(torch.ones((), dtype=torch.float64)).sigma, x) * x
