"""Writing checkpoints: ``last`` at intervals and at the end, ``best`` by distance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint

from diffusion_fw.training.history import History
from diffusion_fw.training.step_callback import StepCallback


class Checkpoints(StepCallback, Checkpoint):
    """Saves ``last.ckpt`` every ``every`` steps and at the end, and ``best.ckpt`` when an evaluation is the best yet.

    Each file is written beside its place and then renamed, so that what stands there is always whole. Lightning calls
    it after all other callbacks, the evaluation among them, wherever it stands in the config.
    """

    def __init__(self, *, history: History, folder: Path, every: int) -> None:
        self.history, self.folder, self.every = history, folder, every

    def after_step(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        distances = self.history.distances
        evaluated = bool(distances) and distances[-1][0] == step
        if not evaluated and step % self.every and step != trainer.max_steps:
            return
        with self.history.paused():
            if evaluated and distances[-1][1] == self.history.best:
                trainer.save_checkpoint(self.folder / "best.ckpt")
            trainer.save_checkpoint(self.folder / "last.ckpt")
