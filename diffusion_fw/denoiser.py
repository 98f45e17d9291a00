"""What samplers see: a function of x_t and its noise level that predicts x_0 and eps."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from diffusion_fw.networks.network import Classifier, Network
from diffusion_fw.process.level import (
    SMALLEST_SIGNAL,
    NoiseLevel,
    combine,
    expand,
    has_signal,
    per_example,
    require_level,
    scale,
)
from diffusion_fw.process.parameterization import Parameterization, Prediction, with_x0
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, as_component

Noise = Callable[[Tensor], Tensor]
"""noise(like) draws standard normal noise of the shape, precision and device of ``like``."""


class Denoiser(Protocol):
    """A network, a closed-form oracle or a wrapper around another denoiser.

    Any object with a ``schedule`` and this call is one::

        class Gaussian:
            schedule = dfw.build("schedule", "vp")

            def __call__(self, x, level, cond=None):
                x0 = level.alpha * x / (level.alpha**2 + level.sigma**2)
                return dfw.Prediction(x0, (x - level.alpha * x0) / level.sigma)
    """

    @property
    def schedule(self) -> Schedule:
        """The path x_t = alpha x_0 + sigma eps on which it denoises."""
        ...

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        """x (B, ...) at a noise level, cond as in training -> x0 and eps of the shape of x.

        ``level`` multiplies x as it is, as in ``level.alpha * x``. Its tensors are scalars where all examples have the
        same level, as under every sampler but ``ode``. Where each has its own, as under ``ode`` and in likelihoods,
        they are (B, 1, ..., 1) on the device of x. They are float64, and so may the prediction be: it is cast back.
        ``level.t.reshape(-1).expand(len(x))`` is the time of each example.

        The denoisers of this package also take levels (B,), such as ``schedule(t)`` for t (B,).
        """
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
    thousand times the error of the network, and would be all that a sample consists of. Without ``bounds`` x_0 is 0 at
    alpha < 0.001 sigma, and eps = x_t / sigma: x_t is noise, which says nothing of x_0. (-inf, inf) leaves every x_0 as
    it is.

    At other levels nothing is clamped. The programs clip x_0 by guidance=[clip]; in Python it is
    ``dfw.build("guidance", "clip", denoiser=denoiser)``.

    ``schedule`` and ``parameterization`` may be names of registered ones, with their defaults. Raises TypeError for a
    network that cannot be called as network(x, label, cond), or returns no tensor: ``dfw.wrap`` adapts it.
    """

    def __init__(
        self,
        network: Network | nn.Module,
        schedule: Schedule | str,
        parameterization: Parameterization | str,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        _check_call(network)
        # An nn.Module that is a Network: Python has no type for both.
        self.network = cast(nn.Module, network)
        self.schedule: Schedule = as_component("schedule", schedule)
        self.parameterization: Parameterization = as_component(
            "parameterization", parameterization, schedule=self.schedule
        )
        self.bounds = bounds
        self.record: dict[str, Any] | None = None
        """What the checkpoint that it was loaded from says about it."""
        self.augmentation: Tensor | None = None
        self.copies_output = False
        """Whether the network writes its outputs into the same memory each time, as a recorded CUDA graph does."""
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
        require_level(level, self)
        c_in, label = self._input(level, x)
        told = {} if self.augmentation is None else {"augmentation": self.augmentation}
        with self._autocast(x.device):
            result = self.network(scale(c_in, x), _labels(label, x), cond, **told)
        if not isinstance(result, Tensor):
            raise TypeError(
                f"network={type(self.network).__name__} returned a {type(result).__name__}, not a tensor like x; "
                "dfw.wrap(network, schedule, parameterization) takes the tensor out of it"
            )
        if self.copies_output:
            result = result.clone()
        if result.shape == x.shape:
            return result, None
        if result.shape != (len(x), 2 * x.shape[1], *x.shape[2:]):
            raise ValueError(
                f"network={type(self.network).__name__} returned the shape {tuple(result.shape)} for x of "
                f"{tuple(x.shape)}; it must be that of x, or have twice the channels where it predicts the variance"
            )
        mean, variance = result.chunk(2, dim=1)
        return mean, variance

    def forward(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        prediction = self.prediction(x, level, *self.output(x, level, cond))
        if level.t.ndim:
            unknown = per_example(self._undetermined(level).to(x.device, non_blocking=True), x)
            return with_x0(prediction, level, torch.where(unknown, self._bounded(prediction.x0), prediction.x0))
        if self._numbers(level)[-1]:
            return with_x0(prediction, level, self._bounded(prediction.x0))
        return prediction

    def _undetermined(self, level: NoiseLevel) -> Tensor:
        """Whether F hardly determines x_0 (bool, like level.t); without bounds, where x_t hardly does either."""
        amplified = self.parameterization.amplification(level) > MOST_AMPLIFIED
        return amplified if self.bounds is not None else amplified & ~has_signal(level)

    def _bounded(self, x0: Tensor) -> Tensor:
        """What is taken for an x_0 that F does not determine."""
        return torch.zeros_like(x0) if self.bounds is None else x0.clamp(*self.bounds)

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
        """c_in, the label, p, q, r, s with x_0 = p x_t + q F and eps = r x_t + s F, and whether x_0 is undetermined.

        They are computed once for each t.
        """
        t = float(level.t)
        if t not in self._cached:
            if len(self._cached) >= MAX_CACHED_LEVELS:
                self._cached.clear()
            given = self.parameterization
            values = (*given.input(level), *given.inverse(level), self._undetermined(level))
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
        require_level(level, self)
        c_in, label = self.parameterization.input(level)
        logits: Tensor = self.network(expand(c_in, x) * x, _labels(label.reshape(-1).expand(len(x)), x))
        return logits


class NetworkAutoencoder(nn.Module):
    """autoencoder(x) -> x, by a network with ``posterior`` and ``reconstruct``, while it is trained.

    It has a schedule, as all that is trained here does, on which nothing of it depends.
    """

    def __init__(self, network: nn.Module, schedule: Schedule, parameterization: Parameterization) -> None:
        super().__init__()
        self.network = network
        self.schedule, self.parameterization = schedule, parameterization

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.network(x, None, None)
        return result


def _labels(label: Tensor | float, x: Tensor) -> Tensor:
    """The time label of each example, float32."""
    if isinstance(label, Tensor):
        return label.reshape(-1).to(device=x.device, dtype=torch.float32, non_blocking=True)
    return torch.full((x.shape[0],), label, dtype=torch.float32, device=x.device)


def _check_call(network: object) -> None:
    """TypeError for a network that cannot be called with x, label and cond."""
    call = network.forward if isinstance(network, nn.Module) else network
    if not callable(call):
        raise TypeError(f"a network is called as network(x, label, cond), which a {type(network).__name__} cannot be")
    try:
        signature = inspect.signature(call)
    except (TypeError, ValueError):  # of code that is not Python's
        return
    try:
        signature.bind(None, None, None)
    except TypeError:
        raise TypeError(
            f"a network is called as network(x, label, cond), but {type(network).__name__} takes {signature}; "
            "dfw.wrap(network, schedule, parameterization) adapts it"
        ) from None


def prior(
    schedule: Schedule | str,
    shape: tuple[int, ...],
    noise: Noise = torch.randn_like,
    device: torch.device | str | None = None,
) -> Tensor:
    """x at t = 1 for data of scale 1: sigma(1) times standard normal noise of the given shape."""
    x = noise(torch.empty(shape, device=device))
    path: Schedule = as_component("schedule", schedule)
    return expand(path(torch.ones((), dtype=torch.float64)).sigma, x) * x
