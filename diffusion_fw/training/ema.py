"""Moving averages of the weights, from which samples are drawn: theta_ema <- d theta_ema + (1 - d) theta.

none            no average
exponential     d = rate, with a warm-up
half_life       d = 2^(-B / H) for batches of B examples and a half-life of H examples, with a ramp
power_function  d = (1 - 1/n)^(gamma + 1) at step n: a fixed relative length of the training so far
several         several of both at once
post_hoc        power-function averages and snapshots of them, which give an average of any length after training
schedule_free   the average that the optimizer of this name steps with
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusion_fw.registry import ConfigError, Fraction, Positive, PositiveInt, Runtime, register
from diffusion_fw.training.power_profile import RelativeStd, exponent


class Weights(NamedTuple):
    """The tensors of a network, looked up once: a walk through its modules at each step would take a millisecond."""

    parameters: list[Tensor]
    buffers: list[Tensor]

    @classmethod
    def of(cls, network: nn.Module) -> Weights:
        """Those of a network; they stay the same tensors when values are loaded into them."""
        return cls(list(network.parameters()), list(network.buffers()))


class Averages(ABC):
    """Any number of averages of a run's weights; samples are drawn with the first."""

    snapshot_every: int | None = None
    """The number of steps between snapshots of all averages, which give averages of other lengths after training."""

    @property
    @abstractmethod
    def tracks(self) -> tuple[Average, ...]:
        """The averages; without any, samples are drawn with the trained weights."""

    @property
    def weights_name(self) -> str:
        """The weights that samples are drawn with, as the names of metrics call them: "ema", or "raw" if trained."""
        return "ema" if self.tracks else "raw"


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
        """The parameter that distinguishes this average and selects it in a checkpoint: ``ema.rate`` or ``ema.std``."""
        return {}

    @torch.no_grad()
    def update(self, averaged: Weights, trained: Weights, step: int, optimizer: torch.optim.Optimizer) -> None:
        """One step of the average, in place, by one fused call over all parameters; buffers are copied.

        ``optimizer`` is the one that took the step.
        """
        torch._foreach_lerp_(averaged.parameters, trained.parameters, 1 - self.decay(step))
        for target, source in zip(averaged.buffers, trained.buffers, strict=True):
            target.copy_(source)


@register("ema", "none")
@dataclass(frozen=True)
class NoAverage(Averages):
    """No average: samples are drawn with the trained weights, and no copy of them is kept."""

    @property
    def tracks(self) -> tuple[Average, ...]:
        return ()


@register("ema", "exponential")
@dataclass(frozen=True)
class Exponential(Average):
    """d = rate; with ``warmup`` d = min(rate, (1 + n) / (10 + n)), which soon forgets the random start.

    Ho et al. 2020, appendix B, use rate 0.9999. The warm-up is that of TensorFlow's ExponentialMovingAverage, which
    Song et al. 2021 use. With rate 0 the average equals the trained weights.
    """

    rate: Fraction = 0.9999
    warmup: bool = True

    def decay(self, step: int) -> float:
        return min(self.rate, (1 + step) / (10 + step)) if self.warmup else self.rate

    @property
    def length(self) -> dict[str, float]:
        return {"rate": self.rate}


@register("ema", "half_life")
@dataclass(frozen=True)
class HalfLife(Average):
    """d = 2^(-B / min(H, ramp i)) for batches of B examples, a half-life of H = ``images`` and i examples so far.

    ``ramp`` keeps the half-life at that share of the training so far, which forgets the random start; null leaves it
    out. The defaults are those of Karras et al. 2022 (EDM), table 7: 500 k images and 5%. In a checkpoint it is
    the average of ema.rate = 2^(-B / H).
    """

    batch_size: Runtime[int]
    images: Positive = 500_000.0
    ramp: Positive | None = 0.05

    def decay(self, step: int) -> float:
        seen = (step - 1) * self.batch_size
        half_life = self.images if self.ramp is None else min(self.images, self.ramp * seen)
        return 0.5 ** (self.batch_size / half_life) if half_life > 0 else 0.0

    @property
    def length(self) -> dict[str, float]:
        return {"rate": 0.5 ** (self.batch_size / self.images)}


@register("ema", "power_function")
@dataclass(frozen=True)
class PowerFunction(Average):
    """d = (1 - 1 / n)^(gamma + 1), so that theta_t' has the weight t'^gamma; the random start has none.

    ``std``, the standard deviation of these weights relative to the training time, determines gamma (Karras et al.
    2024b, "Analyzing and Improving the Training Dynamics of Diffusion Models", section 3.1). 0.05 to 0.1 is usual; the
    largest, 1 / sqrt(12), weighs all steps equally.
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
    """An exponential average for each of ``rates`` and a power-function average for each of ``stds``, in this order.

    Each is a copy of the network in memory. Samples are drawn with the first; ``ema.rate`` or ``ema.std`` of sample.py
    and evaluate.py selects another. Raises ConfigError for two empty lists and for a length given twice.
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
    """A power-function average for each of ``stds``; snapshots of them make averages of any length after training.

    Snapshots are written to the run's ``snapshots/`` every ``every`` steps, in float32. ``ema.std`` of sample.py and
    evaluate.py selects any length: the combination of snapshots with the nearest weights (Karras et al. 2024b, section
    3.2 and appendix C). During training samples are drawn with the first. Raises ConfigError for an empty list and for
    a length given twice.
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


@register("ema", "schedule_free")
@dataclass(frozen=True)
class ScheduleFree(Average):
    """x = y + (1 - 1 / beta_1) (z - y) of optimizer=schedule_free, whose trained weights are y (Defazio et al. 2024).

    It is computed from the optimizer's z after each step, and no weight of the training is changed for it.
    """

    def decay(self, step: int) -> float:
        """0: the average remembers nothing itself."""
        return 0.0

    @torch.no_grad()
    def update(self, averaged: Weights, trained: Weights, step: int, optimizer: torch.optim.Optimizer) -> None:
        super().update(averaged, trained, step, optimizer)
        # A parameter that is not trained has no z, and neither has any before the first step that is not skipped.
        z = [optimizer.state.get(item, {}).get("z", item) for item in trained.parameters]
        torch._foreach_lerp_(averaged.parameters, z, 1 - 1 / optimizer.param_groups[0]["betas"][0])
