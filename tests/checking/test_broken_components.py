"""A component that breaks a law fails its check, for the reason for which it was broken."""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.checking import sampler_laws
from diffusion_fw.checking.conformance import CHECKS
from diffusion_fw.condition import Told
from diffusion_fw.conditions.source import Source
from diffusion_fw.guidance.guidance import Guidance
from diffusion_fw.networks.mlp import MLP
from diffusion_fw.objectives.time_sampler import InverseTimeSampler, TimeSampler
from diffusion_fw.objectives.weighting import Weighting
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Parameterization, Prediction, with_x0
from diffusion_fw.process.schedules.continuous import VP
from diffusion_fw.process.schedules.tables import Linear
from diffusion_fw.process.variance import Learned
from diffusion_fw.registry import Runtime
from diffusion_fw.samplers.ddim import DDIM
from diffusion_fw.samplers.ddpm import DDPM
from diffusion_fw.samplers.grid import Grid
from diffusion_fw.samplers.heun import Heun
from diffusion_fw.samplers.sampler import Sampler, Step


def reasons(group, name, **parameters):
    with pytest.raises(dfw.checking.CheckFailed, match=f"{group}={name} fails its checks") as failure:
        dfw.checking.check(group, name, **parameters)
    return str(failure.value)


# Variances.


class OfTheBatch(Learned):
    """Takes the mean logit of all examples for each."""

    def log_variance(self, step, logit):
        return super().log_variance(step, logit.mean().expand_as(logit))


class Deaf(Learned):
    """Says that it is learned, and is not."""

    def log_variance(self, step, logit):
        return step.large


@pytest.mark.parametrize(
    ("component", "reason"),
    [
        (OfTheBatch, "gradient of an element: found with respect to other elements"),
        (Deaf, "gradient of an element: found none"),
    ],
)
def test_a_broken_variance_fails(registered, component, reason):
    assert re.search(reason, reasons("variance", registered("variance", component)))


# Samplers.


@dataclass(frozen=True)
class WrongLetter(Sampler):
    """Heun's method whose second evaluation is at x_t where x_s belongs."""

    order: ClassVar[int | None] = 2
    evaluations_per_step: ClassVar[int | None] = 2

    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        levels = self.levels(denoiser.schedule).unbind()
        for level, end in itertools.pairwise(levels):
            prediction = denoiser(x, level, cond)
            eps, evaluations = prediction.eps, 1
            if end.sigma > 0:
                eps, evaluations = (eps + denoiser(x, end, cond).eps) / 2, 2
            rho = level.sigma / level.alpha, end.sigma / end.alpha
            x = end.alpha * (x / level.alpha + (rho[1] - rho[0]) * eps)
            yield Step(end.t.item(), x, prediction.x0, evaluations)


@dataclass(frozen=True)
class EqualStepsOnly(Sampler):
    """DPM-Solver++(2M) that takes the last step to have been as long as this one."""

    order: ClassVar[int | None] = 2

    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        levels, last = self.levels(denoiser.schedule).unbind(), None
        for level, end in itertools.pairwise(levels):
            x0 = denoiser(x, level, cond).x0
            ahead = x0 if last is None or end.sigma == 0 else 1.5 * x0 - 0.5 * last
            h = (end.log_snr - level.log_snr) / 2
            x, last = end.sigma / level.sigma * x - end.alpha * torch.expm1(-h) * ahead, x0
            yield Step(end.t.item(), x, x0)


class TooMuchNoise(DDPM):
    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        yield from super().trajectory(denoiser, x, cond=cond, noise=lambda like: 1.02 * noise(like))


class Displaced(DDIM):
    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        for step in super().trajectory(denoiser, x, cond=cond, noise=noise):
            yield Step(step.t, step.x + 0.05, step.x0)


class Narrow(DDIM):
    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        for step in super().trajectory(denoiser, x, cond=cond, noise=noise):
            yield Step(step.t, 0.95 * step.x, step.x0)


class OneMode(DDIM):
    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        yield from super().trajectory(denoiser, x.abs(), cond=cond, noise=noise)


