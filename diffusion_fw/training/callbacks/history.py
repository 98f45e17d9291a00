"""The history of a run, kept in the checkpoint so that the curves of a resumed run are complete."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from torch import Tensor

from diffusion_fw.training.callbacks.step_callback import StepCallback
from diffusion_fw.training.loggers.fan_out import Curve, log_numbers

MAX_RECORDS = 20_000
PENDING_KEY = "losses_since_record"
LOGGERS_KEY = "loggers"


class History(StepCallback):
    """Collects losses on the device; every ``every`` steps records their mean, the gradient norm, the rate and speed.

    ``records`` holds one dict per interval, ``distances`` and ``heldout`` one (step, value) per evaluation. Logs
    train/*.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self.records: list[dict[str, float]] = []
        self.distances: list[list[float]] = []
        self.followed = "distance"
        self.heldout: list[list[float]] = []
        self.images_per_second = 0.0
        self._losses: list[Tensor] = []
        self._images = 0
        self._since = time.perf_counter()

    @property
    def best(self) -> float:
        """The smallest finite distance so far, inf if there is none."""
        return min((value for _, value in self.distances if math.isfinite(value)), default=math.inf)

    def state_dict(self) -> dict[str, Any]:
        return {"records": self.records, "distances": self.distances, "heldout": self.heldout}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.records, self.distances = state_dict["records"], state_dict["distances"]
        self.heldout = state_dict["heldout"]
        if not all(isinstance(step, int) for step, _ in (*self.distances, *self.heldout)):
            raise ValueError("its distances are not pairs of a step and a value")

    def on_save_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the losses of the current interval in the order of the global batch."""
        pending = torch.cat(self._losses) if self._losses else torch.zeros(0, device=pl_module.device)
        everywhere = trainer.strategy.all_gather(pending).reshape(trainer.world_size, -1)
        checkpoint[PENDING_KEY] = everywhere.T.flatten().cpu()
        checkpoint[LOGGERS_KEY] = {
            type(logger).__name__: logger.state() for logger in trainer.loggers if hasattr(logger, "state")
        }

    def on_load_checkpoint(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        mine = checkpoint[PENDING_KEY][trainer.global_rank :: trainer.world_size]
        self._losses = [mine.to(pl_module.device)]

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The time spent in the block does not count for images/s."""
        before = time.perf_counter()
        yield
        self._since += time.perf_counter() - before

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        # A checkpoint is loaded before the module goes to its device.
        self._losses = [losses.to(pl_module.device) for losses in self._losses]
        self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._losses.append(outputs["losses"])
        self._images += len(outputs["losses"]) * trainer.world_size
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def after_step(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        if step % self.every == 0 or step == trainer.max_steps:
            self._flush(trainer, module, step)
            module.log("train/loss", self.records[-1]["loss"], logger=False)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        # A run that a callback ended has an interval that is not full.
        if self._losses:
            self._flush(trainer, pl_module, trainer.global_step)

    def _flush(self, trainer: lightning.Trainer, pl_module: Any, step: int) -> None:
        loss = trainer.strategy.reduce(torch.cat(self._losses).mean(), reduce_op="mean")
        self.images_per_second = self._images / max(1e-9, time.perf_counter() - self._since)
        record = {
            "loss": float(loss),
            "gradient_norm": float(pl_module.gradient_norm),
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "images_per_second": self.images_per_second,
        }
        self.records.append({"step": step, **record})
        if len(self.records) > MAX_RECORDS:
            self.records = self.records[::2]
        log(trainer, {f"train/{name}": value for name, value in record.items()}, step)
        self._losses, self._images = [], 0
        self._since = time.perf_counter()


def log(trainer: lightning.Trainer, metrics: dict[str, float], step: int, curve: Curve | None = None) -> None:
    """Send values and a curve to every logger, from the first process."""
    if trainer.is_global_zero:
        log_numbers(trainer.loggers, metrics, step, curve)
