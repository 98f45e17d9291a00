"""The loss on held-out examples at fixed noise levels and with fixed noise."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.condition import on
from diffusion_fw.conditions.conditioner import Cond, Conditioner
from diffusion_fw.data.dataset import Data, Examples, evenly_spaced, to_model
from diffusion_fw.metrics.metric import Measurement, Metric, Subject
from diffusion_fw.noise import SampleNoise, batch_noise, generator, seeds
from diffusion_fw.objectives.objective import Objective
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError, PositiveInt, Runtime, register

BINS = 20
BIN = 2.0
MOST = 1000
STREAM = 7


@dataclass(frozen=True, eq=False)
class Heldout:
    """Held-out examples x_0 with what the model is told of them, levels and noise."""

    x0: Tensor
    cond: Cond
    level: NoiseLevel
    eps: Tensor

    @staticmethod
    def of(data: Data, schedule: Schedule, seed: int, conditioner: Conditioner) -> Heldout:
        """Up to MOST of the held-out examples, always with the same times and noise."""
        count = min(MOST, len(data.test))
        values, told = conditioner.annotated(data.test, data, "test").__getitems__(range(count))
        t = schedule.fraction((torch.randperm(count, generator=generator(seed, STREAM)) + 0.5) / count)
        x0 = to_model(values)
        cond = conditioner.whole(x0, told, conditioner.seeded(seed, range(count)))
        return Heldout(x0, cond, schedule(t.double()), batch_noise(x0, (seed, STREAM)))

    def parts(self, size: int, device: torch.device) -> Iterator[tuple[Tensor, NoiseLevel, Tensor, Cond]]:
        """x_0, levels, noise and conditions in parts of ``size``, on the device but for the levels."""
        for first in range(0, len(self.x0), size):
            part = slice(first, first + size)
            cond = None if self.cond is None else self.cond[part]
            yield self.x0[part].to(device), self.level[part], self.eps[part].to(device), on(cond, device)

    def curve(self, values: Tensor) -> tuple[list[float], list[float]]:
        """The mean log-SNR, and the mean of the values (N,) of the examples, in BINS bins of log-SNR."""
        # The extremes of log-SNR are infinite for zero terminal SNR; bins of equal count are always finite.
        bins = [part for part in self.level.log_snr.argsort().tensor_split(min(BINS, len(self.x0))) if len(part)]
        finite = self.level.log_snr.clamp(-30, 30)
        return [float(finite[part].mean()) for part in bins], [float(values[part].mean()) for part in bins]

    def binned(self, values: Tensor) -> tuple[list[float], list[float]]:
        """The centres of the bins of width BIN that hold examples, and the mean of the values in each.

        The edges are the same for every run, so that curves of different schedules have the same abscissae.
        """
        bins = (self.level.log_snr.clamp(-30, 30) / BIN).floor()
        held = bins.unique()
        return [float(BIN * (at + 0.5)) for at in held], [float(values[bins == at].mean()) for at in held]


def losses_of(
    objective: Objective,
    denoiser: Any,
    examples: Heldout,
    *,
    size: int,
    device: torch.device,
    seed: int,
) -> Tensor:
    """The loss (N,) of each example, float64 on the host; an objective that draws, draws the same each time."""
    found = []
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        for x0, level, eps, cond in examples.parts(size, device):
            found.append(objective(denoiser, x0, level, eps, cond))
    return torch.cat(found).double().cpu()


TIMES = 8
NOISE = 17
"""The key of the noise, which is the same for every run: the seed has no part in it."""


@register("metric", "heldout_loss")
@dataclass(frozen=True)
class HeldoutLoss(Metric):
    """The loss of the training's own objective on held-out examples at eight fixed times, with fixed noise.

    The times are the quantiles (i + 1/2) / 8 of those that training draws (time_sampler=...), so that their mean is the
    midpoint rule for the expected loss of training. Each of ``num_images`` examples, evenly spaced among the held-out
    ones, is measured at all eight times. Its noise depends on its place and the time alone: not on the seed, the batch
    size or the device. So two runs differ by their weights alone, and a difference is seen far below the standard
    error, which is that of the mean over examples. It costs 8 evaluations of the network an example, without a sampler.

    The model is told what it was in training, and has no guidance. What an objective learns itself, as
    objective=uncertainty does, is left out. The name holds a hash of objective, weighting, parameterization, schedule,
    variance and time sampler, since losses compare only where these are the same. Raises ConfigError for a checkpoint
    that does not say with what objective it was trained.
    """

    test: Runtime[Examples]
    num_images: PositiveInt = MOST

    def evaluate(self, subject: Subject) -> Measurement:
        if subject.training is None:
            raise ConfigError("metric=heldout_loss needs the objective of the training, which this model does not name")
        training = subject.training()
        schedule = training.network.schedule
        places = evenly_spaced(len(self.test), self.num_images)
        if not places:
            raise ConfigError("data=... has no held-out examples, on which metric=heldout_loss is measured")
        x0, cond = subject.told(self.test, places)
        times = training.time_sampler.quantiles(TIMES, schedule)
        noise = SampleNoise(seeds(NOISE, count=1)[0], places)
        losses = torch.stack(
            [
                losses_of(
                    training.objective.plain(),
                    training.network,
                    Heldout(x0, cond, schedule(time.expand(len(x0))), noise(x0)),
                    size=subject.batch_size,
                    device=subject.device,
                    seed=0,
                )
                for time in times
            ],
            dim=1,
        )
        total, error = float(losses.mean()), standard_error(losses.mean(1))
        levels = schedule(times).log_snr.clamp(-30, 30).tolist()
        errors = [standard_error(column) for column in losses.T]
        table = {"held-out loss": f"{total:.6g} ± {error:.2g}"}
        for at, mean, spread in zip(levels, losses.mean(0).tolist(), errors, strict=True):
            table[f"at log-SNR {at:+.2f}"] = f"{mean:.6g} ± {spread:.2g}"
        table["examples"] = str(len(places))
        what = hashlib.sha256(json.dumps(training.sections, sort_keys=True).encode()).hexdigest()[:8]
        record = {
            "heldout_loss": total,
            "standard_error": error,
            "times": times.tolist(),
            "log_snr": levels,
            "losses": losses.mean(0).tolist(),
            "standard_errors": errors,
            "images": len(places),
            "trained_with": dict(training.sections),
        }
        return Measurement(f"heldout_loss/{what}@{len(places)}/{subject.weights}", total, record, table)


def standard_error(values: Tensor) -> float:
    """Of the mean of independent values (N,); NaN of a single one."""
    return float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
