"""Models of other code as denoisers: a network of another signature, and a function of x and sigma."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, overload

import torch
from torch import Tensor, nn

from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.process.level import SMALLEST_SIGNAL, NoiseLevel, expand, has_signal, require_level
from diffusion_fw.process.parameterization import Parameterization, Prediction
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import as_component


@overload
def wrap(
    model: Callable[..., Any],
    schedule: Schedule | str,
    parameterization: Parameterization | str,
    *,
    cond: str | None = None,
    bounds: tuple[float, float] | None = None,
) -> NetworkDenoiser: ...
@overload
def wrap(
    model: Callable[..., Any],
    schedule: Schedule | str,
    parameterization: None = None,
    *,
    cond: str | None = None,
    bounds: tuple[float, float] | None = None,
) -> SigmaDenoiser: ...
def wrap(
    model: Callable[..., Any],
    schedule: Schedule | str,
    parameterization: Parameterization | str | None = None,
    *,
    cond: str | None = None,
    bounds: tuple[float, float] | None = None,
) -> NetworkDenoiser | SigmaDenoiser:
    """A model of other code as a denoiser, which every sampler and guidance takes.

    With a ``parameterization``, ``model(x, label)`` is a network: what it returns is F, and ``label`` (B,) the time
    label of the parameterization. It may also return an object with F as ``sample``, as diffusers' models do, or a
    tuple that begins with F. The result is a ``NetworkDenoiser``, which can be trained.

    Without, ``model(x, sigma)`` is a denoiser itself: x_0 from x = x_0 + sigma eps, sigma (B,), as EDM and
    k-diffusion have it. On any schedule it is asked at sigma = sigma_t / alpha_t and x = x_t / alpha_t.

    ``cond`` is the argument by which the model takes its classes, such as "class_labels"; it takes none without.
    ``bounds`` are the smallest and the largest value of the data. ``schedule`` and ``parameterization`` may be names.
    Raises TypeError for a model that returns something else.
    """
    if parameterization is None:
        return SigmaDenoiser(model, as_component("schedule", schedule), cond, bounds)
    return NetworkDenoiser(OtherNetwork(model, cond), schedule, parameterization, bounds)


def _called(model: Callable[..., Any], x: Tensor, position: Tensor, cond: Any, name: str | None) -> Tensor:
    """The tensor that a model returns for x, its time label or sigma, and the classes by this name."""
    result = model(x, position) if name is None or cond is None else model(x, position, **{name: cond})
    result = getattr(result, "sample", result)
    if isinstance(result, (tuple, list)) and result:
        result = result[0]
    if not isinstance(result, Tensor):
        raise TypeError(
            f"{_name(model)} returned a {type(result).__name__}; it must return a tensor like x, an object with it as "
            "`sample`, or a tuple that begins with it"
        )
    return result


def _name(model: object) -> str:
    return getattr(model, "__name__", type(model).__name__)


class OtherNetwork(nn.Module):
    """network(x, label, cond) of a model that is called as model(x, label), or with the classes by another name."""

    def __init__(self, model: Callable[..., Any], cond: str | None) -> None:
        super().__init__()
        self.model, self.cond = model, cond
        self.class_conditional = cond is not None

    def forward(self, x: Tensor, label: Tensor, cond: Tensor | None = None) -> Tensor:
        return _called(self.model, x, label, cond, self.cond)


class SigmaDenoiser(nn.Module):
    """x_0 = model(x_t / alpha, sigma / alpha), eps = (x_t - alpha x_0) / sigma, on any schedule.

    Where x_t holds no signal (alpha < 0.001 sigma), the model is asked at sigma = 1000.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        schedule: Schedule,
        cond: str | None = None,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.schedule, self.cond, self.bounds = model, schedule, cond, bounds

    def forward(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        require_level(level, self)
        sigma = torch.exp(-level.log_snr / 2).clamp(max=1 / SMALLEST_SIGNAL)
        # 1 / alpha, which has a limit where x_t is noise alone.
        scale = torch.where(has_signal(level), 1 / level.alpha, sigma / level.sigma)
        each = sigma.reshape(-1).expand(len(x)).to(device=x.device, dtype=x.dtype, non_blocking=True)
        x0 = _called(self.model, expand(scale, x) * x, each, cond, self.cond)
        if x0.shape != x.shape:
            raise ValueError(
                f"{_name(self.model)} returned the shape {tuple(x0.shape)} for x of {tuple(x.shape)}; x_0 is like x"
            )
        # At sigma = 0 any eps fits.
        per_sigma = torch.where(level.sigma > 0, 1 / level.sigma, 0.0)
        return Prediction(x0, expand(per_sigma, x) * (x - expand(level.alpha, x) * x0))
