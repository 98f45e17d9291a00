"""Writes checkpoints: ``last`` at intervals and at the end, ``best`` by distance."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint

from diffusion_fw.files import remove_unfinished
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.callbacks.history import History
from diffusion_fw.training.callbacks.step_callback import StepCallback
from diffusion_fw.training.lightning_internals import stops
from diffusion_fw.training.os_errors import warn_once

LAST, BEST = "last.ckpt", "best.ckpt"


class UnsavedError(ConfigError):
    """A run that could not write its final checkpoint."""


class Checkpoints(StepCallback, Checkpoint):
    """Saves ``last.ckpt`` every ``every`` steps and at the end, and ``best.ckpt`` after the best evaluation so far.

    The files are always whole. A failed write is logged once and repeated at the next interval; if it was the best,
    the best of the following evaluations replaces it. Lightning calls this callback after all others, such as the
    evaluation, wherever it is in the config. Raises UnsavedError if the final state could not be written.
    """

    def __init__(self, *, history: History, folder: Path, every: int) -> None:
        self.history, self.folder, self.every = history, folder, every
        self._kept = math.inf

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            remove_unfinished(self.folder)
        exists = trainer.strategy.broadcast((self.folder / BEST).exists())
        self._kept = self.history.best if exists else math.inf

    def after_step(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        distances = self.history.distances
        evaluated, last = bool(distances) and distances[-1][0] == step, stops(trainer)
        if not evaluated and step % self.every and not last:
            return
        with self.history.paused():
            if evaluated and distances[-1][1] <= self._kept:
                error = self.save(trainer, BEST)
                if error:
                    self._warn(BEST, error, "training continues, and the best of the next evaluations is saved")
                # Only the process that writes knows whether it succeeded.
                self._kept = trainer.strategy.broadcast(self._kept if error else distances[-1][1])
            error = self.save(trainer, LAST)
        if not error:
            return
        if last:
            raise UnsavedError(
                f"the final checkpoint {self.folder / LAST} could not be written: {error}; "
                "an existing file is of an earlier step"
            )
        self._warn(LAST, error, "training continues, and the next interval tries again")

    def _warn(self, name: str, error: OSError, then: str) -> None:
        warn_once(f"writing {self.folder / name}", error, then)

    def save(self, trainer: lightning.Trainer, name: str) -> OSError | None:
        """Write the state into the folder; returns the error if that failed."""
        return attempt(trainer, lambda: trainer.save_checkpoint(self.folder / name))


def attempt(trainer: lightning.Trainer, save: Callable[[], None]) -> OSError | None:
    """Save a checkpoint by ``save``; returns the error if that failed in the process that writes."""
    try:
        save()
    except OSError as error:
        if not trainer.is_global_zero:
            raise
        # Here the other processes wait for the file.
        trainer.strategy.barrier("Trainer.save_checkpoint")
        return error
    return None
