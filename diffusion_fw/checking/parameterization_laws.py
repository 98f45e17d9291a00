"""The laws of parameterizations: F determines x_0 and eps; the network's inputs are finite and tell levels apart."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from diffusion_fw.checking.findings import Row, at_most, verdict
from diffusion_fw.checking.schedule_laws import all_times
from diffusion_fw.checking.subject import Check, Subject, schedules
from diffusion_fw.process.parameterization import Parameterization
from diffusion_fw.process.schedule import Schedule

FACTS = {"data_std": 0.5}
DIMENSIONS = 5
EPSILON = 2.0**-52


def _assembled(subject: Subject, schedule: Schedule) -> Parameterization:
    built: Parameterization = subject.assemble(schedule=schedule, **FACTS)
    return built


def round_trip(subject: Subject) -> Iterator[Row]:
    """(x_0, eps) -> F -> (x_0, eps) wherever D is not 0, on every schedule."""
    generator = torch.Generator().manual_seed(0)
    for name, schedule in schedules().items():
        parameterization = _assembled(subject, schedule)
        level = schedule(all_times(schedule))
        kept = parameterization.solvable(level)
        level = level[kept]
        x0, eps = (torch.randn(len(level), DIMENSIONS, dtype=torch.float64, generator=generator) for _ in range(2))
        x = level.alpha[:, None] * x0 + level.sigma[:, None] * eps
        where = f"{name}, all {len(kept)} levels"
        if not bool(kept.all()):
            where = f"{name}, {int((~kept).sum())} of {len(kept)} levels left out"
        if kept.double().mean() < 0.9:
            yield Row("x_0 and eps from F", where, "undetermined there", "determined at nine levels of ten", False)
            continue
        output = parameterization.target(level, x0, eps)
        found_x0, found_eps = parameterization.solve(level, x, output)
        # What float64 loses in forming x_t and F and in solving: the sizes of all terms.
        a, b = parameterization.coefficients(level)
        size_x, size_output = (
            (c[:, None] * x0).abs() + (d[:, None] * eps).abs() for c, d in ((level.alpha, level.sigma), (a, b))
        )
        p, q, r, s = (coefficient[:, None].abs() for coefficient in parameterization.inverse(level))
        size_x0 = p * size_x + q * size_output + x0.abs()
        size_eps = r * size_x + s * size_output + eps.abs()
        error = max(
            ((found - wanted).abs() / size).nan_to_num(nan=torch.inf).max().item()
            for found, wanted, size in ((found_x0, x0, size_x0), (found_eps, eps, size_eps))
        )
        yield at_most("error of x_0 and eps from F", where, error / EPSILON, 32, "roundings of float64", digits=".0f")


def inputs(subject: Subject) -> Iterator[Row]:
    """c_in > 0 and the label are finite float64 of t's shape at every level.

    The label never falls with the noise, and rises strictly over the smallest noisy time and eleven even ones.
    """
    for name, schedule in schedules().items():
        parameterization = _assembled(subject, schedule)
        level = schedule(all_times(schedule))
        c_in, label = parameterization.input(level)
        wrong = None
        for what, value in (("c_in", c_in), ("label", label)):
            if value.shape != level.t.shape or value.dtype != torch.float64:
                wrong = f"{what} of shape {tuple(value.shape)}, {value.dtype}"
            elif not bool(value.isfinite().all()):
                wrong = f"{what} not finite at t = {level.t[~value.isfinite()][0].item():g}"
        if wrong is None and not bool((c_in > 0).all()):
            wrong = "c_in not positive"
        if wrong is None and not bool((label.diff() >= 0).all()):
            wrong = "a label that falls with the noise"
        even = schedule.snap(torch.linspace(0, 1, 12, dtype=torch.float64))
        even[1] = schedule.t_min
        if wrong is None and not bool((parameterization.input(schedule(even))[1].diff() > 0).all()):
            wrong = "one label for several levels"
        yield verdict("network's inputs", name, wrong, "finite, c_in positive, label rising")


def shapes(subject: Subject) -> Iterator[Row]:
    """The coefficients are float64 of t's shape, the same for one time as for several."""
    schedule = schedules()["vp"]
    parameterization = _assembled(subject, schedule)
    t = torch.tensor([0.2, 0.7], dtype=torch.float64)
    together = torch.stack(parameterization.coefficients(schedule(t)))
    single = torch.stack([torch.stack(parameterization.coefficients(schedule(value))) for value in t], dim=1)
    wrong = None
    if together.shape != (2, 2) or together.dtype != torch.float64:
        wrong = f"shape {tuple(together.shape[1:])}, {together.dtype}"
    elif not torch.allclose(together, single, rtol=1e-12, atol=0):
        wrong = "other values for one time than for several"
    yield verdict("coefficients (a, b)", "vp", wrong, "float64 of t's shape")


CHECKS: tuple[Check, ...] = (round_trip, inputs, shapes)
