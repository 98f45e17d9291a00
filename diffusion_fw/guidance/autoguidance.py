"""Guidance by a weaker model of the same data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser
from diffusion_fw.guidance.guidance import Guidance, extrapolate
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.registry import ConfigError, NonNegative, Runtime, register


@dataclass(frozen=True)
class Autoguidance(Guidance):
    """D = D_weak + scale (D_main - D_weak): scale = 1 is unguided, and then the weak model is not evaluated.

    Karras et al. 2024, "Guiding a diffusion model with a bad version of itself": ``weak`` is smaller or less trained,
    on the same condition and the same schedule.

    Raises ConfigError where the two models stand on different paths.
    """

    weak: Denoiser
    scale: float

    def __post_init__(self) -> None:
        times = self.schedule.fraction(torch.linspace(0, 1, 9, dtype=torch.float64))
        own, other = self.schedule(times), self.weak.schedule(times)
        if not (torch.allclose(own.alpha, other.alpha) and torch.allclose(own.sigma, other.sigma)):
            raise ConfigError(
                f"the weak model is on {self.weak.schedule}, the guided one on {self.schedule}; train both on one "
                "schedule, or in Python wrap the weak one in guidance=rescheduled with the other's as target"
            )

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        strong = self.denoiser(x, level, cond)
        if self.scale == 1:
            return strong
        return extrapolate(strong, self.weak(x, level, cond), torch.full_like(level.t, self.scale))


@register("guidance", "autoguidance")
def autoguidance(
    denoiser: Runtime[Denoiser],
    weak: Runtime[Denoiser | None] = None,
    load: Runtime[Callable[..., Denoiser] | None] = None,
    checkpoint: str | None = None,
    raw_weights: bool = False,
    ema_rate: float | None = None,
    ema_std: float | None = None,
    scale: NonNegative = 2.0,
) -> Autoguidance:
    """Guide away from a weaker model, ``weak`` or that of ``checkpoint``: weak + scale (main - weak).

    The weights of ``checkpoint`` are its first average unless raw_weights, ema_rate or ema_std ask for others. Raises
    ConfigError without a second model, for one that cannot be loaded, and for one on another path.
    """
    if weak is None:
        weak = _loaded(load, checkpoint, raw_weights=raw_weights, ema_rate=ema_rate, ema_std=ema_std)
    return Autoguidance(denoiser, weak, scale)


def _loaded(load: Callable[..., Denoiser] | None, checkpoint: str | None, **weights: Any) -> Denoiser:
    if load is None:
        raise ConfigError(
            "it needs a second model, which sample.py and evaluate.py load; take autoguidance out of guidance here"
        )
    if checkpoint is None:
        raise ConfigError(
            "it needs the model to guide away from, a smaller one or one that was trained less; "
            "give guidance.autoguidance.checkpoint=..."
        )
    try:
        return load(checkpoint, **weights)
    except ConfigError as error:
        raise ConfigError(f"the weaker model: {error}") from None
