"""Guidance by a weaker model of the same data."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.denoiser import Denoiser
from diffusion_fw.guidance.guidance import Guidance, extrapolate, same_path
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.registry import ConfigError, NonNegative, Runtime, register


@register("guidance", "autoguidance")
@dataclass(frozen=True)
class Autoguidance(Guidance):
    """D = D_weak + scale (D_main - D_weak): scale = 1 is unguided, and then the weak model is not evaluated.

    Karras et al. 2024a. The weak model is smaller or less trained, and evaluated on the same condition. It is ``weak``,
    or the one that ``load`` makes of ``checkpoint``: its first average, unless raw_weights, ema_rate or ema_std choose
    other weights.

    Raises ConfigError without a second model, for one that cannot be loaded, and for one on another schedule.
    """

    weak: Runtime[Denoiser | None] = None
    load: Runtime[Callable[..., Denoiser] | None] = None
    checkpoint: str | None = None
    raw_weights: bool = False
    ema_rate: float | None = None
    ema_std: float | None = None
    scale: NonNegative = 2.0

    def __post_init__(self) -> None:
        if not same_path(self.schedule, self.second.schedule):
            raise ConfigError(
                f"the weak model is on {self.second.schedule}, the guided one on {self.schedule}; train both on one "
                "schedule, or in Python wrap the weak one in guidance=rescheduled with the other's as target"
            )

    @functools.cached_property
    def second(self) -> Denoiser:
        """The weak model."""
        if self.weak is not None:
            return self.weak
        if self.load is None:
            raise ConfigError(
                "it needs a second model, which sample.py and evaluate.py load; remove autoguidance from guidance here"
            )
        if self.checkpoint is None:
            raise ConfigError(
                "it needs the model to guide away from, a smaller or less trained one; "
                "give guidance.autoguidance.checkpoint=..."
            )
        try:
            return self.load(
                self.checkpoint, raw_weights=self.raw_weights, ema_rate=self.ema_rate, ema_std=self.ema_std
            )
        except ConfigError as error:
            raise ConfigError(f"the weaker model: {error}") from None

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        strong = self.denoiser(x, level, cond)
        if self.scale == 1:
            return strong
        return extrapolate(strong, self.second(x, level, cond), torch.full_like(level.t, self.scale))
