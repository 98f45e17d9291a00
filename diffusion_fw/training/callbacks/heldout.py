"""Callbacks that evaluate on held-out examples at intervals."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import lightning
import torch

from diffusion_fw.metrics.metric import TrackedMetric
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.callbacks.history import History
from diffusion_fw.training.callbacks.step_callback import StepCallback
from diffusion_fw.training.lightning_internals import stops, validate

DISTANCE, BEST_DISTANCE, HELDOUT = "distance", "best_distance", "heldout/loss"
"""The names under which callbacks see the value that best.ckpt follows, the smallest so far, and the held-out loss."""


class IntervalCallback(StepCallback):
    """Evaluates the averaged weights every ``every`` steps and at the end; the time does not count for images/s.

    A trainer with an integer ``val_check_interval`` evaluates every so many batches instead.

    An evaluation is a run of Lightning's validation loop: other callbacks see its hooks, and its numbers in
    ``trainer.callback_metrics``. It belongs to the step, so that a checkpoint after the step holds it. Callbacks that
    are due at the same step share one run.
    """

    history: History
    metric: TrackedMetric
    every: int
    further: tuple[str, ...] = ()
    """The names of numbers that ``follow`` is given besides those of ``keys``."""
    _evaluated = -1

    @abstractmethod
    def evaluate(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        """One evaluation, which calls ``follow``."""

    def keys(self, weights: str) -> tuple[str, ...]:
        """The names of the numbers that other callbacks see, for weights of this name."""
        return DISTANCE, BEST_DISTANCE, self.metric.name(weights), HELDOUT, *self.further

    def is_due(self, trainer: lightning.Trainer, step: int) -> bool:
        """Whether this step ends with an evaluation."""
        return step % self.every == 0 or stops(trainer)

    def after_step(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        if self._evaluated == step or not self.is_due(trainer, step):
            return
        with self.history.paused():
            validate(trainer)
        if self._evaluated != step:
            raise ConfigError("trainer: its limit_val_batches leaves out the validation, in which evaluations are made")

    def on_validation_batch_start(
        self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        step = trainer.global_step
        # A trainer of one's own may start a validation too, before the first step or at the end.
        if not trainer.sanity_checking and self._evaluated != step and self.is_due(trainer, step):
            self._evaluated = step
            self.evaluate(trainer, pl_module, step)

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        interval, accumulated = trainer.val_check_interval, trainer.accumulate_grad_batches
        if not isinstance(interval, int):
            return
        if interval % accumulated:
            raise ConfigError(
                f"trainer.val_check_interval={interval} is a number of batches, of which a step has "
                f"trainer.accumulate_grad_batches={accumulated}; set it to a multiple of that"
            )
        self.every = interval // accumulated

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # A resumed run may end before its next evaluation.
        trainer.callback_metrics[BEST_DISTANCE] = torch.tensor(self.history.best)

    def follow(self, module: Any, step: int, value: float, numbers: Mapping[str, float]) -> None:
        """Record the value that best.ckpt and searches follow, and show callbacks all numbers of the evaluation.

        Among the numbers are the value, under the metric's own name, and the held-out loss.
        """
        self.history.distances.append([step, value])
        self.history.heldout.append([step, numbers[HELDOUT]])
        shown = {DISTANCE: value, BEST_DISTANCE: self.history.best, **numbers}
        module.log_dict(shown, logger=False, batch_size=1)
