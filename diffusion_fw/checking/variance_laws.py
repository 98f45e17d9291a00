"""The laws of variances of the reverse step: finite logarithms on every chain; a logit is used exactly if declared."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.checking.findings import Row, verdict
from diffusion_fw.checking.subject import Check, Subject, schedules
from diffusion_fw.process.variance import log_variances
from diffusion_fw.registry import ConfigError

STEPS = 10
SHAPE = (STEPS, 3, 4, 4)


def log_variance(subject: Subject) -> Iterator[Row]:
    """Finite on every step of every schedule for logits in [-1, 1], float64, of a shape that broadcasts with x."""
    variance, logit = subject.build(), _logit(subject)
    for name, schedule in schedules().items():
        levels = schedule(registry.build("grid", "uniform")(STEPS, schedule))
        steps = log_variances(levels).expand(torch.zeros(SHAPE, dtype=torch.float64))
        found = variance.log_variance(steps, logit)
        wrong = None
        if torch.broadcast_shapes(found.shape, SHAPE) != SHAPE:
            wrong = f"shape {tuple(found.shape)}"
        elif found.dtype != torch.float64:
            wrong = str(found.dtype)
        elif not bool(found.isfinite().all()):
            wrong = "not finite"
        yield verdict("log variance", name, wrong, "finite, float64, of a shape that broadcasts with x")


def outputs(subject: Subject) -> Iterator[Row]:
    """The network's logit is used if ``outputs`` is 2, element by element, and is then required; else it is ignored."""
    variance = subject.build()
    schedule = schedules()["linear"]
    levels = schedule(registry.build("grid", "uniform")(STEPS, schedule))
    steps = log_variances(levels).expand(torch.zeros(SHAPE, dtype=torch.float64))
    wrong = None if variance.outputs in (1, 2) else f"{variance.outputs} outputs"
    yield verdict("outputs", "", wrong, "1, or 2 with a logit")
    if variance.outputs == 1:
        same = torch.equal(variance.log_variance(steps, None), variance.log_variance(steps, torch.ones(SHAPE)))
        yield verdict("a logit that it does not use", "", None if same else "changes it", "changes nothing")
        return
    logit = torch.zeros(SHAPE, dtype=torch.float64, requires_grad=True)
    found = variance.log_variance(steps, logit)
    wrong = None if found.shape == SHAPE and found.requires_grad else "none"
    if wrong is None:
        (gradient,) = torch.autograd.grad(found[1, 2, 3, 0], logit)
        own = gradient[1, 2, 3, 0].abs()
        wrong = None if own > 0 and gradient.abs().sum() == own else "with respect to other elements"
    yield verdict("gradient of an element", "", wrong, "with respect to its own logit alone")
    try:
        variance.log_variance(steps, None)
        wrong = "accepted"
    except ConfigError:
        wrong = None
    yield verdict("no logit", "", wrong, "refused with a ConfigError")


def _logit(subject: Subject) -> Tensor | None:
    source = torch.Generator().manual_seed(0)
    logit = 2 * torch.rand(SHAPE, generator=source, dtype=torch.float64) - 1
    return logit if subject.build().outputs > 1 else None


CHECKS: tuple[Check, ...] = (log_variance, outputs)