class OwnNoise(DDPM):
    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        yield from super().trajectory(denoiser, x, cond=cond, noise=torch.randn_like)


class SilentlyStochastic(DDPM):
    stochastic = False


class InPlace(DDIM):
    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        for step in super().trajectory(denoiser, x, cond=cond, noise=noise):
            with torch.no_grad():
                x.copy_(step.x)
            yield step


class Doubled(DDIM):
    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        yield from super().trajectory(denoiser, x.double(), cond=cond, noise=noise)


class Crowd(DDIM):
    """Centres the batch."""

    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        yield from super().trajectory(denoiser, x - x.mean(0), cond=cond, noise=noise)


class StopsShort(DDIM):
    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        *steps, _ = super().trajectory(denoiser, x, cond=cond, noise=noise)
        yield from steps


class Miscounts(Heun):
    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        for step in super().trajectory(denoiser, x, cond=cond, noise=noise):
            yield Step(step.t, step.x, step.x0)


@dataclass(frozen=True)
class NoSteps(DDIM):
    steps: int = 50


class SilentRefusal(DDIM):
    """Refuses tables when it is run, and not when it is built."""

    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        denoiser.schedule.rates(torch.tensor(0.5))
        yield from super().trajectory(denoiser, x, cond=cond, noise=noise)


class OneStepTooFew(DDIM):
    """Divides by zero where there is one step."""

    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        for step in super().trajectory(denoiser, x, cond=cond, noise=noise):
            yield Step(step.t, step.x / min(1, self.steps - 1), step.x0)


class Forgets(DDIM):
    """A sample that x_T has no part in, with a gradient of zero."""

    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        yield from super().trajectory(denoiser, 0 * x, cond=cond, noise=noise)


class Explodes(DDIM):
    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        for step in super().trajectory(denoiser, x, cond=cond, noise=noise):
            yield Step(step.t, step.x * torch.inf, step.x0)


class Detached(DDIM):
    def trajectory(self, denoiser, x, *, cond=None, noise=torch.randn_like):
        yield from super().trajectory(denoiser, x.detach(), cond=cond, noise=noise)


class WrongCode(DDIM):
    def encode(self, denoiser, x, *, cond=None):
        return -super().encode(denoiser, x, cond=cond)


SAMPLERS = [
    (WrongLetter, sampler_laws.order, r"order, vp: found 1\.0\d, wanted the declared 2"),
    (EqualStepsOnly, sampler_laws.order, r"order on alternating steps, vp: found 0\.99, wanted the declared 2"),
    (
        TooMuchNoise,
        sampler_laws.variance,
        r"variance of N\(0, 0\.5\^2\), vp.*: found \+3\.\d+% extrapolated",
    ),
    (
        Displaced,
        sampler_laws.distribution,
        r"mean of 10000 samples, vp.*: found 0\.\d+, wanted at most 4 standard errors",
    ),
    (
        Narrow,
        sampler_laws.distribution,
        r"covariance of 10000 samples, vp.*: found 0\.\d+, wanted at most 4 standard errors",
    ),
    (
        OneMode,
        sampler_laws.distribution,
        r"p of a two-sample test, n = 1000, vp.*: found 0\.001.*, wanted above 0\.001",
    ),
    (OwnNoise, sampler_laws.randomness, r"source of noise: found torch's global generator was used"),
    (
        SilentlyStochastic,
        sampler_laws.randomness,
        r"stochastic: found the sample depends on the seed, wanted declared stochastic=False",
    ),
    (InPlace, sampler_laws.kept, r"x at t = 1: found changed in place"),
    (Doubled, sampler_laws.kept, r"precision of x and x0, float32: found torch.float64"),
    (Crowd, sampler_laws.batch, r"one sample alone - in a batch, vp: found \S+, wanted at most 1e-10"),
    (StopsShort, sampler_laws.trajectory, r"steps, vp: found 19 at"),
    (Miscounts, sampler_laws.trajectory, r"evaluations, vp: found 39, wanted 20, the sum over steps"),
    (NoSteps, sampler_laws.trajectory, r"steps=0: found built, wanted refused"),
    (SilentRefusal, sampler_laws.end_points, r"end points, linear: found check\(\) passes, but sampling is refused"),
    (Explodes, sampler_laws.end_points, r"end points, vp: found values that are not finite"),
    (OneStepTooFew, sampler_laws.few_steps, r"few steps, vp, 1 steps: found values that are not finite"),
    (Forgets, sampler_laws.gradients, r"gradient of x_0 by x_T, vp: found zero or not finite"),
    (Detached, sampler_laws.gradients, r"gradient of x_0 by x_T, vp: found cut off"),
    (WrongCode, sampler_laws.inversion, r"x_0 encoded and sampled - x_0, vp: found \S+, wanted at most 0\.05"),
]


