"""The progress bar of training."""

from __future__ import annotations

from typing import Any

import lightning
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm

from diffusion_fw.training.callbacks.history import History


class Progress(TQDMProgressBar):
    """Lightning's bar over all steps of the run, with the loss and speed of the last interval and the last distance."""

    def __init__(self, *, history: History, refresh_rate: int) -> None:
        super().__init__(refresh_rate=refresh_rate)
        self.history = history

    def get_metrics(self, trainer: lightning.Trainer, pl_module: Any) -> dict[str, Any]:
        shown: dict[str, Any] = {}
        if self.history.records:
            record = self.history.records[-1]
            shown = {"loss": f"{record['loss']:.4f}", "images/s": f"{record['images_per_second']:.0f}"}
        if self.history.distances:
            shown[self.history.followed] = f"{self.history.distances[-1][1]:.3g}"
        return shown

    def init_validation_tqdm(self) -> Tqdm:
        """A bar that is not shown: an evaluation has its own."""
        return Tqdm(disable=True)

    def on_train_epoch_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description("training")
