"""A callback that acts once per optimizer step."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import lightning


class StepCallback(lightning.Callback):
    """Calls ``after_step`` once per optimizer step, however many batches it accumulates, and not on resuming."""

    _last_step = -1

    @abstractmethod
    def after_step(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        """Act after optimizer step ``step`` = 1, 2, ..."""

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step != self._last_step:
            self._last_step = step
            self.after_step(trainer, pl_module, step)