@pytest.mark.parametrize(("component", "item", "reason"), SAMPLERS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_sampler_fails(monkeypatch, registered, component, item, reason):
    monkeypatch.setitem(CHECKS, "sampler", (item,))
    assert re.search(reason, reasons("sampler", registered("sampler", component)))


# Schedules.


class WrongRates(VP):
    def rates(self, t):
        f, g_squared = super().rates(t)
        return f, 2 * g_squared


class WrongInverse(VP):
    def time(self, log_snr):
        return super().time(log_snr + 0.01)


class WrongLogSNR(VP):
    def __call__(self, t):
        level = super().__call__(t)
        return dataclasses.replace(level, log_snr=level.log_snr / 2)


class NeverClean(VP):
    def __call__(self, t):
        return super().__call__(torch.as_tensor(t, dtype=torch.float64).clamp(min=1e-6))


class Backwards(VP):
    def __call__(self, t):
        level = super().__call__(t)
        return NoiseLevel(level.t, level.sigma, level.alpha, -level.log_snr)


class SinglePrecision(VP):
    def __call__(self, t):
        return super().__call__(t).map(lambda value: value.float())


class TableWithRates(Linear):
    def rates(self, t):
        return t, t


class InfiniteSignal(VP):
    def __call__(self, t):
        level = super().__call__(t)
        return dataclasses.replace(level, alpha=torch.where(level.t == 1, torch.nan, level.alpha))


class AlmostLogSNR(VP):
    """As exact as float32."""

    def __call__(self, t):
        level = super().__call__(t)
        return dataclasses.replace(level, log_snr=level.log_snr * (1 + 1e-8))


class NeverPureNoise(VP):
    def time(self, log_snr):
        return super().time(log_snr).clamp(max=0.999)


class WrongRatesAtTheEnd(VP):
    """Wrong where finite differences are not taken."""

    def rates(self, t):
        f, g_squared = super().rates(t)
        return torch.where(t > 0.99, 1.001 * f, f), g_squared


class WrongWeight(VP):
    def elbo_weight(self, t):
        return 2 * super().elbo_weight(t)


class WrongWeightOfATable(Linear):
    """Half the slope of snr per row, without the number of rows."""

    def elbo_weight(self, t):
        return super().elbo_weight(t) / self.num_steps


class Crowded(VP):
    """Most times are near clean data."""

    def fraction(self, u):
        return super().fraction(u**2)


class OffItsRows(Linear):
    def fraction(self, u):
        return (super().fraction(u) + 0.3 / self.num_steps).clamp(self.t_min, 1)


# Parameterizations.


class WrongCoefficients(Parameterization):
    """v-prediction whose solution has one sign wrong."""

    def coefficients(self, level):
        return -level.sigma, level.alpha

    def inverse(self, level):
        p, q, r, s = super().inverse(level)
        return p, q, -r, s


class NothingToLearn(Parameterization):
    """F = x_t, which the network has already."""

    def coefficients(self, level):
        return level.alpha, level.sigma


class InfiniteLabel(Parameterization):
    def coefficients(self, level):
        return torch.zeros_like(level.t), torch.ones_like(level.t)

    def input(self, level):
        return torch.ones_like(level.t), level.sigma.log()


class Blind(Parameterization):
    """One label for all levels."""

    def coefficients(self, level):
        return torch.zeros_like(level.t), torch.ones_like(level.t)

    def input(self, level):
        return torch.ones_like(level.t), torch.ones_like(level.t)


class Inverted(Blind):
    """Minus the noise as input."""

    def input(self, level):
        return -torch.ones_like(level.t), level.t


# Weightings, time samplers, grids.


class Negative(Weighting):
    space = "eps"

    def __call__(self, level):
        return level.log_snr.clamp(-10, 10)


class Infinite(Weighting):
    space = "x0"

    def __call__(self, level):
        return 1 / level.alpha


class NoSpace(Weighting):
    space = "velocity"  # type: ignore[assignment]

    def __call__(self, level):
        return torch.ones_like(level.t)


class OutOfRange(InverseTimeSampler):
    def times(self, u, schedule):
        return 2 * u


class GlobalRandomness(TimeSampler):
    def __call__(self, count, schedule, generator=None):
        return schedule.fraction(torch.rand(count, dtype=torch.float64))


class NotStratified(InverseTimeSampler):
    def times(self, u, schedule):
        return schedule.fraction(torch.rand(u.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))


class Biased(TimeSampler):
    def __call__(self, count, schedule, generator=None):
        return schedule.fraction(torch.rand(count, dtype=torch.float64, generator=generator).square())

    def weight(self, t):
        return 2 * torch.ones_like(t)


class Forgetful(TimeSampler):
    def __init__(self) -> None:
        self.power = 1.0

    def __call__(self, count, schedule, generator=None):
        return schedule.fraction(torch.rand(count, dtype=torch.float64, generator=generator) ** self.power)

    def update(self, t, loss):
        self.power = 2.0


class Increasing(Grid):
    def noisy_times(self, steps, schedule):
        return torch.linspace(0, 1, steps)

    def __call__(self, steps, schedule):
        return self.noisy_times(steps, schedule)


class OneTooMany(Grid):
    def noisy_times(self, steps, schedule):
        return torch.linspace(1, 0, steps + 2, dtype=torch.float64)

    def __call__(self, steps, schedule):
        return schedule.snap(self.noisy_times(steps, schedule))


class BetweenRows(Grid):
    """Says that its times are rows, and keeps them as they are."""

    def noisy_times(self, steps, schedule):
        return torch.linspace(0.987, schedule.t_min, steps, dtype=torch.float64)

    def __call__(self, steps, schedule):
        times = self.noisy_times(steps, schedule)
        return torch.cat([times, times.new_zeros(1)])


class Noisy(Grid):
    def noisy_times(self, steps, schedule):
        return torch.rand(steps, dtype=torch.float64).sort(descending=True).values.clamp(min=schedule.t_min)


class StartsAboveOne(Grid):
    def noisy_times(self, steps, schedule):
        return torch.linspace(1, schedule.t_min, steps, dtype=torch.float64)

    def __call__(self, steps, schedule):
        return 1.5 * super().__call__(steps, schedule)


# Guidance.


class OnlyX0(Guidance):
    """Moves x_0 and forgets eps."""

    def __call__(self, x, level, cond=None):
        prediction = self.denoiser(x, level, cond)
        return Prediction(prediction.x0 * 0.9, prediction.eps)


@dataclass(frozen=True)
class NeverUnguided(Guidance):
    scale: float = 2.0

    def __call__(self, x, level, cond=None):
        prediction = self.denoiser(x, level, cond)
        return with_x0(prediction, level, (self.scale + 2) * prediction.x0)


class Averages(Guidance):
    def __call__(self, x, level, cond=None):
        prediction = self.denoiser(x, level, cond)
        return with_x0(prediction, level, prediction.x0 - prediction.x0.mean(0))


# Networks.


class SecretlyTimed(MLP):
    """Says that it does not use the label, and does."""

    uses_label = False


class Timeless(MLP):
    def __init__(self, shape: Runtime[tuple[int, ...]], num_classes: Runtime[int] = 0, outputs: Runtime[int] = 1):
        super().__init__(shape, num_classes, outputs)

    def forward(self, x, label, cond=None):
        return super().forward(x, torch.zeros_like(label), cond)


class RoundsTimes(Timeless):
    def forward(self, x, label, cond=None):
        rounded = torch.is_autocast_enabled("cpu")
        return MLP.forward(self, x, label.bfloat16().float() if rounded else label, cond)


class Coupled(Timeless):
    def forward(self, x, label, cond=None):
        return MLP.forward(self, x - x.mean(0), label, cond)


class OneOutput(Timeless):
    def forward(self, x, label, cond=None):
        return MLP.forward(self, x, label, cond)[:, :1]


class Unused(Timeless):
    def __init__(self, shape: Runtime[tuple[int, ...]], num_classes: Runtime[int] = 0, outputs: Runtime[int] = 1):
        super().__init__(shape, num_classes, outputs)
        self.spare = nn.Linear(2, 2)

    def forward(self, x, label, cond=None):
        return MLP.forward(self, x, label, cond)


class SecretlyConditional(MLP):
    """Uses the class, and declares that it does not."""

    def __init__(
        self,
        shape: Runtime[tuple[int, ...]],
        num_classes: Runtime[int] = 0,
        outputs: Runtime[int] = 1,
        class_conditional: bool = False,
    ):
        super().__init__(shape, num_classes, outputs, class_conditional=class_conditional)
        self.class_conditional = False


class Classless(Timeless):
    """Declares that it uses the class, and ignores it."""

    def __init__(self, shape: Runtime[tuple[int, ...]], num_classes: Runtime[int] = 0, outputs: Runtime[int] = 1):
        super().__init__(shape, num_classes, outputs)
        self.class_conditional = True

    def forward(self, x, label, cond=None):
        return MLP.forward(self, x, label, None)


class Unaugmented(Timeless):
    """Declares that it uses the labels of an augmentation, and ignores them."""

    augment_dim = 2

    def forward(self, x, label, cond=None, augmentation=None):
        return MLP.forward(self, x, label, cond)


class AlwaysAugmented(Unaugmented):
    """Takes no labels for other labels than zeros."""

    def forward(self, x, label, cond=None, augmentation=None):
        return MLP.forward(self, x if augmentation is None else x + 1 + augmentation.sum(), label, cond)


class AugmentedInName(Timeless):
    augment_dim = 2

    def forward(self, x, label, cond=None):
        return MLP.forward(self, x, label, cond)


OTHERS = [
    (
        "schedule",
        WrongRates,
        r"rate g\^2 - its finite difference: found \S+ of 0\.01 \+ its size, wanted",
    ),
    ("schedule", WrongInverse, r"time\(log_snr\(t\)\) - t: found \S+ of 0\.001 \+ t, wanted at most 1e-09"),
    ("schedule", WrongLogSNR, r"log_snr - 2 log\(alpha / sigma\): found \S+ of 1 \+ log_snr, wanted at most 1e-11"),
    ("schedule", NeverClean, r"level at t = 0: found alpha = 1, sigma = 0\.000\d+"),
    ("schedule", Backwards, r"log_snr over t: found does not fall everywhere"),
    ("schedule", SinglePrecision, r"shape and precision, t of shape \(\): found \(\) torch.float32"),
    ("schedule", TableWithRates, r"rates of a table: found given, wanted refused"),
    ("schedule", InfiniteSignal, r"values from t = 0 to t = 1: found infinite or NaN"),
    ("schedule", AlmostLogSNR, r"log_snr - 2 log\(alpha / sigma\): found \S+ of 1 \+ log_snr, wanted at most 1e-11"),
    ("schedule", NeverPureNoise, r"time of log_snr from inf to -inf: found -?0, .*0\.999, wanted from 0"),
    ("schedule", WrongRatesAtTheEnd, r"rate f - its automatic derivative: found 1e-03 of"),
    ("schedule", WrongWeight, r"ELBO weight - half the fall of snr: found 1e\+00 of its size"),
    ("schedule", WrongWeightOfATable, r"ELBO weight - half the fall of snr: found 1e\+00 of its size"),
    ("schedule", Crowded, r"fraction\(u\) - \(t_min \+ \(1 - t_min\) u\): found 0\.25, wanted at most"),
    ("schedule", OffItsRows, r"snap\(fraction\(u\)\): found moved"),
    ("parameterization", Blind, r"network's inputs, vp: found one label for several levels"),
    ("parameterization", Inverted, r"network's inputs, vp: found c_in not positive"),
    (
        "parameterization",
        WrongCoefficients,
        r"x_0 and eps from F, vp.*: found \d+ roundings of float64, wanted",
    ),
    ("parameterization", NothingToLearn, r"x_0 and eps from F, vp.*: found undetermined there"),
    ("parameterization", InfiniteLabel, r"network's inputs, vp: found label not finite at t = 0"),
    ("weighting", Negative, r"weights, vp: found -10 at t = \S+, wanted finite and >= 0"),
    ("weighting", Infinite, r"weights, flow: found inf at t = 1"),
    ("weighting", NoSpace, r"space: found 'velocity', wanted one of native, eps, x0"),
    ("time_sampler", OutOfRange, r"times, vp: found \S+ \.\. 1\.99\d*, wanted in \[1e-05, 1\]"),
    ("time_sampler", GlobalRandomness, r"source of randomness.*: found torch's global generator was used"),
    ("time_sampler", NotStratified, r"stratified batch of 64.*: found 0\.\d+, wanted at most 0\.01564"),
    ("time_sampler", Biased, r"mean weight of the drawn times - 1.*: found 1\.000, wanted at most"),
    ("time_sampler", Forgetful, r"draws after saving and loading its state.*: found other times"),
    ("grid", Increasing, r"times, vp.*: found shape \(1,\), torch.float32 for 1 steps"),
    ("grid", OneTooMany, r"times, vp.*: found shape \(3,\), torch.float64 for 1 steps"),
    ("grid", BetweenRows, r"times, linear.*: found times between the rows of the table"),
    ("grid", Noisy, r"two calls, .*: found other times"),
    ("grid", StartsAboveOne, r"times, vp.*: found times from 1\.5 to 0"),
    ("guidance", OnlyX0, r"alpha x0 \+ sigma eps - x_t, vp: found \S+ of its size, wanted at most 1e-09"),
    ("guidance", NeverUnguided, r"unguided prediction, vp: found at no scale"),
    ("guidance", Averages, r"one prediction alone - in a batch, vp: found \S+, wanted at most 1e-10"),
    ("network", Timeless, r"time label, x \(2,\): found ignored, wanted changes the output"),
    ("network", RoundsTimes, r"time label in float32, x \(2,\): found rounded to bf16, wanted kept"),
    ("network", SecretlyTimed, r"time label, x \(2,\): found changes the output, wanted ignored"),
    ("network", Coupled, r"one example alone - in a batch, x \(2,\): found \S+ of its size, wanted at most 0\.0001"),
    ("network", OneOutput, r"output, x \(2,\), outputs=1: found \(3, 1\)"),
    ("network", SecretlyConditional, r"class_conditional, x \(2,\): found False, wanted True"),
    ("network", Unaugmented, r"augmentation, x \(2,\): found ignored, wanted changes the output"),
    ("network", AlwaysAugmented, r"augmentation of zeros, x \(2,\): found another output, wanted that without"),
    ("network", AugmentedInName, "augmentation: found TypeError.*augmentation"),
    ("network", Classless, r"class, x \(2,\): found ignored, wanted changes the output"),
    ("network", Unused, r"gradients, x \(2,\): found none or not finite for spare\.weight"),
]


@pytest.mark.parametrize(("group", "component", "reason"), OTHERS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_broken_component_fails(registered, group, component, reason):
    assert re.search(reason, reasons(group, registered(group, component)))


# Errors within a component.


class Raises(Weighting):
    space = "eps"

    def __call__(self, level):
        raise IndexError("row 7")


def test_an_error_within_a_component_is_a_reason_too(registered):
    assert "weights: found IndexError: row 7, wanted no error" in reasons("weighting", registered("weighting", Raises))


# What a component need not do.


class OfImages(nn.Module):
    """Takes images alone, and says so by no error of its own; its variances are fixed."""

    def __init__(self, shape: Runtime[tuple[int, ...]], side: int | None = None):
        super().__init__()
        self.height, self.side = shape[1], side
        self.layer = nn.Conv2d(shape[0] + 1, shape[0], 3, padding=1)

    def forward(self, x, label, cond=None):
        if self.side not in (None, x.shape[-1]):
            raise RuntimeError("of another side")
        return self.layer(torch.cat([x, (label / 1000).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])], dim=1))


