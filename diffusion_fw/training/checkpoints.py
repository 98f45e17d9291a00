"""Writing checkpoints: ``last`` at intervals and at the end, ``best`` by distance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint

from diffusion_fw.training.history import History


class Checkpoints(Checkpoint):
    """Saves ``last.ckpt`` every ``every`` steps and at the end, and ``best.ckpt`` when an evaluation is the best yet.

    Each file is written beside its place and then renamed, so that what stands there is always whole. Lightning calls
    it after all other callbacks, the evaluation among them, wherever it stands in the config.
    """

    def __init__(self, *, history: History, folder: Path, every: int) -> None:
        self.history, self.folder, self.every = history, folder, every
        self._saved = -1

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._saved = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if step == self._saved:
            return
        distances = self.history.distances
        evaluated = bool(distances) and distances[-1][0] == step
        if not evaluated and step % self.every and step != trainer.max_steps:
            return
        self._saved = step
        with self.history.paused():
            if evaluated and distances[-1][1] == self.history.best:
                trainer.save_checkpoint(self.folder / "best.ckpt")
            trainer.save_checkpoint(self.folder / "last.ckpt")
