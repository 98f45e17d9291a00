"""Evaluation during training: samples, their distance to the data, the held-out loss, pictures."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from tqdm import tqdm

from diffusion_fw.conditions.conditioner import Asking, Conditioner
from diffusion_fw.data.dataset import Data
from diffusion_fw.data.latents import Space
from diffusion_fw.denoiser import Denoiser
from diffusion_fw.metrics.heldout import Heldout, losses_of
from diffusion_fw.metrics.metric import TrackedMetric
from diffusion_fw.pictures.conditioned import conditioned
from diffusion_fw.pictures.view import view_for
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.samplers.sampler import Sampler
from diffusion_fw.sampling.chunk import chunk_size, measure_chunk
from diffusion_fw.sampling.draw import CondOf, classes_of, draw, frames
from diffusion_fw.training.callbacks.heldout import HELDOUT, IntervalCallback
from diffusion_fw.training.callbacks.history import History, log
from diffusion_fw.training.loggers.fan_out import Curve, tell
from diffusion_fw.training.os_errors import log_os_errors

IRREDUCIBLE = "heldout/irreducible"
TRACED = 5
"""The images of which a trajectory is drawn."""


class Evaluation(IntervalCallback):
    """Every ``every`` steps and at the end: draws samples, measures their distance and the held-out loss by log-SNR.

    With a metric that measures nothing, the held-out loss takes the place of the distance.
    Each process draws its share of ``metric.num_samples`` samples; sample i does not depend on the number of processes.
    """

    def __init__(
        self,
        *,
        history: History,
        data: Data,
        conditioner: Conditioner,
        space: Space,
        sampler: Sampler,
        wrap: Callable[[Denoiser], Denoiser],
        metric: TrackedMetric,
        folder: Path,
        every: int,
        batch_size: int | str,
        grid_images: int,
        seed: int,
    ) -> None:
        self.history, self.data, self.sampler, self.wrap, self.metric = history, data, sampler, wrap, metric
        self.conditioner = conditioner
        self.space = space
        history.followed = "distance" if metric.measures else metric.label
        self.folder, self.every = folder, every
        self.configured_batch_size = batch_size
        # Set before the first sample is drawn, when the free memory is known.
        self.batch_size = 0
        # A grid shows a few images, but the plane shows every point.
        self.shown = grid_images if len(space.shape) > 1 else metric.num_samples
        self.seed = seed
        self.view = view_for(space.shape, space.bounds)
        self.further = (IRREDUCIBLE,) if data.oracle is not None else ()
        self.last_samples: Tensor | None = None
        self.classes: list[str] = []
        self.irreducible: list[float] | None = None
        self.curve: tuple[list[float], list[float]] = ([], [])
        self.binned: tuple[list[float], list[float]] = ([], [])

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.is_global_zero:
            tell(trainer.loggers, "define_minimum", self.metric.name(pl_module.weights_name))

    def evaluate(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        """One evaluation: its results go to the history and the loggers, its pictures into the folder."""
        first = self._samples(trainer, module)
        heldout = self._heldout(module)
        distance = float(self.metric.compute()) if self.metric.measures else heldout
        name = self.metric.name(module.weights_name)
        metrics = {name: distance, HELDOUT: heldout}
        if self.irreducible is not None:
            metrics[IRREDUCIBLE] = sum(self.irreducible) / len(self.irreducible)
        self.follow(module, step, distance, metrics)
        numbers = {f"heldout/loss at log-SNR {at:+.1f}": loss for at, loss in zip(*self.curve, strict=True)}
        log(trainer, metrics, step, Curve("heldout/loss by log-SNR", *self.binned, numbers))
        self.last_samples = first
        if not trainer.is_global_zero:
            return
        with log_os_errors(f"drawing into {self.folder}", "training continues and the next evaluation draws again"):
            tell(trainer.loggers, "log_best", self.history.best, step)
            title = f"{self.folder.parent.name}: {name} = {distance:.4g} at step {step:,}"
            self.classes = self._classes(trainer, module)
            path = self.folder / f"step_{step:07d}.png"
            if self.conditioner.sources:
                indices = self._indices(trainer)[: len(first)]
                path = conditioned(self.view, path, self.asking, indices, first, self.classes, title)
            else:
                path = self.view.samples(path, first, self.classes, title)
            tell(trainer.loggers, "log_picture", "samples", path, step)
            tell(trainer.loggers, "log_samples", path, {name: distance}, step)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        if not trainer.is_global_zero or self.last_samples is None:
            return
        step, training = trainer.global_step, pl_module.averaged.training
        pl_module.averaged.eval()
        with log_os_errors(f"drawing into {self.folder}", "training is done; the checkpoints hold its state"):
            still, moving = self._draw_trajectory(pl_module)
            tell(trainer.loggers, "log_picture", "trajectory", still, step)
            tell(trainer.loggers, "log_animation", "trajectory/animation", moving, step)
        pl_module.averaged.train(training)

    @functools.cached_property
    def asking(self) -> Asking:
        """What samples are told, as the held-out examples are."""
        return Asking(self.conditioner, self.data.shape, lambda: self.data, self.seed)

    @functools.cached_property
    def cond_of(self) -> CondOf:
        """What each sample is told."""
        if self.conditioner.sources:
            return self.asking.cond_of
        return classes_of(self.data.class_counts if self.conditioner.num_classes else (), self.seed)

    def _classes(self, trainer: lightning.Trainer, module: Any) -> list[str]:
        """The names of the classes of the samples in a grid; empty for a model that takes no labels."""
        indices = self._indices(trainer)[: self.shown]
        if self.conditioner.sources:
            return self.asking.called(indices)
        labels = self.cond_of(indices)
        return [] if labels is None else [self.data.class_names[k] for k in labels.tolist()]

    def _indices(self, trainer: lightning.Trainer) -> range:
        """The samples that this process draws."""
        return range(trainer.global_rank, self.metric.num_samples, trainer.world_size)

    def _samples(self, trainer: lightning.Trainer, module: Any) -> Tensor:
        """Update the metric with this process's samples; returns the first of them as the data hold them."""
        self.metric.reset()
        self.metric.to(module.device)
        denoiser = self.wrap(module.averaged)
        if not self.batch_size:
            measured = functools.partial(
                measure_chunk, self.sampler, denoiser, self.data.shape, self.cond_of, module.device
            )
            self.batch_size = chunk_size(self.configured_batch_size, measured, module.device)
        indices = self._indices(trainer)
        chunks = draw(
            self.sampler,
            denoiser,
            self.data.shape,
            indices,
            seed=self.seed,
            cond_of=self.cond_of,
            batch_size=self.batch_size,
            device=module.device,
        )
        kept: list[Tensor] = []
        with tqdm(total=len(indices), desc="sampling", leave=False, disable=not trainer.is_global_zero) as bar:
            for chunk, x in chunks:
                values = self.space.examples(x)
                self.metric.update(values)
                kept.append(values[: self.shown].cpu())
                bar.update(len(chunk))
        return torch.cat(kept)[: self.shown]

    @torch.no_grad()
    def _heldout(self, module: Any) -> float:
        """The mean loss of the averaged weights on held-out examples, and its curve over log-SNR."""
        examples = Heldout.of(self.data, module.denoiser.schedule, self.seed, self.conditioner)
        loss = losses_of(
            module.objective,
            module.averaged,
            examples,
            size=self.batch_size,
            device=module.device,
            seed=self.seed,
        )
        self.curve, self.binned = examples.curve(loss), examples.binned(loss)
        least = self._irreducible(module, examples.x0, examples.level, examples.eps)
        if least is not None:
            self.irreducible = examples.curve(least)[1]
        return float(loss.mean())

    def _irreducible(self, module: Any, x0: Tensor, level: NoiseLevel, eps: Tensor) -> Tensor | None:
        """The smallest possible loss on the same draws, if the data's distribution is known and no labels are given."""
        if self.data.oracle is None or self.conditioner.tells:
            return None
        exact = self.data.oracle.denoiser(module.denoiser.schedule)
        least: Tensor | None = module.objective.irreducible(module.averaged, exact, x0, level, eps)
        return least

    def _draw_trajectory(self, module: Any) -> tuple[Path, Path]:
        """The trajectory as a picture and as an animation."""
        times, states, predictions = frames(
            self.sampler,
            self.wrap(module.averaged),
            self.data.shape,
            range(TRACED if len(self.space.shape) > 1 else 500),
            seed=self.seed,
            cond_of=self.cond_of,
            device=module.device,
        )
        shown, predicted = (
            self.space.examples(values.flatten(0, 1)).unflatten(0, values.shape[:2]) for values in (states, predictions)
        )
        still = self.view.trajectory(self.folder / "trajectory.png", shown, times, predicted)
        return still, self.view.animation(self.folder / "trajectory.gif", shown, times)
