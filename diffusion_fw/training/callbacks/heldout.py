"""Held-out examples at fixed noise levels, and callbacks that evaluate on them at intervals."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning
import torch
from torch import Tensor

from diffusion_fw.data.dataset import Data, to_model
from diffusion_fw.noise import batch_noise, generator
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.training.callbacks.history import History
from diffusion_fw.training.callbacks.step_callback import StepCallback

BINS = 20
BIN = 2.0
MOST = 1000
STREAM = 7


@dataclass(frozen=True, eq=False)
class Heldout:
    """Held-out examples x_0 with their labels, levels and noise."""

    x0: Tensor
    labels: Tensor | None
    level: NoiseLevel
    eps: Tensor

    @staticmethod
    def of(data: Data, schedule: Schedule, seed: int) -> Heldout:
        """Up to MOST of the held-out examples, always with the same times and noise."""
        count = min(MOST, len(data.test))
        values, labels = data.test.__getitems__(range(count))
        t = schedule.fraction((torch.randperm(count, generator=generator(seed, STREAM)) + 0.5) / count)
        x0 = to_model(values)
        return Heldout(x0, labels, schedule(t.double()), batch_noise(x0, (seed, STREAM)))

    def parts(self, size: int, device: torch.device) -> Iterator[tuple[Tensor, NoiseLevel, Tensor, Tensor | None]]:
        """x_0, levels, noise and labels in parts of ``size``, on the device but for the levels."""
        for first in range(0, len(self.x0), size):
            part = slice(first, first + size)
            labels = None if self.labels is None else self.labels[part].to(device)
            yield self.x0[part].to(device), self.level[part], self.eps[part].to(device), labels

    def curve(self, values: Tensor) -> tuple[list[float], list[float]]:
        """The mean log-SNR, and the mean of the values (N,) of the examples, in BINS bins of log-SNR."""
        # The extremes of log-SNR are infinite for zero terminal SNR; bins of equal count are always finite.
        bins = [part for part in self.level.log_snr.argsort().tensor_split(min(BINS, len(self.x0))) if len(part)]
        finite = self.level.log_snr.clamp(-30, 30)
        return [float(finite[part].mean()) for part in bins], [float(values[part].mean()) for part in bins]

    def binned(self, values: Tensor) -> tuple[list[float], list[float]]:
        """The centres of the bins of width BIN that hold examples, and the mean of the values in each.

        The edges are the same for every run, so that curves of different schedules have the same abscissae.
        """
        bins = (self.level.log_snr.clamp(-30, 30) / BIN).floor()
        held = bins.unique()
        return [float(BIN * (at + 0.5)) for at in held], [float(values[bins == at].mean()) for at in held]


class IntervalCallback(StepCallback):
    """Evaluates the averaged weights every ``every`` steps and at the end; the time does not count for images/s."""

    history: History
    every: int

    def after_step(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        if step % self.every == 0 or step == trainer.max_steps:
            training = module.averaged.training
            with self.history.paused():
                module.averaged.eval()
                self.evaluate(trainer, module, step)
                module.averaged.train(training)

    @abstractmethod
    def evaluate(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        """One evaluation."""

    def follow(self, module: Any, name: str, value: float, heldout: float, step: int) -> None:
        """Record the value that best.ckpt and searches follow, and the held-out loss."""
        self.history.distances.append([step, value])
        module.log(name, value, logger=False)
        module.log("best_distance", self.history.best, logger=False)
        self.history.heldout.append([step, heldout])
