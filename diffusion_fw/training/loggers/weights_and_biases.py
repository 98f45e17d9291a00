"""Weights & Biases."""

from __future__ import annotations

import netrc
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import wandb
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from diffusion_fw.training.os_errors import warn_once


class WeightsAndBiases(WandbLogger):
    """A W&B run that survives a server which does not answer, and continues after a resume."""

    def log_picture(self, name: str, path: Path, step: int) -> None:
        self.log_image(name, [str(path)], step=step)

    def state(self) -> dict[str, Any]:
        return {"run_id": self.version}

    def resume(self, step: int, state: dict[str, Any]) -> None:
        """Continue the same W&B run."""
        self._wandb_init.update(id=state.get("run_id"), resume="allow")

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; an offline one if the server does not answer."""
        try:
            return WandbLogger.experiment.fget(self)  # type: ignore[attr-defined]
        except wandb.errors.Error as error:
            self._offline = True
            self._wandb_init["mode"] = "offline"
            run = WandbLogger.experiment.fget(self)  # type: ignore[attr-defined]
            kept = Path(run.dir).parent
            warn_once("W&B's server", error, f"the run is logged offline; `wandb sync {kept}` uploads it later")
            return run

    @rank_zero_only
    def finalize(self, status: str) -> None:
        super().finalize(status)
        # Otherwise the next job of a sweep would log into this run.
        wandb.finish(exit_code=0 if status == "success" else 1)


def has_key() -> bool:
    """Whether a key is in the environment or was stored by `wandb login`; never prompts for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
