"""What the literature knows by several names must be one thing: equivalences in float64, on closed-form denoisers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from examples import on_schedule
from torch import Tensor, nn

import diffusion_fw as dfw
from diffusion_fw.denoiser import Denoiser
from diffusion_fw.noise import generator
from diffusion_fw.process.level import NoiseLevel, variance_exploding
from diffusion_fw.process.parameterization import Parameterization
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.samplers.grid import Grid

MIXTURE = dfw.oracles.GaussianMixture(
    torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.6, -0.9]]), torch.tensor([0.3, 0.4, 0.35]), torch.tensor([0.5, 0.3, 0.2])
)
SCHEDULES = dfw.names("schedule")
PARAMETERIZATIONS = dfw.names("parameterization")


def times(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normal(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, dtype=torch.float64, generator=generator(seed))


def replay(seed: int = 1) -> Callable[[Tensor], Tensor]:
    """The same sequence of draws for every sampler that asks for it."""
    source = generator(seed)
    return lambda like: torch.randn(like.shape, dtype=like.dtype, generator=source)


def explicit(schedule: Schedule, values: Tensor) -> Grid:
    return dfw.build("grid", "explicit", times=schedule.snap(values).tolist())


def states(sampler: str, denoiser: Denoiser, x: Tensor, grid: object, steps: int, **knobs: object) -> list[Tensor]:
    """x after each step."""
    built = dfw.build("sampler", sampler, steps=steps, grid=grid, **knobs)
    return [step.x for step in built.trajectory(denoiser, x, noise=replay())]


def assert_equal(found: list[Tensor], wanted: list[Tensor], tolerance: float = 1e-10) -> None:
    """Step by step, relative to the largest state: on an exploding path x is as large as sigma_max."""
    assert len(found) == len(wanted)
    size = max(1.0, *(state.abs().max().item() for state in wanted))
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=tolerance * size)


# --------------------------------------------------------------------------------------------------------------------
# Parameterizations
# --------------------------------------------------------------------------------------------------------------------


class PerfectNetwork(nn.Module):
    """F = a E[x_0 | x_t] + b E[eps | x_t], from the scaled input that a network is given."""

    def __init__(self, oracle: Denoiser, parameterization: Parameterization, level: NoiseLevel) -> None:
        super().__init__()
        self.oracle, self.parameterization, self.level = oracle, parameterization, level

    def forward(self, x: Tensor, label: Tensor, cond: object = None) -> Tensor:
        c_in, _ = self.parameterization.input(self.level)
        exact = self.oracle(x / c_in.reshape(-1, 1), self.level)
        return self.parameterization.target(self.level, exact.x0, exact.eps)


@pytest.mark.parametrize("path", SCHEDULES)
@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_every_parameterization_through_every_schedule_reads_the_same_x0_and_eps(name, path):
    """To the rounding of the solution's own terms, p x, q F, r x and s F, at every level where D is not 0."""
    schedule = dfw.build("schedule", path)
    parameterization = on_schedule("parameterization", name, schedule)
    t = schedule.snap(torch.linspace(0, 1, 24, dtype=torch.float64))
    t[1] = schedule.t_min
    level = schedule(t)
    level = level[parameterization.solvable(level)]
    assert len(level.t) >= 22
    oracle = MIXTURE.denoiser(schedule)
    x0 = MIXTURE.sample(len(level.t), generator(2))
    x = level.alpha[:, None] * x0 + level.sigma[:, None] * normal(len(level.t))
    wanted = oracle(x, level)

    # Unbounded data: nothing is clamped, and nothing is taken to be 0.
    bounds = (-math.inf, math.inf)
    denoiser = dfw.NetworkDenoiser(PerfectNetwork(oracle, parameterization, level), schedule, parameterization, bounds)
    found = denoiser(x, level)
    a, b = (value[:, None] for value in parameterization.coefficients(level))
    p, q, r, s = (value[:, None].abs() for value in parameterization.inverse(level))
    output = (a * wanted.x0).abs() + (b * wanted.eps).abs()
    rounding = 64 * torch.finfo(torch.float64).eps
    assert ((found.x0 - wanted.x0).abs() <= rounding * (p * (x.abs() + 1) + q * output + 1)).all()
    assert ((found.eps - wanted.eps).abs() <= rounding * (r * (x.abs() + 1) + s * output + 1)).all()

    # One scalar level for the batch takes another way through NetworkDenoiser.
    for i, one in enumerate(level.unbind()):
        alone = dfw.NetworkDenoiser(PerfectNetwork(oracle, parameterization, one), schedule, parameterization, bounds)
        scalar = alone(x[i : i + 1], one)
        torch.testing.assert_close(scalar.x0[0], found.x0[i], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(scalar.eps[0], found.eps[i], rtol=1e-9, atol=1e-9)


# --------------------------------------------------------------------------------------------------------------------
# Samplers on one path
# --------------------------------------------------------------------------------------------------------------------


def fifteen_steps(path: str) -> tuple[Denoiser, Tensor, object]:
    """The oracle on a path, where to begin, and 15 uneven times that any schedule has, below t = 1 (alpha may be 0)."""
    schedule = dfw.build("schedule", path)
    grid = explicit(schedule, 0.95 - 0.9 * torch.linspace(0, 1, 15, dtype=torch.float64) ** 0.8)
    start = schedule(grid(15, schedule)[0])
    return MIXTURE.denoiser(schedule), start.sigma * normal(8), grid


@pytest.mark.parametrize("path", SCHEDULES)
def test_ddpm_is_the_ancestral_predictor_without_corrector(path):
    """Song et al. 2021, appendix F: DDPM's sampler is a predictor of the reverse SDE."""
    denoiser, x, grid = fifteen_steps(path)
    found = states("predictor_corrector", denoiser, x, grid, 15, predictor="ancestral", corrector_steps=0)
    assert_equal(found, states("ddpm", denoiser, x, grid, 15))


def test_ddpm_with_the_large_variance_is_equation_4_of_score_sde():
    """x_{i-1} = (x_i + beta_i score) / sqrt(1 - beta_i) + sqrt(beta_i) z, through all rows of DDPM's table."""
    schedule = dfw.build("schedule", "linear", num_steps=100)
    denoiser, x, noise = MIXTURE.denoiser(schedule), normal(8), replay()
    grid = dfw.build("grid", "uniform")
    found = states("ddpm", denoiser, x, grid, 100, variance=dfw.build("variance", "large"))
    wanted = []
    for row, beta in reversed(list(enumerate(schedule.betas().tolist(), start=1))):
        level = schedule.table[row]
        score = -denoiser(x, level).eps / level.sigma
        x = (x + beta * score) / (1 - beta) ** 0.5
        if row > 1:
            x = x + beta**0.5 * noise(x)
        wanted.append(x)
    assert_equal(found, wanted)


@pytest.mark.parametrize("path", SCHEDULES)
@pytest.mark.parametrize("singlestep", [False, True])
def test_deterministic_ddim_is_the_exponential_euler_method_of_the_flow(path, singlestep):
    """Lu et al. 2022a, section 4.1: DDIM is DPM-Solver-1, and so is DPM-Solver++-1."""
    denoiser, x, grid = fifteen_steps(path)
    found = states("dpm_solver_pp", denoiser, x, grid, 15, order=1, singlestep=singlestep)
    assert_equal(found, states("ddim", denoiser, x, grid, 15))


@pytest.mark.parametrize("path", SCHEDULES)
def test_deterministic_ddim_is_eulers_method_in_rho(path):
    """Song et al. 2020, equation 14: Euler on d(x / alpha) = eps d(sigma / alpha)."""
    denoiser, x, grid = fifteen_steps(path)
    levels = denoiser.schedule(grid(15, denoiser.schedule))
    rho = torch.exp(-levels.log_snr / 2)
    wanted, y = [], x
    for i, level in zip(range(15), levels.unbind(), strict=False):
        y = levels.alpha[i + 1] * (y / level.alpha + (rho[i + 1] - rho[i]) * denoiser(y, level).eps)
        wanted.append(y)
    assert_equal(states("ddim", denoiser, x, grid, 15), wanted)


@pytest.mark.parametrize("path", SCHEDULES)
def test_ddim_with_eta_1_is_ddpm(path):
    denoiser, x, grid = fifteen_steps(path)
    assert_equal(states("ddim", denoiser, x, grid, 15, eta=1.0), states("ddpm", denoiser, x, grid, 15))


@dataclass
class Counting:
    """A denoiser that counts how often it is asked."""

    denoiser: Denoiser
    levels: list[NoiseLevel] = field(default_factory=list)

    @property
    def schedule(self) -> Schedule:
        return self.denoiser.schedule

    def __call__(self, x: Tensor, level: NoiseLevel, cond: object = None) -> dfw.Prediction:
        self.levels.append(level)
        return self.denoiser(x, level, cond)


@pytest.mark.parametrize("steps", [2, 18, 40])
def test_heun_on_edms_path_and_grid_is_edms_algorithm_1(steps):
    """Karras et al. 2022, algorithm 1 and equation 5, in sigma; 2 N - 1 evaluations."""
    schedule = dfw.build("schedule", "edm")
    oracle = MIXTURE.denoiser(schedule)
    x = 80 * normal(8)
    counting = Counting(oracle)
    found = states("heun", counting, x, dfw.build("grid", "karras"), steps)

    ramp = torch.arange(steps, dtype=torch.float64) / (steps - 1)
    sigma = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    sigma = torch.cat([sigma, times(0)])

    def slope(x: Tensor, s: Tensor) -> Tensor:
        return (x - oracle(x, schedule(s / 80)).x0) / s

    wanted = []
    for s, following in itertools.pairwise(sigma):
        d = slope(x, s)
        euler = x + (following - s) * d
        x = euler if following == 0 else x + (following - s) * (d + slope(euler, following)) / 2
        wanted.append(x)
    assert_equal(found, wanted)
    torch.testing.assert_close(found[-1], wanted[-1], rtol=0, atol=1e-10)
    assert len(counting.levels) == 2 * steps - 1


# --------------------------------------------------------------------------------------------------------------------
# One sampler on several paths
# --------------------------------------------------------------------------------------------------------------------

# Samplers whose steps depend on the path through log-SNR and scale alone: no extrapolation or midpoint in t.
PATH_FREE: list[tuple[str, dict[str, object]]] = [
    ("ddpm", {}),
    ("ddim", {}),
    ("ddim", {"eta": 0.5}),
    ("euler", {}),
    ("heun", {}),
    ("dpm_solver_pp", {"order": 2}),
    ("dpm_solver_pp", {"order": 3}),
    ("dpm_solver_pp", {"order": 3, "singlestep": True}),
    ("dpm_solver_pp_sde", {}),
    ("unipc", {}),
    ("lms", {}),
    ("deis", {"extrapolation": "log_rho"}),
    ("plms", {"warm_up": "improved_euler"}),
    ("plms", {"warm_up": "lower_order"}),
]
SAMPLERS = [pytest.param(name, knobs, id="-".join(map(str, (name, *knobs.values())))) for name, knobs in PATH_FREE]


@dataclass(frozen=True)
class Exploding(Schedule):
    """The variance-exploding path with the log-SNR of another at the same time."""

    original: Schedule

    def __call__(self, t: Tensor) -> NoiseLevel:
        level = self.original(t)
        return NoiseLevel(level.t, *variance_exploding(level.log_snr), level.log_snr)

    @property
    def t_min(self) -> float:
        return self.original.t_min

    def snap(self, t: Tensor) -> Tensor:
        return self.original.snap(t)

    def time(self, log_snr: Tensor) -> Tensor:
        return self.original.time(log_snr)


def rescaled(trajectory: list[Tensor], source: Tensor, target: Tensor) -> list[Tensor]:
    """The states at alphas ``source`` carried to the path whose alphas there are ``target``."""
    return [x * (target[i + 1] / source[i + 1]) for i, x in enumerate(trajectory)]


@pytest.mark.parametrize(("sampler", "knobs"), SAMPLERS)
@pytest.mark.parametrize("path", ["vp", "linear", "cosine"])
def test_a_preserving_path_is_an_exploding_one_up_to_scale_at_the_same_times(path, sampler, knobs):
    """x_ve = x_vp / alpha (Karras et al. 2022, appendix C.1), with the same noise."""
    preserving = dfw.build("schedule", path)
    exploding, grid = Exploding(preserving), explicit(preserving, torch.linspace(0.95, 0.05, 12, dtype=torch.float64))
    alpha = preserving(grid(12, preserving)).alpha
    x = normal(8)
    wanted = states(sampler, MIXTURE.denoiser(preserving), x, grid, 12, **knobs)
    found = states(sampler, MIXTURE.denoiser(exploding), x / alpha[0], grid, 12, **knobs)
    assert_equal(rescaled(found, torch.ones_like(alpha), alpha), wanted)


@pytest.mark.parametrize(("sampler", "knobs"), SAMPLERS)
@pytest.mark.parametrize("target", ["ve", "edm"])
def test_registered_preserving_and_exploding_paths_agree_through_one_grid_of_log_snr(target, sampler, knobs):
    """grid=log_snr stands at the same log-SNRs on both, where their extremes are the same."""
    vp = dfw.build("schedule", "vp")
    largest, smallest = torch.exp(-vp(times(1, 0.001)).log_snr / 2).tolist()
    exploding = dfw.build("schedule", target, sigma_min=smallest, sigma_max=largest)
    grid = dfw.build("grid", "log_snr", log_snr_max=8.0)
    levels, others = (schedule(grid(12, schedule)) for schedule in (vp, exploding))
    torch.testing.assert_close(levels.log_snr, others.log_snr, rtol=0, atol=1e-9)
    x = normal(8)
    wanted = states(sampler, MIXTURE.denoiser(vp), x, grid, 12, **knobs)
    found = states(sampler, MIXTURE.denoiser(exploding), x / levels.alpha[0], grid, 12, **knobs)
    assert_equal(rescaled(found, others.alpha, levels.alpha), wanted)


@pytest.mark.parametrize(("sampler", "knobs"), SAMPLERS)
@pytest.mark.parametrize(("model", "target"), [("vp", "flow"), ("flow", "vp")])
def test_a_model_of_one_path_samples_along_another_as_along_its_own(model, target, sampler, knobs):
    """Through guidance=rescheduled, between the variance-preserving and the straight path."""
    own, other = (dfw.build("schedule", name) for name in (model, target))
    grid = explicit(own, torch.linspace(0.9, 0.05, 12, dtype=torch.float64))
    levels = own(grid(12, own))
    other_grid = explicit(other, other.time(levels.log_snr))
    others = other(other_grid(12, other))
    denoiser = MIXTURE.denoiser(own)
    rescheduled = dfw.build("guidance", "rescheduled", denoiser=denoiser, target=other)
    x = normal(8)
    wanted = states(sampler, denoiser, x, grid, 12, **knobs)
    found = states(sampler, rescheduled, x * (others.alpha / levels.alpha)[0], other_grid, 12, **knobs)
    assert_equal(rescaled(found, others.alpha, levels.alpha), wanted)
    exact = states(sampler, MIXTURE.denoiser(other), x * (others.alpha / levels.alpha)[0], other_grid, 12, **knobs)
    assert_equal(found, exact)


# --------------------------------------------------------------------------------------------------------------------
# Likelihood and encoding
# --------------------------------------------------------------------------------------------------------------------


def test_the_likelihood_does_not_depend_on_the_path_but_through_its_prior():
    """log p of a model is the data's, less what the prior N(0, sigma_T^2) misses of the true density of x_T."""
    x = MIXTURE.sample(12, generator(3))
    found, mismatch = [], []
    for name in ("vp", "flow", "cosine_continuous"):
        schedule = dfw.build("schedule", name)
        denoiser, (first, last) = MIXTURE.denoiser(schedule), schedule(times(schedule.t_min, 1)).unbind()
        nats = dfw.likelihood.log_prob(denoiser, x, atol=1e-8, rtol=1e-8)
        x_T = dfw.build("sampler", "ode", atol=1e-9, rtol=1e-9).encode(denoiser, x)
        prior = torch.distributions.Normal(0, last.sigma).log_prob(x_T).sum(1)
        missed = MIXTURE.marginal(last).log_prob(x_T) - prior
        begun = MIXTURE.marginal(first).log_prob(x) - MIXTURE.log_prob(x)
        found.append(nats)
        mismatch.append(missed.abs() + begun.abs())
        # x stands at the smallest noisy time, where the density is not quite the data's.
        torch.testing.assert_close(nats + missed - begun, MIXTURE.log_prob(x), rtol=0, atol=1e-5)
    assert max(gap.max().item() for gap in mismatch) < 0.05
    for i, j in itertools.combinations(range(3), 2):
        assert ((found[i] - found[j]).abs() <= mismatch[i] + mismatch[j] + 1e-5).all()


@pytest.mark.parametrize("path", ["vp", "sub_vp", "flow", "edm", "cosine_continuous"])
def test_the_flow_leads_back_to_what_it_encoded(path):
    schedule = dfw.build("schedule", path)
    denoiser, x = MIXTURE.denoiser(schedule), MIXTURE.sample(12, generator(4))
    sampler = dfw.build("sampler", "ode", atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(sampler(denoiser, sampler.encode(denoiser, x)), x, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("path", "grid"), [("vp", "uniform"), ("linear", "uniform"), ("flow", "uniform"), ("edm", "karras")]
)
def test_many_steps_of_ddim_lead_back_to_what_they_encoded_with_an_error_that_falls(path, grid):
    schedule = dfw.build("schedule", path)
    denoiser, x = MIXTURE.denoiser(schedule), MIXTURE.sample(12, generator(5))

    def error(steps: int) -> float:
        sampler = dfw.build("sampler", "ddim", steps=steps, grid=dfw.build("grid", grid))
        return (sampler(denoiser, sampler.encode(denoiser, x)) - x).abs().max().item()

    few, many = error(100), error(500)
    assert many < 0.05
    assert many < few / 3