NO_IMAGES = {"x (2,)": "IndexError", "x (2, 16)": "Error", "x (1, 2, 8, 8)": "Error"}
"""Why it takes no points, series and videos."""


@pytest.mark.parametrize(
    ("parameters", "skipped"),
    [
        ({}, NO_IMAGES),
        ({"side": 8}, {**NO_IMAGES, "x (3, 16, 16)": "of another side", "x (3, 32, 32)": "of another side"}),
        ({"side": 12, "shape": (2, 12, 12)}, {}),
    ],
)
def test_shapes_that_a_network_does_not_take_are_skipped_with_the_reason(registered, parameters, skipped):
    report = dfw.checking.check("network", registered("network", OfImages), **parameters)
    found = {row.where: row.found for row in report.rows if "skipped" in row.found}
    assert found.keys() == skipped.keys()
    assert all(reason in found[where] for where, reason in skipped.items())
    assert report.row("gradients", f"x {parameters.get('shape', (1, 8, 8))}").passed


def test_a_network_that_takes_no_shape_fails_with_the_reasons(registered):
    report = dfw.checking.examine("network", registered("network", OfImages), side=7)
    assert [row.what for row in report.failures] == ["shapes that it accepts"]
    assert sum("of another side" in row.found for row in report.rows) == 5  # images, a series and a video


