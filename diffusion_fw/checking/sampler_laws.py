"""The laws of samplers, measured on a mixture whose exact denoiser and probability flow are known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.checking import convergence
from diffusion_fw.checking.findings import Row, at_least, at_most, reported, verdict
from diffusion_fw.checking.impulses import variance_error
from diffusion_fw.checking.subject import Check, Subject, schedules
from diffusion_fw.checking.truth import MIXTURE, normal, start
from diffusion_fw.checking.two_sample import energy_test
from diffusion_fw.denoiser import Denoiser
from diffusion_fw.noise import SampleNoise
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.grid import Grid, LogSNR
from diffusion_fw.samplers.sampler import Sampler, Step

PATHS = ("vp", "cosine_continuous", "edm")
ORDER_TOLERANCE = 0.15
FLOW_TOLERANCE = 0.01
STEPS = 20
SAMPLES, SAMPLE_STEPS = 10_000, 200
STANDARD_ERRORS, BIAS = 4.0, 0.01
"""Moments may be off by four standard errors, and by a hundredth for what 200 steps leave of the discretization."""
VARIANCE_TOLERANCE = 0.015
"""Relative; the last noisy level of the grid leaves 0.4%, a hundredth too much noise 2%."""
COMPARED = 1000
FALSE_ALARMS = 0.001
"""How often the two-sample test fails a sampler of the exact distribution."""

# The properties that the page of the documentation shows.
DECLARED, ORDER, ALTERNATING = "declared order", "order", "order on alternating steps"
MEAN, COVARIANCE = f"error of the mean of {SAMPLES} samples", f"error of the covariance of {SAMPLES} samples"
TWO_SAMPLE = f"p of a two-sample test, n = {COMPARED}"
VARIANCE = "error of the variance of N(0, 0.5^2)"


def error_within(evaluations: int) -> str:
    """The property of the error that so many evaluations leave."""
    return f"error within {evaluations} evaluations"


class Counted:
    """A denoiser that counts its evaluations."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.schedule, self.calls = denoiser, denoiser.schedule, 0

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        self.calls += 1
        return self.denoiser(x, level, cond)


def _paths() -> dict[str, Schedule]:
    return {name: registry.build("schedule", name) for name in PATHS}


def _refusal(sampler: Sampler, schedule: Schedule) -> str | None:
    """Why the sampler does not run on the schedule, or None."""
    try:
        sampler.check(schedule)
    except ConfigError as error:
        return str(error)
    return None


def _build(subject: Subject) -> convergence.Build:
    return lambda steps, grid: subject.build(steps=steps, grid=grid)


def _many(subject: Subject, steps: int) -> int:
    """So many steps; few for an adaptive sampler, which is exact at any number."""
    own = subject.build(steps=STEPS).evaluations_per_step is None
    return STEPS if own else steps


def _run(sampler: Sampler, x: Tensor, schedule: Schedule | None = None, seed: int = 0) -> list[Step]:
    """The steps from x, with noise seeded for each example."""
    denoiser = MIXTURE.denoiser(schedule or registry.build("schedule", "vp"))
    with torch.no_grad():
        return list(sampler.trajectory(denoiser, x, noise=SampleNoise(seed, range(len(x)))))


def order(subject: Subject) -> Iterator[Row]:
    """The declared order of convergence to the probability flow is the measured one."""
    sampler = subject.build(steps=STEPS)
    declared = sampler.reached_order
    if declared is None:
        yield Row(DECLARED, "", "none")
        return
    if sampler.stochastic:
        yield Row(DECLARED, "", str(declared), "None for a stochastic sampler", False, value=declared)
        return
    yield reported(DECLARED, "", declared, digits="d")
    for name, schedule in _paths().items():
        if refusal := _refusal(subject.build(steps=STEPS, grid=convergence.FROM_SIGNAL), schedule):
            yield Row(ORDER, name, f"refused: {refusal}")
            continue
        yield _order(ORDER, name, convergence.order(_build(subject), schedule), declared)
    schedule = registry.build("schedule", "vp")
    found = convergence.order(_build(subject), schedule, convergence.FROM_SIGNAL_ALTERNATING)
    if sampler.needs_smooth_grid:
        yield reported(ALTERNATING, "vp", found, "on a sampler that declares needs_smooth_grid", digits=".2f")
        return
    yield _order(ALTERNATING, "vp", found, declared)


