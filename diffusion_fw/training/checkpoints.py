"""Writing checkpoints: ``last`` at intervals and at the end, ``best`` by distance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning

from diffusion_fw.training.history import History


class Checkpoints(lightning.Callback):
    """Saves ``last.ckpt`` every ``every`` steps and at the end, and ``best.ckpt`` when an evaluation is the best yet.

    Each file is written beside its place and then renamed, so that what stands there is always whole.
    """

    def __init__(self, *, history: History, folder: Path, every: int) -> None:
        self.history, self.folder, self.every = history, folder, every
        self._saved = -1

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        step = trainer.global_step
        if step == self._saved or step == 0:
            return
        distances = self.history.distances
        evaluated = bool(distances) and distances[-1][0] == step
        if not evaluated and step % self.every and step != trainer.max_steps:
            return
        self._saved = step
        with self.history.paused():
            if evaluated and distances[-1][1] <= min(value for _, value in distances):
                trainer.save_checkpoint(self.folder / "best.ckpt")
            trainer.save_checkpoint(self.folder / "last.ckpt")
