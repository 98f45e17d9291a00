"""Evaluation of a classifier during training: its held-out loss and accuracy by noise level."""

from __future__ import annotations

from typing import Any

import lightning
import torch

from diffusion_fw.data.dataset import Data
from diffusion_fw.metrics.heldout import Heldout
from diffusion_fw.metrics.metric import TrackedMetric
from diffusion_fw.process.level import noised
from diffusion_fw.training.callbacks.heldout import HELDOUT, IntervalCallback
from diffusion_fw.training.callbacks.history import History, log
from diffusion_fw.training.loggers.fan_out import Curve


class Accuracy(IntervalCallback):
    """Logs the held-out loss, which best.ckpt follows, and the accuracy, over all noise levels and by log-SNR."""

    def __init__(
        self,
        *,
        history: History,
        data: Data,
        metric: TrackedMetric,
        classes: int,
        every: int,
        batch_size: int,
        seed: int,
    ) -> None:
        self.history, self.data, self.metric = history, data, metric
        self.every, self.batch_size, self.seed = every, batch_size, seed
        self.counted = 5 if classes > 5 else 1
        self.further = ("heldout/accuracy", *(["heldout/accuracy among 5"] if self.counted > 1 else []))
        history.followed = metric.label

    @torch.no_grad()
    def evaluate(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        examples = Heldout.of(self.data, module.denoiser.schedule, self.seed, module.conditioner)
        losses, hits = [], []
        for x0, level, eps, labels in examples.parts(self.batch_size, module.device):
            assert isinstance(labels, torch.Tensor)  # composition refuses a classifier of data without classes
            logits = module.averaged(noised(level, x0, eps), level)
            losses.append(module.objective.error(logits, labels))
            hits.append(logits.topk(self.counted).indices == labels[:, None])
        loss, hit = float(torch.cat(losses).double().mean()), torch.cat(hits).double().cpu()
        accuracy = hit[:, 0]
        name = self.metric.name(module.weights_name)
        metrics = {name: loss, HELDOUT: loss, "heldout/accuracy": float(accuracy.mean())}
        if self.counted > 1:
            metrics["heldout/accuracy among 5"] = float(hit.sum(1).mean())
        self.follow(module, step, loss, metrics)
        own = zip(*examples.curve(accuracy), strict=True)
        numbers = {f"heldout/accuracy at log-SNR {at:+.1f}": value for at, value in own}
        log(trainer, metrics, step, Curve("heldout/accuracy by log-SNR", *examples.binned(accuracy), numbers))
