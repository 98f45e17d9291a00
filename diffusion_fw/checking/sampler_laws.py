"""What every sampler promises, measured on a mixture whose denoiser and probability flow are known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from diffusion_fw import registry
from diffusion_fw.checking import convergence
from diffusion_fw.checking.findings import Row
from diffusion_fw.checking.impulses import variance_error
from diffusion_fw.checking.subject import Check, Subject, schedules, verdict
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


class Counted:
    """A denoiser that counts how often it is asked."""

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
    """So many steps; a sampler that finds its own is exact at any number, and gets few."""
    own = subject.build(steps=STEPS).evaluations_per_step is None
    return STEPS if own else steps


def _run(sampler: Sampler, x: Tensor, schedule: Schedule | None = None, seed: int = 0) -> list[Step]:
    """The steps from x, with noise of which every example's is its own."""
    denoiser = MIXTURE.denoiser(schedule or registry.build("schedule", "vp"))
    with torch.no_grad():
        return list(sampler.trajectory(denoiser, x, noise=SampleNoise(seed, range(len(x)))))


def order(subject: Subject) -> Iterator[Row]:
    """The declared order of convergence to the probability flow is the measured one."""
    sampler = subject.build(steps=STEPS)
    declared = sampler.order
    if sampler.stochastic and declared is not None:
        yield Row("order", "", f"{declared} declared", "None of a stochastic sampler", False)
        return
    if declared is None:
        yield Row("order", "", "none declared")
        return
    wanted = f"the declared {declared}, within {ORDER_TOLERANCE}"
    for name, schedule in _paths().items():
        if refusal := _refusal(subject.build(steps=STEPS, grid=convergence.FROM_SIGNAL), schedule):
            yield Row("order", name, f"refused: {refusal}")
            continue
        found = convergence.order(_build(subject), schedule)
        yield Row("order", name, f"{found:.2f}", wanted, abs(found - declared) <= ORDER_TOLERANCE)
    found = convergence.order(_build(subject), registry.build("schedule", "vp"), convergence.FROM_SIGNAL_ALTERNATING)
    if sampler.needs_smooth_grid:
        yield Row("order on alternating steps", "vp", f"{found:.2f}, and needs smooth grids as declared")
        return
    yield Row("order on alternating steps", "vp", f"{found:.2f}", wanted, abs(found - declared) <= ORDER_TOLERANCE)


def distance_to_the_flow(subject: Subject) -> Iterator[Row]:
    """A deterministic sampler approaches the exact probability flow; its error after some evaluations."""
    sampler = subject.build(steps=STEPS)
    if sampler.stochastic:
        return
    schedule = registry.build("schedule", "vp")
    if sampler.evaluations_per_step is not None:
        for evaluations in convergence.EVALUATIONS:
            point = convergence.most_within(_build(subject), schedule, evaluations)
            found = "takes more evaluations" if point is None else f"{point.error:.2e} ({point.steps} steps)"
            yield Row(f"error after {evaluations} evaluations", "vp", found)
    steps = _many(subject, convergence.ORDER_STEPS[0])
    point = convergence.measure(_build(subject), schedule, steps, convergence.FROM_NOISE)
    yield Row(
        "distance to the exact flow",
        f"vp, {steps} steps, {point.evaluations} evaluations",
        f"{point.error:.2e}",
        f"at most {FLOW_TOLERANCE}",
        point.error <= FLOW_TOLERANCE,
    )


def samples(subject: Subject, count: int = SAMPLES) -> Tensor:
    """(count, 2) samples of the mixture by 200 steps on the variance-preserving path, even in log-SNR, to x_0."""
    sampler: Sampler = subject.build(steps=_many(subject, SAMPLE_STEPS), grid=LogSNR(log_snr_max=7.0))
    generator = torch.Generator().manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, dtype=like.dtype, generator=generator)

    return sampler(MIXTURE.denoiser(registry.build("schedule", "vp")), normal(count, seed=1), noise=noise)


