"""Evaluation of an autoencoder during training: how well it reconstructs held-out examples, and its codec file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning
import torch

from diffusion_fw.codecs.codec import FILE
from diffusion_fw.codecs.kl_autoencoder import write_autoencoder
from diffusion_fw.data.dataset import Data
from diffusion_fw.metrics.heldout import Heldout, losses_of
from diffusion_fw.metrics.metric import TrackedMetric
from diffusion_fw.pictures.view import view_for
from diffusion_fw.training.callbacks.heldout import HELDOUT, IntervalCallback
from diffusion_fw.training.callbacks.history import History, log
from diffusion_fw.training.loggers.fan_out import Curve, tell
from diffusion_fw.training.os_errors import log_os_errors

ERROR = "heldout/reconstruction_error"
"""The name of the mean square error per value of data in [0, 1]."""
SHOWN = 12


class Reconstruction(IntervalCallback):
    """Logs the held-out loss, which best.ckpt follows, and the error of reconstruction by the mean of q(z | x).

    Draws examples above their reconstructions, and writes codec.safetensors of the best averaged weights so far, which
    codec=kl_autoencoder takes.
    """

    further = (ERROR,)

    def __init__(
        self,
        *,
        history: History,
        data: Data,
        metric: TrackedMetric,
        section: Mapping[str, Any],
        folder: Path,
        every: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.history, self.data, self.metric, self.section = history, data, metric, section
        self.folder, self.every, self.batch_size, self.seed = folder, every, batch_size, seed
        self.view = view_for(data.shape, data.bounds)
        history.followed = metric.label

    @torch.no_grad()
    def evaluate(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        examples = Heldout.of(self.data, module.denoiser.schedule, self.seed, module.conditioner)
        objective, autoencoder = module.objective, module.averaged
        how = {"size": self.batch_size, "device": module.device, "seed": self.seed}
        losses = losses_of(objective, autoencoder, examples, **how)
        back = torch.cat([autoencoder(x0).cpu() for x0, *_ in examples.parts(self.batch_size, module.device)])
        low, high = self.data.bounds
        error = float(((back - examples.x0) / (high - low)).square().double().mean())
        loss = float(losses.mean())
        metrics = {self.metric.name(module.weights_name): loss, HELDOUT: loss, ERROR: error}
        self.follow(module, step, loss, metrics)
        log(trainer, metrics, step, Curve("heldout/loss by log-SNR", *examples.binned(losses), {}))
        if not trainer.is_global_zero:
            return
        if loss <= self.history.best:
            path = self.folder / "checkpoints" / FILE
            with log_os_errors(f"writing {path}", "training continues and the next evaluation writes it again"):
                write_autoencoder(path, autoencoder.network, self.section, self.data.shape)
        with log_os_errors(f"drawing into {self.folder}", "training continues and the next evaluation draws again"):
            pairs = torch.stack([examples.x0, back])[:, :SHOWN]
            picture = self.folder / "samples" / f"step_{step:07d}.png"
            tell(trainer.loggers, "log_picture", "reconstructions", draw_pairs(self.view, picture, pairs), step)


def draw_pairs(view: Any, path: Path, pairs: torch.Tensor) -> Path:
    """Examples above their reconstructions (2, N, *shape)."""
    drawn: Path = view.table(path, pairs, rows=["real", "decoded"], columns=[""] * pairs.shape[1])
    return drawn
