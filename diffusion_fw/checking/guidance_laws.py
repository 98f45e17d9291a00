"""The laws of guidances: each is a denoiser, with x_t = alpha x_0 + sigma eps for its prediction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.checking.findings import Row, at_most, verdict
from diffusion_fw.checking.subject import Check, Subject, schedules
from diffusion_fw.checking.truth import MIXTURE, normal, start
from diffusion_fw.denoiser import Denoiser
from diffusion_fw.guidance.operators import Mask
from diffusion_fw.oracles import GaussianMixture, MixtureDenoiser
from diffusion_fw.process.level import NoiseLevel, expand
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.samplers.ddim import DDIM

CLASSES = len(MIXTURE.means)
WEAK = GaussianMixture(MIXTURE.means, 2 * MIXTURE.stds, MIXTURE.weights)


@dataclass(frozen=True)
class _ExactClassifier:
    """log p(class | x_t) of the mixture."""

    def __call__(self, x: Tensor, level: NoiseLevel) -> Tensor:
        weight, _, _ = MixtureDenoiser.posterior(MIXTURE, x, level)
        return weight.log()


def assemble(subject: Subject, denoiser: Denoiser, **overrides: Any) -> Denoiser:
    """The guidance around a denoiser of the mixture, with everything that its signature may require."""
    schedule = denoiser.schedule
    changed = Subject(subject.group, subject.name, {**subject.parameters, **overrides})
    wrapped: Denoiser = changed.assemble(
        denoiser=denoiser,
        schedule=schedule,
        weak=WEAK.denoiser(schedule),
        classifier=_ExactClassifier(),
        num_classes=CLASSES,
        class_conditional=True,
        shape=MIXTURE.shape,
        data_range=(-1.0, 1.0),
        operator=Mask(torch.tensor([1.0, 0.0])),
        measurement=torch.tensor([0.5, 0.0], dtype=torch.float64),
        target=registry.build("schedule", "cosine_continuous"),
        noise=torch.zeros_like,
    )
    return wrapped


def _inputs(schedule: Schedule, t: float) -> tuple[Tensor, NoiseLevel, Tensor]:
    """Points x (8, 2), their level and their classes."""
    level = schedule(schedule.snap(torch.tensor(t, dtype=torch.float64)))
    return start(level), level, torch.arange(8) % CLASSES


def path(subject: Subject) -> Iterator[Row]:
    """x_t = alpha x0 + sigma eps holds for the guided prediction, on every schedule."""
    for name, schedule in schedules().items():
        denoiser = assemble(subject, MIXTURE.denoiser(schedule))
        gap = 0.0
        for t in (0.02, 0.2, 0.5, 0.9):
            x, level, cond = _inputs(denoiser.schedule, t)
            prediction = denoiser(x, level, cond)
            sum_ = expand(level.alpha, x) * prediction.x0 + expand(level.sigma, x) * prediction.eps
            size = x.abs() + (expand(level.alpha, x) * prediction.x0).abs()
            gap = max(gap, ((sum_ - x).abs() / size).nan_to_num(nan=torch.inf).max().item())
        yield at_most("alpha x0 + sigma eps - x_t", name, gap, 1e-9, "of its size")


def unguided(subject: Subject) -> Iterator[Row]:
    """A ``scale`` of 1, or of 0, gives the prediction that it wraps."""
    if "scale" not in registry.entry(subject.group, subject.name).parameters:
        return
    plain = MIXTURE.denoiser(registry.build("schedule", "vp"))
    x, level, cond = _inputs(plain.schedule, 0.4)
    found = []
    for scale in (1.0, 0.0):
        x0 = assemble(subject, plain, scale=scale)(x, level, cond).x0
        for label, wrapped in (("the conditional", cond), ("the unconditional", None)):
            if torch.allclose(x0, plain(x, level, wrapped).x0, rtol=1e-9, atol=1e-9):
                found.append(f"{label} at scale={scale:g}")
    yield Row("unguided prediction", "vp", "; ".join(found) or "at no scale", "at scale=1 or scale=0", bool(found))


def batch(subject: Subject) -> Iterator[Row]:
    """A prediction depends neither on the batch nor on whether the level is a scalar or one for each example."""
    denoiser = assemble(subject, MIXTURE.denoiser(registry.build("schedule", "vp")))
    x, level, cond = _inputs(denoiser.schedule, 0.4)
    together = denoiser(x, level, cond).x0
    alone = torch.cat([denoiser(x[i : i + 1], level, cond[i : i + 1]).x0 for i in range(len(x))])
    yield at_most("one prediction alone - in a batch", "vp", (alone - together).abs().max().item(), 1e-10)
    each = level.map(lambda value: value.expand(len(x)))
    gap = (denoiser(x, each, cond).x0 - together).abs().max().item()
    yield at_most("one level for all - the same for each", "vp", gap, 1e-10)


def kept(subject: Subject) -> Iterator[Row]:
    """The shape and precision of x are kept."""
    denoiser = assemble(subject, MIXTURE.denoiser(registry.build("schedule", "vp")))
    x, level, cond = _inputs(denoiser.schedule, 0.4)
    for dtype in (torch.float32, torch.float64):
        prediction: Prediction = denoiser(x.to(dtype), level, cond)
        found = {(tuple(value.shape), value.dtype) for value in (prediction.x0, prediction.eps)}
        wrong = None if found == {(tuple(x.shape), dtype)} else ", ".join(f"{s} {d}" for s, d in found)
        yield verdict("x0 and eps", str(dtype).removeprefix("torch."), wrong, "like x")


def sampling(subject: Subject) -> Iterator[Row]:
    """A sampler gets finite samples through it."""
    denoiser = assemble(subject, MIXTURE.denoiser(registry.build("schedule", "vp")))
    x = DDIM(20)(denoiser, normal(8), cond=torch.arange(8) % CLASSES)
    yield verdict("samples by ddim", "vp", None if bool(x.isfinite().all()) else "not finite", "finite")


CHECKS: tuple[Check, ...] = (path, unguided, batch, kept, sampling)
