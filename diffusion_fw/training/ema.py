"""Moving averages of the weights, with which samples are drawn: theta_ema <- d theta_ema + (1 - d) theta.

none            no average
exponential     d = rate, with a warm-up
power_function  d = (1 - 1/n)^(gamma + 1) at step n: a fixed relative length of the training so far
several         several of both at once
post_hoc        power-function averages kept as snapshots, from which one of any length is made after training
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import nn

from diffusion_fw.registry import ConfigError, Fraction, PositiveInt, register
from diffusion_fw.training.power_profile import RelativeStd, exponent


class Averages(ABC):
    """What a run keeps of its weights: any number of averages, the first of which samples are drawn with."""

    snapshot_every: int | None = None
    """After how many steps all of them are written aside, for averages of other lengths after training."""

    @property
    @abstractmethod
    def tracks(self) -> tuple[Average, ...]:
        """The averages; none: samples are drawn with the trained weights."""


class Average(Averages):
    """theta_ema <- d theta_ema + (1 - d) theta after each optimizer step, d = decay(step)."""

    @property
    def tracks(self) -> tuple[Average, ...]:
        return (self,)

    @abstractmethod
    def decay(self, step: int) -> float:
        """d in [0, 1] after optimizer step ``step`` = 1, 2, ..."""

    @property
    def length(self) -> dict[str, float]:
        """The knob that tells this average from others, by which a checkpoint's user asks for it."""
        return {}

    @torch.no_grad()
    def update(self, averaged: nn.Module, trained: nn.Module, step: int) -> None:
        """One step of the average, in place, in one fused call over all parameters; buffers are copied."""
        torch._foreach_lerp_(list(averaged.parameters()), list(trained.parameters()), 1 - self.decay(step))
        for target, source in zip(averaged.buffers(), trained.buffers(), strict=True):
            target.copy_(source)


@register("ema", "none")
@dataclass(frozen=True)
class NoAverage(Averages):
    """Samples are drawn with the trained weights, and no copy of them is kept in memory."""

    @property
    def tracks(self) -> tuple[Average, ...]:
        return ()


@register("ema", "exponential")
@dataclass(frozen=True)
class Exponential(Average):
    """d = rate, at first min(rate, (1 + n) / (10 + n)) if warmup, so that the random start is soon forgotten.

    rate 0.9999 in Ho et al. 2020, appendix B; the warm-up is that of TensorFlow's ExponentialMovingAverage, which
    Song et al. 2021 use. rate 0 follows the trained weights.
    """

    rate: Fraction = 0.9999
    warmup: bool = True

    def decay(self, step: int) -> float:
        return min(self.rate, (1 + step) / (10 + step)) if self.warmup else self.rate

    @property
    def length(self) -> dict[str, float]:
        return {"rate": self.rate}


@register("ema", "power_function")
@dataclass(frozen=True)
class PowerFunction(Average):
    """d = (1 - 1 / n)^(gamma + 1), so that theta_t' weighs t'^gamma: the random start has no weight at all.

    std is the standard deviation of those weights as a part of the training time, from which gamma follows
    (Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models", section 3.1). 0.05 to
    0.1 is usual; 1 / sqrt(12), at most, weighs all steps alike.
    """

    std: RelativeStd = 0.05

    def decay(self, step: int) -> float:
        return float((1 - 1 / step) ** (exponent(self.std) + 1))

    @property
    def length(self) -> dict[str, float]:
        return {"std": self.std}


@register("ema", "several")
@dataclass(frozen=True)
class Several(Averages):
    """An exponential average for each of rates, then a power-function average for each of stds; memory for each.

    Samples are drawn with the first; the others are asked of the checkpoint by ``ema.rate`` or ``ema.std``. Raises
    ConfigError where there is none, or one twice.
    """

    rates: tuple[Fraction, ...] = (0.9999, 0.999)
    stds: tuple[RelativeStd, ...] = ()
    warmup: bool = True

    def __post_init__(self) -> None:
        for key, values in (("rates", self.rates), ("stds", self.stds)):
            if len(set(values)) < len(values):
                raise ConfigError(f"ema.{key}={list(values)} holds a length twice; give each once")
        if not self.rates and not self.stds:
            raise ConfigError("ema.rates and ema.stds are both empty; give a length, or choose ema=none")

    @property
    def tracks(self) -> tuple[Average, ...]:
        exponential = (Exponential(rate, self.warmup) for rate in self.rates)
        return (*exponential, *(PowerFunction(std) for std in self.stds))


@register("ema", "post_hoc")
@dataclass(frozen=True)
class PostHoc(Averages):
    """A power-function average for each of stds, written to the run's ``snapshots/`` every ``every`` steps in float32.

    ``ema.std`` of evaluate.py and sample.py then asks for any length: the combination of snapshots whose weights come
    nearest (Karras et al. 2024, section 3.2 and appendix C). Samples in training are drawn with the first. Raises
    ConfigError for an empty list or a length given twice.
    """

    stds: tuple[RelativeStd, ...] = (0.05, 0.1)
    every: PositiveInt = 100

    def __post_init__(self) -> None:
        if not self.stds or len(set(self.stds)) < len(self.stds):
            raise ConfigError(f"ema.stds={list(self.stds)} must hold at least one length, and each once")

    @property
    def snapshot_every(self) -> int:  # type: ignore[override]
        return self.every

    @property
    def tracks(self) -> tuple[Average, ...]:
        return tuple(PowerFunction(std) for std in self.stds)
