"""Writing checkpoints: ``last`` at intervals and at the end, ``best`` by distance."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint

from diffusion_fw.files import remove_unfinished
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.callbacks.history import History
from diffusion_fw.training.callbacks.step_callback import StepCallback
from diffusion_fw.training.outages import warn_once

LAST, BEST = "last.ckpt", "best.ckpt"


class UnsavedError(ConfigError):
    """A run that could not write its final checkpoint."""


class Checkpoints(StepCallback, Checkpoint):
    """Saves ``last.ckpt`` every ``every`` steps and at the end, and ``best.ckpt`` when an evaluation is the best yet.

    What stands there is always a whole file. One that cannot be written is told, once, and tried again at the next
    interval; the best that was lost so is followed by the best of those after it. Lightning calls it after all other
    callbacks, the evaluation among them, wherever it stands in the config.
    Raises UnsavedError at the end where the last state is not on the disk.
    """

    def __init__(self, *, history: History, folder: Path, every: int) -> None:
        self.history, self.folder, self.every = history, folder, every
        self._kept = math.inf

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            remove_unfinished(self.folder)
        is_there = trainer.strategy.broadcast((self.folder / BEST).exists())
        self._kept = self.history.best if is_there else math.inf

    def after_step(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        distances = self.history.distances
        evaluated = bool(distances) and distances[-1][0] == step
        if not evaluated and step % self.every and step != trainer.max_steps:
            return
        with self.history.paused():
            if evaluated and distances[-1][1] <= self._kept:
                error = self.save(trainer, BEST)
                if error:
                    self._tell(BEST, error, "training goes on, and the best of the next evaluations is tried")
                # Whether there is a best to be surpassed is known to the process that writes.
                self._kept = trainer.strategy.broadcast(self._kept if error else distances[-1][1])
            error = self.save(trainer, LAST)
        if not error:
            return
        if step == trainer.max_steps:
            raise UnsavedError(
                f"the final checkpoint {self.folder / LAST} could not be written: {error}; "
                "what stands there, if anything, is of an earlier step"
            )
        self._tell(LAST, error, "training goes on, and the next interval tries again")

    def _tell(self, name: str, error: OSError, then: str) -> None:
        warn_once(f"writing {self.folder / name}", error, then)

    def save(self, trainer: lightning.Trainer, name: str) -> OSError | None:
        """Write the state into the folder; the error where that failed."""
        try:
            trainer.save_checkpoint(self.folder / name)
        except OSError as error:
            if not trainer.is_global_zero:
                raise
            # Where the other processes wait for the file that they think is written.
            trainer.strategy.barrier("Trainer.save_checkpoint")
            return error
        return None
