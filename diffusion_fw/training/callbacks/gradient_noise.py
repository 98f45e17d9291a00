"""The gradient noise scale: how many examples a step needs before more of them add little.

For gradients g_i of single examples with mean G and covariance Sigma, the gradient of a batch of B examples has
E|G_B|^2 = |G|^2 + tr(Sigma) / B. Two batch sizes determine both terms (McCandlish et al. 2018, appendix A.1), here the
parts of b examples and the n b examples of all n parts together:

    |G|^2 = (n |mean_k G_k|^2 - mean_k |G_k|^2) / (n - 1)
    tr(Sigma) = n b (mean_k |G_k|^2 - |mean_k G_k|^2) / (n - 1)
    B_simple = tr(Sigma) / |G|^2
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import lightning
import torch
from torch import Tensor

from diffusion_fw.condition import on
from diffusion_fw.data.dataset import to_model
from diffusion_fw.denoiser import Noise
from diffusion_fw.noise import batch_noise, generator
from diffusion_fw.training.callbacks.history import History, log
from diffusion_fw.training.callbacks.step_callback import StepCallback

STREAM = 8
FIRST_OF_CONDITIONS = 1000
"""The number of the first draw of conditions; those of augmentations come before."""


class GradientNoise(NamedTuple):
    """tr(Sigma) and |G|^2, both without bias; |G|^2 may therefore be negative where noise hides it."""

    trace: float
    squared: float

    @property
    def scale(self) -> float:
        """B_simple; infinite where the noise hides the gradient."""
        return self.trace / self.squared if self.squared > 0 else math.inf

    @staticmethod
    def of(gradients: Iterable[list[Tensor]], size: int) -> GradientNoise:
        """From the gradients of at least two parts of ``size`` examples each, a list of tensors for each part."""
        total: list[Tensor] = []
        norms = []
        for gradient in gradients:
            norms.append(squared_norm(gradient))
            total = list(torch._foreach_add(total, gradient)) if total else [item.clone() for item in gradient]
        count = len(norms)
        part, whole = float(torch.stack(norms).mean()), float(squared_norm(total)) / count**2
        return GradientNoise(count * size * (part - whole) / (count - 1), (count * whole - part) / (count - 1))


def squared_norm(tensors: list[Tensor]) -> Tensor:
    """The sum of all squares, float64."""
    return torch.stack(torch._foreach_norm(tensors)).double().square().sum()


@contextlib.contextmanager
def unchanged(tensors: list[Tensor]) -> Iterator[None]:
    """Give the tensors their values back after the block: some networks write their weights in training."""
    values = [item.detach().clone() for item in tensors]
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(tensors, values)


class GradientNoiseScale(StepCallback):
    """Logs ``gradient_noise/scale``, ``/trace`` and ``/squared`` every ``every`` steps, and leaves the training alone.

    The examples, times and noise are drawn as in training, a function of the seed and the step, but are others. Every
    process computes all parts.
    """

    whole_gradients = True

    def __init__(self, *, history: History, seed: int, every: int, parts: int, part_size: int) -> None:
        self.history, self.seed = history, seed
        self.every, self.parts, self.part_size = every, parts, part_size

    def after_step(self, trainer: lightning.Trainer, module: Any, step: int) -> None:
        if step % self.every:
            return
        with self.history.paused(), trainer.precision_plugin.forward_context():
            found = self.measure(module, step)
        values = {"scale": found.scale, "trace": found.trace, "squared": found.squared}
        log(trainer, {f"gradient_noise/{key}": value for key, value in values.items()}, step)

    def noise(self, step: int, first: int, like: Tensor, draw: int) -> Tensor:
        """Noise for the part that begins at example ``first``: of the path for draw -1, of augmentations from 0 on."""
        return batch_noise(like, (self.seed, STREAM, step, first, draw + 1))

    def condition_noise(self, step: int, first: int) -> Noise:
        """Noise for the conditions of that part."""
        numbers = itertools.count(FIRST_OF_CONDITIONS)
        return lambda like: self.noise(step, first, like, next(numbers))

    def measure(self, module: Any, step: int) -> GradientNoise:
        """The gradient noise of the trained weights."""
        source = generator(self.seed, STREAM, step)
        count = self.parts * self.part_size
        chosen = torch.randint(len(module.examples), (count,), generator=source)
        schedule = module.denoiser.schedule
        times = module.time_sampler(count, schedule, source)
        keep, each = module.kept(count, source, slice(count))

        def gradients() -> Iterable[list[Tensor]]:
            for first in range(0, count, self.part_size):
                own = slice(first, first + self.part_size)
                values, told = module.examples.__getitems__(chosen[own].tolist())
                x0 = to_model(values.to(module.device))
                noise = functools.partial(self.noise, step, first)
                x0, denoiser = module.augmented(x0, noise)
                own_each = {name: kept[own] for name, kept in each.items()}
                conditions = self.condition_noise(step, first)
                cond = module.conditioner.cond(x0, on(told, module.device), keep[own], own_each, conditions)
                t = times[own]
                losses = module.objective(denoiser, x0, schedule(t), noise(x0, -1), cond)
                loss = (losses * module.time_sampler.weight(t).to(losses)).mean()
                found = torch.autograd.grad(loss, module.trained, allow_unused=True)
                yield [item for item in found if item is not None]

        kept = unchanged([*module.trained, *module.denoiser.buffers()])
        with kept, torch.random.fork_rng([module.device] if module.device.type == "cuda" else []):
            torch.manual_seed(source.initial_seed())
            return GradientNoise.of(gradients(), self.part_size)