def _order(what: str, where: str, found: float, declared: int) -> Row:
    wanted, right = f"the declared {declared}, within {ORDER_TOLERANCE}", abs(found - declared) <= ORDER_TOLERANCE
    return Row(what, where, f"{found:.2f}", wanted, right, found, ORDER_TOLERANCE)


def distance_to_the_flow(subject: Subject) -> Iterator[Row]:
    """A deterministic sampler approaches the exact probability flow; its error after some evaluations is reported."""
    sampler = subject.build(steps=STEPS)
    if sampler.stochastic:
        return
    schedule = registry.build("schedule", "vp")
    if sampler.evaluations_per_step is not None:
        for evaluations in convergence.EVALUATIONS:
            point = convergence.most_within(_build(subject), schedule, evaluations)
            if point is None:
                yield Row(error_within(evaluations), "vp", "takes more evaluations")
            else:
                yield reported(error_within(evaluations), "vp", point.error, digits=".2e", steps=point.steps)
    steps = _many(subject, convergence.ORDER_STEPS[0])
    point = convergence.measure(_build(subject), schedule, steps, convergence.FROM_NOISE)
    where = f"vp, {point.evaluations} evaluations"
    yield at_most("distance to the exact flow", where, point.error, FLOW_TOLERANCE, digits=".2e", steps=steps)


def samples(subject: Subject, count: int = SAMPLES) -> Tensor:
    """(count, 2) samples of the mixture by 200 steps on the variance-preserving path, even in log-SNR, to x_0."""
    sampler: Sampler = subject.build(steps=_many(subject, SAMPLE_STEPS), grid=LogSNR(log_snr_max=7.0))
    generator = torch.Generator().manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, dtype=like.dtype, generator=generator)

    return sampler(MIXTURE.denoiser(registry.build("schedule", "vp")), normal(count, seed=1), noise=noise)


def distribution(subject: Subject) -> Iterator[Row]:
    """Samples have the mixture's mean and covariance, and pass a two-sample test against it."""
    x, steps = samples(subject), _many(subject, SAMPLE_STEPS)
    centred = x - x.mean(0)
    products = torch.einsum("bi,bj->bij", centred, centred)
    for what, found, exact, spread in (
        (MEAN, x.mean(0), MIXTURE.mean, x.std(0)),
        (COVARIANCE, products.mean(0), MIXTURE.covariance, products.std(0)),
    ):
        error, bound = (found - exact).abs(), STANDARD_ERRORS * spread / math.sqrt(len(x)) + BIAS
        largest, right = error.max().item(), bool((error <= bound).all())
        wanted = f"at most {STANDARD_ERRORS:g} standard errors and {BIAS}, {bound.max().item():.4f}"
        yield Row(what, "vp", f"{largest:.4f}", wanted, right, largest, bound.max().item(), steps=steps)
    energy, p = energy_test(x[:COMPARED], MIXTURE.sample(COMPARED, torch.Generator().manual_seed(2)))
    shown = f"{p:.3f}, for an energy distance of {energy:.4f}"
    wanted = f"above {FALSE_ALARMS}, the rate of false alarms"
    yield Row(TWO_SAMPLE, "vp", shown, wanted, p > FALSE_ALARMS, p, FALSE_ALARMS, steps=steps)


