"""Lightning's own callbacks where a run needs more of them: state of a resumed run, and disks that are full."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer

from diffusion_fw.training.callbacks.checkpointing import attempt
from diffusion_fw.training.os_errors import warn_once


class Patience(EarlyStopping):
    """Lightning's EarlyStopping, of which a resumed run takes the patience from its config.

    A run that has lost its patience takes no further step, unless the config now has more.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


class _UnsavedError(Exception):
    """A checkpoint was not written; the files are as before."""


class TopCheckpoints(ModelCheckpoint):
    """Lightning's ModelCheckpoint of the ``save_top_k`` best evaluations, ``step_*.ckpt`` in a folder.

    Where a file cannot be written, the files stay as they are and training continues. The names in the state of a
    resumed run are those of files in the folder, wherever the run was: Lightning removes what they name.
    """

    NAME = re.compile(r"step_\d+\.ckpt")

    def __init__(self, folder: Path, *, monitor: str, mode: str, save_top_k: int) -> None:
        super().__init__(
            dirpath=folder,
            filename="step_{step:07d}",
            auto_insert_metric_name=False,
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            name = Path(path).name
            if path and not self.NAME.fullmatch(name):
                raise ValueError(f"{path!r} is no checkpoint of an evaluation")
            return str(Path(str(self.dirpath), name)) if path else ""

        super().load_state_dict(
            {
                **state_dict,
                "dirpath": self.dirpath,
                "best_k_models": {here(path): value for path, value in state_dict["best_k_models"].items()},
                **{key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")},
            }
        )

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        before = copy.deepcopy(self.state_dict())
        try:
            super().on_validation_end(trainer, pl_module)
        except _UnsavedError:
            self.load_state_dict(before)

    def _save_checkpoint(self, trainer: lightning.Trainer, filepath: str) -> None:
        error = attempt(trainer, lambda: super(TopCheckpoints, self)._save_checkpoint(trainer, filepath))
        if error:
            warn_once(f"writing {filepath}", error, "training continues, and the next evaluations are compared again")
        # Only the process that writes knows whether it succeeded.
        if trainer.strategy.broadcast(error is not None):
            raise _UnsavedError


def ended_early(trainer: lightning.Trainer) -> str | None:
    """Why training ended before its last step; None where it did not."""
    if trainer.global_step >= trainer.max_steps:
        return None
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            return callback.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
        if isinstance(callback, Timer) and (callback.time_remaining() or 0.0) < 0:
            return "the time of the timer is up"
    return "a callback stopped it"