# Conditions.


@dataclass(frozen=True)
class Mean(Source):
    """The mean of an example."""

    kind: ClassVar = "vectors"
    asked_by: ClassVar = ("vector",)

    def size(self, data):
        return 1

    def of(self, x0, noise):
        return Told.all(x0.flatten(1).mean(1, keepdim=True))

    def asked(self, asked, shape, noise):
        raise NotImplementedError


class MeanOfTheBatch(Mean):
    """Takes the mean of all examples for each."""

    def of(self, x0, noise):
        return Told.all(x0.mean().expand(len(x0), 1))


class MeanOfChance(Mean):
    """Draws from torch's own generator."""

    def of(self, x0, noise):
        return Told.all(torch.randn(len(x0), 1))


class MeanOfTwo(Mean):
    """Says that it is two numbers, and is one."""

    def size(self, data):
        return 2


class MeanInPlace(Mean):
    """Changes the examples."""

    def of(self, x0, noise):
        return super().of(x0.add_(1), noise)


class MeanOfNothing(Mean):
    """Divides by 0."""

    def of(self, x0, noise):
        return Told.all(x0.flatten(1).mean(1, keepdim=True) / 0)


class MeanAlone(Mean):
    """Applies to nothing."""

    def size(self, data):
        raise dfw.ConfigError("no data")


class MeanOfAnotherKind(Mean):
    """Is of no kind that a network takes."""

    kind: ClassVar = "words"  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("component", "reason"),
    [
        (MeanOfTheBatch, r"examples of a batch, x \(2,\): found another value in another batch"),
        (MeanOfChance, r"examples of a batch, x \(2,\): found other values the second time"),
        (MeanOfTwo, r"values, x \(2,\): found values \(6, 1\), wanted finite values \(6, 2\)"),
        (MeanInPlace, r"values, x \(3, 16, 16\): found changed examples"),
        (MeanOfNothing, r"values, x \(2,\): found values that are no finite floats"),
        (MeanAlone, r"shapes that it applies to: found 0, wanted at least 1"),
        (MeanOfAnotherKind, r"kind: found 'words', wanted one of vectors, sequences, images"),
    ],
)
def test_a_broken_condition_is_found(scratch_registry, component, reason):
    dfw.register("condition", "broken")(component)
    assert re.search(reason, reasons("condition", "broken"))


def test_a_condition_that_keeps_its_laws_passes(scratch_registry):
    dfw.register("condition", "mean")(Mean)
    dfw.checking.check("condition", "mean")