def variance(subject: Subject) -> Iterator[Row]:
    """The variance of Gaussian data is reached as the steps grow: known without sampling error."""
    schedule, steps = registry.build("schedule", "vp"), _many(subject, SAMPLE_STEPS)
    coarse, fine = (
        variance_error(subject.build(steps=count, grid=LogSNR(log_snr_max=7.0)), schedule)
        for count in (steps // 2, steps)
    )
    if coarse is None or fine is None:
        yield Row(VARIANCE, "vp", "not measured: not linear in x and the noise", steps=steps)
        return
    # Without the part that falls as 1 / steps.
    limit = 2 * fine - coarse
    found = f"{limit:+.2%} extrapolated, {fine:+.2%} measured"
    wanted, right = f"at most {VARIANCE_TOLERANCE:.1%} extrapolated", abs(limit) <= VARIANCE_TOLERANCE
    yield Row(VARIANCE, "vp", found, wanted, right, limit, VARIANCE_TOLERANCE, steps=steps)


def randomness(subject: Subject) -> Iterator[Row]:
    """The same seed gives the same sample to the bit; all noise comes from ``noise``, and only if declared."""
    sampler, x = subject.build(steps=STEPS), normal(8)
    state = torch.get_rng_state()
    first, second, other = (_run(sampler, x, seed=seed)[-1].x for seed in (0, 0, 1))
    wanted = "the same to the bit"
    wrong = None if torch.equal(first, second) else "two results"
    yield verdict("two runs with one seed", "", wrong, wanted)
    wrong = None if torch.equal(state, torch.get_rng_state()) else "torch's global generator was used"
    yield verdict("source of noise", "", wrong, "noise(like) alone")
    differs = not torch.equal(first, other)
    yield Row(
        "stochastic",
        "",
        "the sample depends on the seed" if differs else "the sample does not depend on the seed",
        f"declared stochastic={sampler.stochastic}",
        differs == sampler.stochastic,
    )


def kept(subject: Subject) -> Iterator[Row]:
    """The precision and the device of x are kept, and x itself is not changed."""
    sampler, x = subject.build(steps=STEPS), normal(8)
    for dtype in (torch.float32, torch.float64):
        found = {value.dtype for step in _run(sampler, x.to(dtype)) for value in (step.x, step.x0)}
        name = str(dtype).removeprefix("torch.")
        wrong = None if found == {dtype} else ", ".join(sorted(map(str, found)))
        yield verdict("precision of x and x0", name, wrong, name)
    yield _device(sampler, x.float())
    before = x.clone()
    _run(sampler, x)
    yield verdict("x at t = 1", "", None if torch.equal(x, before) else "changed in place", "left as it is")


def _device(sampler: Sampler, x: Tensor) -> Row:
    """On an accelerator if there is one; else on the meta device, which has shapes without values."""
    device = "cuda" if torch.cuda.is_available() else "meta"
    denoiser = MIXTURE.denoiser(registry.build("schedule", "vp"))
    try:
        with torch.no_grad():
            found = {step.x.device.type for step in sampler.trajectory(denoiser, x.to(device), noise=torch.randn_like)}
    except NotImplementedError:
        return Row("device of x", device, "not measured: its steps depend on values")
    wrong = None if found == {device} else ", ".join(sorted(found))
    return verdict("device of x", device, wrong, device)


def batch(subject: Subject) -> Iterator[Row]:
    """A sample does not depend on the others of its batch."""
    sampler, x = subject.build(steps=STEPS), normal(8)
    together = _run(sampler, x)[-1].x
    denoiser = MIXTURE.denoiser(registry.build("schedule", "vp"))
    alone = torch.cat([sampler(denoiser, x[i : i + 1], noise=SampleNoise(0, [i])) for i in range(len(x))])
    yield at_most("one sample alone - in a batch", "vp", (alone - together).abs().max().item(), 1e-10)


def end_points(subject: Subject) -> Iterator[Row]:
    """On every schedule it gives finite samples at t = 0, or both check() and sampling refuse."""
    sampler, ran = subject.build(steps=STEPS), 0
    for name, schedule in schedules().items():
        x = start(schedule(torch.ones((), dtype=torch.float64)))
        refusal = _refusal(sampler, schedule)
        try:
            steps = _run(sampler, x, schedule)
        except ConfigError as error:
            wrong = None if refusal else f"check() passes, but sampling is refused: {error}"
            yield verdict("end points", name, wrong, "finite at t = 0, or refused")
            continue
        except Exception as error:
            yield verdict("end points", name, f"{type(error).__name__}: {error}", "finite at t = 0, or refused")
            continue
        ran += 1
        if refusal:
            wrong = f"check() refuses ({refusal}), but sampling runs"
        elif not all(bool(value.isfinite().all()) for step in steps for value in (step.x, step.x0)):
            wrong = "values that are not finite"
        else:
            wrong = None if steps[-1].t == 0 else f"the last step at t = {steps[-1].t:g}"
        yield verdict("end points", name, wrong, "finite at t = 0, or refused")
    yield at_least("schedules that it runs on", "", ran, 1)


def few_steps(subject: Subject) -> Iterator[Row]:
    """One to five steps give finite samples, or are refused."""
    for count in range(1, 6):
        try:
            steps = _run(subject.build(steps=count), normal(8))
        except ConfigError:
            continue
        wrong = None if bool(steps[-1].x.isfinite().all()) else "values that are not finite"
        yield verdict("few steps", f"vp, {count} steps", wrong, "finite samples, or refused")


def trajectory(subject: Subject) -> Iterator[Row]:
    """``steps`` Steps at the grid's times, with true counts of evaluations; steps=0 is refused."""
    sampler = subject.build(steps=STEPS)
    schedule = registry.build("schedule", "vp")
    denoiser = Counted(MIXTURE.denoiser(schedule))
    with torch.no_grad():
        steps = list(sampler.trajectory(denoiser, normal(8)))
    times = torch.tensor([step.t for step in steps], dtype=torch.float64)
    grid = sampler.grid(STEPS, schedule)[1:]
    if sampler.returns_to_noise:
        wrong = None if len(steps) >= STEPS and times[-1] == 0 else f"{len(steps)} ending at t = {times[-1]:g}"
        yield verdict("steps", "vp", wrong, f"at least {STEPS}, ending at t = 0")
    else:
        agrees = len(steps) == STEPS and torch.allclose(times, grid, rtol=0, atol=1e-9)
        wrong = None if agrees else f"{len(steps)} at t = {', '.join(f'{t:.3g}' for t in times[:3])} .. {times[-1]:g}"
        yield verdict("steps", "vp", wrong, f"{STEPS}, decreasing along the grid to t = 0")
    counted = sum(step.evaluations for step in steps)
    yield Row("evaluations", "vp", f"{denoiser.calls}", f"{counted}, the sum over steps", counted == denoiser.calls)
    declared = sampler.evaluations_per_step
    if declared is not None:
        usual = sorted(step.evaluations for step in steps)[len(steps) // 2]
        yield Row("evaluations of a step", "vp", str(usual), f"the declared {declared}", usual == declared)
    try:
        subject.build(steps=0)
        wrong = "built"
    except ConfigError:
        wrong = None
    yield verdict("steps=0", "", wrong, "refused with a ConfigError")


def gradients(subject: Subject) -> Iterator[Row]:
    """Gradients pass through all steps."""
    x = normal(8).requires_grad_()
    denoiser = MIXTURE.denoiser(registry.build("schedule", "vp"))
    steps = list(subject.build(steps=STEPS).trajectory(denoiser, x, noise=SampleNoise(0, range(8))))
    wrong = None
    if not steps[-1].x.requires_grad:
        wrong = "cut off"
    else:
        (gradient,) = torch.autograd.grad(steps[-1].x.sum(), x)
        wrong = None if bool(gradient.isfinite().all()) and bool((gradient != 0).any()) else "zero or not finite"
    yield verdict("gradient of x_0 by x_T", "vp", wrong, "finite, not zero")


def inversion(subject: Subject) -> Iterator[Row]:
    """Sampling from the code of x_0 leads back to x_0, if it encodes."""
    x0 = MIXTURE.sample(8, torch.Generator().manual_seed(0))
    denoiser = MIXTURE.denoiser(registry.build("schedule", "vp"))
    grid: Grid = LogSNR(log_snr_max=7.0)
    sampler = subject.build(steps=_many(subject, convergence.ORDER_STEPS[1]), grid=grid)
    try:
        code = sampler.encode(denoiser, x0)
    except ConfigError:
        yield Row("encoding", "", "none")
        return
    gap = (sampler(denoiser, code) - x0).abs().max().item()
    yield at_most("x_0 encoded and sampled - x_0", "vp", gap, 0.05, digits=".1e")


CHECKS: tuple[Check, ...] = (
    order,
    distance_to_the_flow,
    distribution,
    variance,
    randomness,
    kept,
    batch,
    end_points,
    few_steps,
    trajectory,
    gradients,
    inversion,
)
