"""The base of every guidance, a denoiser that wraps a denoiser, and how to change a prediction consistently."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser, Noise, seeded
from diffusion_fw.guidance.operators import LinearOperator
from diffusion_fw.process.level import NoiseLevel, expand, has_signal
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import Runtime

Kept = TypeVar("Kept", bound="Guidance")


class Known(NamedTuple):
    """What is known of an example: y = A x_0, perhaps with noise, and x_0 itself where y was made of it."""

    operator: LinearOperator
    y: Tensor
    """Of one example, or (B, ...)."""
    original: Tensor | None = None


@dataclass(frozen=True)
class Guidance(ABC):
    """A denoiser on the schedule of the one it wraps. Several are nested, the first of a config innermost."""

    denoiser: Runtime[Denoiser]

    asks_without_label: ClassVar[bool] = False
    """Whether it evaluates a class-conditional model without a label, which needs training with label dropout."""
    only_bounds: ClassVar[bool] = False
    """Whether all that it does is to keep x_0 within the bounds of the data, which a likelihood leaves out."""

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The smallest and largest value of the data, if the wrapped denoiser knows them."""
        return getattr(self.denoiser, "bounds", None)

    @property
    def classes(self) -> int:
        """The number of classes of the labels that a guidance takes and the wrapped model does not; 0 for none."""
        return getattr(self.denoiser, "classes", 0)

    @property
    def known(self) -> Known | None:
        """The measurement of which samples are drawn; None without."""
        return getattr(self.denoiser, "known", None)

    def seeded(self, noise: Noise) -> Denoiser:
        """This guidance with the randomness of all that it wraps drawn from ``noise``; itself if there is none."""
        inner = seeded(self.denoiser, noise)
        return self if inner is self.denoiser else changed(self, denoiser=inner)

    @abstractmethod
    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        """x (B, ...), level = schedule(t) with t scalar or (B,), and cond for the wrapped denoiser."""


def changed(guidance: Kept, **fields: Any) -> Kept:
    """A copy with other values of some fields, which keeps what the guidance has loaded or computed."""
    result = copy.copy(guidance)
    for name, value in fields.items():
        object.__setattr__(result, name, value)
    return result


def without_bounds(denoiser: Denoiser) -> Denoiser:
    """The denoiser without those of its guidances that only bound x_0; itself if there are none."""
    if not isinstance(denoiser, Guidance):
        return denoiser
    inner = without_bounds(denoiser.denoiser)
    if denoiser.only_bounds:
        return inner
    return denoiser if inner is denoiser.denoiser else changed(denoiser, denoiser=inner)


def range_of(given: tuple[float, float] | str | None, denoiser: Denoiser) -> tuple[float, float] | None:
    """The range of the data as it is given, or else the bounds of the denoiser, or else [-1, 1]."""
    if not isinstance(given, str):
        return given
    bounds: tuple[float, float] | None = getattr(denoiser, "bounds", None)
    return (-1.0, 1.0) if bounds is None else bounds


def same_path(first: Schedule, second: Schedule) -> bool:
    """Whether two schedules have the same alpha and sigma at all times."""
    times = first.fraction(torch.linspace(0, 1, 9, dtype=torch.float64))
    own, other = first(times), second(times)
    return torch.allclose(own.alpha, other.alpha) and torch.allclose(own.sigma, other.sigma)


def with_gradient(prediction: Prediction, level: NoiseLevel, gradient: Tensor) -> Prediction:
    """The prediction with a gradient of a log-density of x_t added to the score -eps / sigma.

    eps' = eps - sigma gradient and x_0' = x_0 + (sigma^2 / alpha) gradient. At alpha < 0.001 sigma, where the density
    hardly depends on x_t and an error of its gradient would be all of x_0', the prediction is unchanged.
    """
    guided = has_signal(level)
    c_eps = torch.where(guided, level.sigma, 0.0)
    c_x0 = torch.where(guided, level.sigma * torch.exp(-level.log_snr / 2), 0.0)
    x0 = prediction.x0 + expand(c_x0, gradient) * gradient
    eps = prediction.eps - expand(c_eps, gradient) * gradient
    return dataclasses.replace(prediction, x0=x0, eps=eps)


def linearize(
    denoiser: Denoiser, x: Tensor, level: NoiseLevel, cond: Any = None
) -> tuple[Prediction, Callable[[Tensor], Tensor]]:
    """The prediction at x and the map v -> (dx_0/dx)^T v, by one evaluation.

    The map works under ``no_grad`` and ``inference_mode``, and is differentiable where the caller records gradients.
    """

    def predict(x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        prediction = denoiser(x, level, cond)
        rest = (prediction.eps, prediction.variance_logit)
        return prediction.x0, tuple(value for value in rest if value is not None)

    x0, pullback, rest = torch.func.vjp(predict, x, has_aux=True)  # type: ignore[misc]
    return Prediction(x0, *rest), lambda vector: pullback(vector)[0]


def extrapolate(strong: Prediction, weak: Prediction, scale: Tensor) -> Prediction:
    """weak + scale (strong - weak) for x_0 and eps, with the variance of ``strong``; scale float64, scalar or (B,).

    Both change alike, so x_t = alpha x_0 + sigma eps holds for the result; scale = 1 is ``strong`` to the bit.
    """
    excess = expand(scale - 1, strong.x0)
    x0 = strong.x0 + excess * (strong.x0 - weak.x0)
    eps = strong.eps + excess * (strong.eps - weak.eps)
    return Prediction(x0, eps, strong.variance_logit)
