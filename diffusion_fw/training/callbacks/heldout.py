"""Callbacks that evaluate on held-out examples at intervals."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import lightning

from diffusion_fw.training.callbacks.history import History
from diffusion_fw.training.callbacks.step_callback import StepCallback


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