def distribution(subject: Subject) -> Iterator[Row]:
    """Samples have the mixture's mean and covariance, and pass a two-sample test against it."""
    x, where = samples(subject), f"vp, {_many(subject, SAMPLE_STEPS)} steps"
    centred = x - x.mean(0)
    products = torch.einsum("bi,bj->bij", centred, centred)
    for what, found, exact, spread in (
        ("mean", x.mean(0), MIXTURE.mean, x.std(0)),
        ("covariance", products.mean(0), MIXTURE.covariance, products.std(0)),
    ):
        error = spread / math.sqrt(len(x))
        excess = (found - exact).abs() - STANDARD_ERRORS * error
        yield Row(
            f"{what} of {SAMPLES} samples",
            where,
            f"off by {(found - exact).abs().max().item():.4f}",
            f"within {STANDARD_ERRORS:g} standard errors of {error.max().item():.4f}, and {BIAS}",
            bool((excess <= BIAS).all()),
        )
    exact = MIXTURE.sample(COMPARED, torch.Generator().manual_seed(2))
    energy, p = energy_test(x[:COMPARED], exact)
    yield Row(
        f"two-sample test, n = {COMPARED}",
        where,
        f"energy distance {energy:.4f}, p = {p:.3f}",
        f"p above {FALSE_ALARMS}, the rate of false alarms",
        p > FALSE_ALARMS,
    )


def variance(subject: Subject) -> Iterator[Row]:
    """The variance of Gaussian data is reached as the steps grow: known without sampling error."""
    schedule, steps = registry.build("schedule", "vp"), _many(subject, SAMPLE_STEPS)
    coarse, fine = (
        variance_error(subject.build(steps=count, grid=LogSNR(log_snr_max=7.0)), schedule)
        for count in (steps // 2, steps)
    )
    where = f"vp, {steps // 2} and {steps} steps"
    if coarse is None or fine is None:
        yield Row("variance of N(0, 0.5^2)", where, "not measured: not linear in x and the noise")
        return
    # Without the part that falls as 1 / steps.
    limit = 2 * fine - coarse
    yield Row(
        "variance of N(0, 0.5^2)",
        where,
        f"off by {fine:+.2%}, extrapolated {limit:+.2%}",
        f"extrapolated within {VARIANCE_TOLERANCE:.1%}",
        abs(limit) <= VARIANCE_TOLERANCE,
    )


def randomness(subject: Subject) -> Iterator[Row]:
    """The same seed gives the same sample to the bit, all noise is drawn by ``noise``, and only if declared."""
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
    """On an accelerator where there is one; else on the device that has shapes and no values, if they suffice."""
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
    gap = (alone - together).abs().max().item()
    yield Row("one sample alone and in a batch", "vp", f"{gap:.0e} apart", "at most 1e-10 apart", gap <= 1e-10)


def end_points(subject: Subject) -> Iterator[Row]:
    """On every schedule it gives finite samples at t = 0, or refuses when built and when run."""
    sampler, ran = subject.build(steps=STEPS), 0
    for name, schedule in schedules().items():
        x = start(schedule(torch.ones((), dtype=torch.float64)))
        refusal = _refusal(sampler, schedule)
        try:
            steps = _run(sampler, x, schedule)
        except ConfigError as error:
            wrong = None if refusal else f"check() is silent, but sampling is refused: {error}"
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
    yield Row("schedules that it runs on", "", str(ran), "at least 1", ran > 0)


def trajectory(subject: Subject) -> Iterator[Row]:
    """``steps`` Steps at the grid's times, which count their evaluations truly; no steps at all are refused."""
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
    """A caller who records gradients gets them through all steps."""
    x = normal(8).requires_grad_()
    denoiser = MIXTURE.denoiser(registry.build("schedule", "vp"))
    steps = list(subject.build(steps=STEPS).trajectory(denoiser, x, noise=SampleNoise(0, range(8))))
    wrong = None
    if not steps[-1].x.requires_grad:
        wrong = "cut off"
    elif not bool(torch.autograd.grad(steps[-1].x.sum(), x)[0].isfinite().all()):
        wrong = "not finite"
    yield verdict("gradient of x_0 by x_T", "vp", wrong, "finite")


def inversion(subject: Subject) -> Iterator[Row]:
    """Where it encodes, sampling leads the code back to x_0."""
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
    yield Row("x_0 encoded and sampled again", "vp", f"{gap:.1e} apart", "at most 0.05 apart", gap <= 0.05)


CHECKS: tuple[Check, ...] = (
    order,
    distance_to_the_flow,
    distribution,
    variance,
    randomness,
    kept,
    batch,
    end_points,
    trajectory,
    gradients,
    inversion,
)
