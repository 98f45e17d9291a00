"""Agreement with diffusers' schedulers: one perfect denoiser, the same times, the same noise, DDPM's table.

Each is run twice: as it is, with its float32 tables, to 1e-5; and with our float64 tables in their place, to 1e-12, so
that rounding is all that the first leaves. What needs more room, or is not compared:

- At the first row of the table 1 - alpha_bar has four digits in float32. A scheduler that ends there, as DEIS does,
  lands at sigma = 0.01000133 instead of 0.01000050 and is up to 1.3e-4 away; with float64 tables it is not.
- DPM-Solver++ and Euler keep x in float32 whatever they are given: 1e-6 with any tables.
- UniPC's bh1 down to sigma = 0, where B(h) = -h is infinite and diffusers returns NaN: it is compared above it.
- DDPM's ``fixed_large_log``, where diffusers takes the logarithm of a variance for the variance: NaN.
- DDIM with spacing ``trailing`` or ``linspace``, whose stride diffusers takes wrongly: ours against the exact map.
- The third-order multistep DPM-Solver++ has half the second difference in diffusers, our ``third_order=halved``.
- DPMSolverSinglestepScheduler makes its inner evaluations at the next times of the grid, ours between two of them at
  the published fractions of the log-SNR: two methods on the same times.
- PNDM's Runge-Kutta steps where T / N is odd: diffusers asks at half of it rounded down, ours at the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    IPNDMScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
    scheduling_lms_discrete,
)
from torch import Tensor

import diffusion_fw as dfw
from diffusion_fw.noise import generator
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.samplers.grid import Grid

SCHEDULE: Any = dfw.build("schedule", "linear")
MIXTURE = dfw.oracles.GaussianMixture(
    torch.tensor([[1.0, 0.0], [-0.5, 0.8], [-0.6, -0.9]]), torch.tensor([0.3, 0.4, 0.35]), torch.tensor([0.5, 0.3, 0.2])
)
ORACLE = MIXTURE.denoiser(SCHEDULE)
TABLE = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
LEADING = {"timestep_spacing": "leading"}
EXPLODING: Any = (EulerDiscreteScheduler, HeunDiscreteScheduler, scheduling_lms_discrete.LMSDiscreteScheduler)


def start() -> Tensor:
    return torch.randn(32, 2, dtype=torch.float64, generator=generator(0))


def theirs(scheduler: Any, steps: int, tables: str = "their float32", **options: Any) -> Tensor:
    """x_0 by a scheduler of diffusers; one whose x is that of the exploding path is given x / alpha."""
    scheduler.set_timesteps(steps)
    if tables == "our float64":
        put_exact_tables(scheduler)
    x = start()
    if isinstance(scheduler, EXPLODING):
        x = x * (scheduler.sigmas[0].double().square() + 1).sqrt()
    for t in scheduler.timesteps:
        level = SCHEDULE((t.double() + 1) / 1000)
        eps = ORACLE(scheduler.scale_model_input(x, t).double(), level).eps
        x = scheduler.step(eps, t, x, **options).prev_sample
    return x.double()


def put_exact_tables(scheduler: Any) -> None:
    """Our alpha_bar and sigma / alpha, float64, in place of their float32 ones, at the times that they have chosen."""
    table = SCHEDULE.table[1:]
    for name in ("alphas_cumprod", "final_alpha_cumprod", "one"):
        if hasattr(scheduler, name):
            exact = table.alpha.square() if name == "alphas_cumprod" else torch.ones((), dtype=torch.float64)
            torch.testing.assert_close(getattr(scheduler, name), exact, rtol=1e-4, atol=0, check_dtype=False)
            setattr(scheduler, name, exact)
    if hasattr(scheduler, "sigmas"):
        rho = torch.exp(-table.log_snr / 2)
        last = rho[:1] if scheduler.sigmas[-1] > 0 else torch.zeros(1, dtype=torch.float64)
        exact = torch.cat([rho[scheduler.timesteps.long()], last])
        torch.testing.assert_close(scheduler.sigmas, exact, rtol=1e-4, atol=0, check_dtype=False)
        scheduler.sigmas = exact


def times(indices: Iterable[float]) -> list[float]:
    """Our times of their indices, each once, in decreasing order."""
    return [(index + 1) / 1000 for index in sorted({float(index) for index in indices}, reverse=True)]


@dataclass(frozen=True)
class Noisy(Grid):
    """Given times, the last of them noisy: a scheduler that ends at the first row of the table."""

    given: tuple[float, ...]

    def noisy_times(self, steps: int, schedule: Schedule) -> Tensor:
        return torch.tensor(self.given, dtype=torch.float64)

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        return self.noisy_times(steps, schedule)


def ours(
    sampler: str, indices: Iterable[float], noise: Callable[[Tensor], Tensor] = torch.zeros_like, **settings: Any
) -> Tensor:
    """x_0 by our sampler at their times."""
    grid: Any = dfw.build("grid", "explicit", times=times(indices))
    built = dfw.build("sampler", sampler, steps=len(grid.times), grid=grid, **settings)
    return built(ORACLE, start(), noise=noise)


def ours_to_the_first_row(sampler: str, indices: Iterable[float], **settings: Any) -> Tensor:
    """x at t = 1 / 1000 by our sampler, which takes a step less than it stands at times."""
    given = times([*indices, 0])
    built = dfw.build("sampler", sampler, steps=len(given) - 1, grid=Noisy(given=tuple(given)), **settings)
    return built(ORACLE, start())


def replay(seed: int = 1) -> Callable[[Tensor], Tensor]:
    source = generator(seed)
    return lambda like: torch.randn(like.shape, dtype=like.dtype, generator=source)


def assert_agree(found: Tensor, wanted: Tensor, tables: str, rounding: float = 1e-5, exact: float = 1e-12) -> None:
    atol = rounding if tables == "their float32" else exact
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


COUNTS = pytest.mark.parametrize("steps", [10, 14, 20])
TABLES = pytest.mark.parametrize("tables", ["their float32", "our float64"])
FLOAT32_STATE = {"exact": 2e-6}
FIRST_ROW = {"rounding": 2e-4}


@TABLES
@COUNTS
@pytest.mark.parametrize("variance", ["small", "large"])
def test_ddpm(tables, steps, variance):
    scheduler = DDPMScheduler(**TABLE, **LEADING, clip_sample=False, variance_type=f"fixed_{variance}")
    wanted = theirs(scheduler, steps, tables, generator=generator(1))
    assert_agree(
        ours("ddpm", scheduler.timesteps, noise=replay(), variance=dfw.build("variance", variance)), wanted, tables
    )


@TABLES
@COUNTS
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(tables, steps, eta):
    """With spacing ``leading``, which diffusers has right for every number of steps."""
    scheduler = DDIMScheduler(**TABLE, **LEADING, clip_sample=False, set_alpha_to_one=True)
    wanted = theirs(scheduler, steps, tables, eta=eta, generator=generator(1))
    assert_agree(ours("ddim", scheduler.timesteps, noise=replay(), eta=eta), wanted, tables)


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
@pytest.mark.parametrize(("steps", "error"), [(100, 0.0364), (300, 0.0126)])
def test_ddim_at_times_where_diffusers_is_wrong_has_the_textbooks_error_against_the_exact_map(steps, error, spacing):
    """diffusers 0.42.1 assumes a stride of T // N: at 300 of 1000 its errors are 0.079 and 0.081.

    Data N(0, 0.25) from x_T = 2.5, whose flow ends at 0.5 x_T / sqrt(0.25 alpha_bar_T + 1 - alpha_bar_T). The figures
    are textbook DDIM's with spacing ``trailing``, to which ``linspace`` is close.
    """
    scheduler = DDIMScheduler(**TABLE, clip_sample=False, timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    grid = dfw.build("grid", "explicit", times=times(scheduler.timesteps))
    alpha_bar = SCHEDULE.table.alpha[-1].square()
    x = torch.full((1, 1), 2.5, dtype=torch.float64)
    exact = 0.5 * x / (0.25 * alpha_bar + 1 - alpha_bar).sqrt()
    denoiser = dfw.oracles.Gaussian(torch.zeros(1), 0.5).denoiser(SCHEDULE)
    found = dfw.build("sampler", "ddim", steps=steps, grid=grid)(denoiser, x)
    assert (found - exact).abs().item() == pytest.approx(error, rel=0.04)


@TABLES
@COUNTS
@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver_pp_multistep(tables, steps, order):
    """Order 3 as diffusers has it, with half the second difference; both lower the order at the end below 15 steps."""
    scheduler = DPMSolverMultistepScheduler(**TABLE, solver_order=order, final_sigmas_type="zero")
    wanted = theirs(scheduler, steps, tables)
    settings = {"order": order, "third_order": "halved", "lower_order_final": steps < 15}
    assert_agree(ours("dpm_solver_pp", scheduler.timesteps, **settings), wanted, tables, **FLOAT32_STATE)


@TABLES
@COUNTS
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_bh2(tables, steps, order):
    scheduler = UniPCMultistepScheduler(**TABLE, solver_order=order, solver_type="bh2", final_sigmas_type="zero")
    wanted = theirs(scheduler, steps, tables)
    settings = {"predictor_order": order, "variant": "bh2", "warm_up": "lower_order"}
    assert_agree(ours("unipc", scheduler.timesteps, **settings), wanted, tables)


@TABLES
@COUNTS
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_to_the_first_row_of_the_table(tables, steps, order, variant):
    scheduler = UniPCMultistepScheduler(
        **TABLE, solver_order=order, solver_type=variant, final_sigmas_type="sigma_min", lower_order_final=False
    )
    wanted = theirs(scheduler, steps, tables)
    settings = {"predictor_order": order, "variant": variant, "warm_up": "lower_order", "lower_order_final": False}
    assert_agree(ours_to_the_first_row("unipc", scheduler.timesteps, **settings), wanted, tables, **FIRST_ROW)


@TABLES
@COUNTS
@pytest.mark.parametrize("order", [1, 2, 3])
def test_deis(tables, steps, order):
    """With eps extrapolated in log(sigma / alpha), as diffusers has it and the paper has not; to the first row."""
    scheduler = DEISMultistepScheduler(**TABLE, solver_order=order, lower_order_final=False)
    wanted = theirs(scheduler, steps, tables)
    settings = {"order": order, "extrapolation": "log_rho", "warm_up": "lower_order", "lower_order_final": False}
    assert_agree(ours_to_the_first_row("deis", scheduler.timesteps, **settings), wanted, tables, **FIRST_ROW)


@TABLES
@COUNTS
def test_euler(tables, steps):
    scheduler = EulerDiscreteScheduler(**TABLE, **LEADING)
    wanted = theirs(scheduler, steps, tables)
    assert_agree(ours("euler", scheduler.timesteps), wanted, tables, **FLOAT32_STATE)


@TABLES
@COUNTS
def test_heun(tables, steps):
    scheduler = HeunDiscreteScheduler(**TABLE, **LEADING)
    wanted = theirs(scheduler, steps, tables)
    assert_agree(ours("heun", scheduler.timesteps), wanted, tables)


class GaussianQuadrature:
    """The part of scipy.integrate that diffusers' LMS uses, exact for its cubics by Gauss's rule of four points."""

    @staticmethod
    def quad(function: Callable[[float], float], low: float, high: float, **options: object) -> tuple[float, float]:
        nodes, weights = np.polynomial.legendre.leggauss(4)
        middle, half = (high + low) / 2, (high - low) / 2
        return half * sum(w * function(middle + half * u) for u, w in zip(nodes, weights, strict=True)), 0.0


@TABLES
@COUNTS
def test_lms(tables, steps, monkeypatch):
    """diffusers asks scipy for the integrals of its polynomials, which is not needed for anything else."""
    monkeypatch.setattr(scheduling_lms_discrete, "integrate", GaussianQuadrature, raising=False)
    scheduler = scheduling_lms_discrete.LMSDiscreteScheduler(**TABLE, **LEADING)
    wanted = theirs(scheduler, steps, tables)
    assert_agree(ours("lms", scheduler.timesteps, warm_up="lower_order"), wanted, tables)


@TABLES
@COUNTS
def test_plms_after_an_improved_euler_step(tables, steps):
    scheduler = PNDMScheduler(**TABLE, **LEADING, skip_prk_steps=True, set_alpha_to_one=True)
    wanted = theirs(scheduler, steps, tables)
    assert_agree(ours("plms", scheduler.timesteps, warm_up="improved_euler"), wanted, tables)


@TABLES
@pytest.mark.parametrize("steps", [10, 20])
def test_plms_after_runge_kutta_steps(tables, steps):
    scheduler = PNDMScheduler(**TABLE, **LEADING, skip_prk_steps=False, set_alpha_to_one=True)
    wanted = theirs(scheduler, steps, tables)
    indices = range(0, 1000, 1000 // steps)
    assert_agree(ours("plms", indices, warm_up="runge_kutta"), wanted, tables)


@COUNTS
def test_plms_from_the_first_step_on(steps):
    """IPNDM, given its noise levels: it takes v = alpha eps - sigma x_0 on alpha = cos(pi t / 2)."""
    schedule: Any = dfw.build("schedule", "cosine_continuous", s=0.0)
    oracle = MIXTURE.denoiser(schedule)
    given = torch.linspace(0.97, 0, steps + 1, dtype=torch.float64)
    scheduler = IPNDMScheduler(trained_betas=torch.sin(given * torch.pi / 2).tolist())
    scheduler.set_timesteps(steps)
    scheduler.betas = torch.sin(given * torch.pi / 2)
    scheduler.alphas = torch.cos(given * torch.pi / 2)
    x = start()
    for t, time in zip(scheduler.timesteps, given, strict=False):
        level = schedule(time)
        prediction = oracle(x, level)
        x = scheduler.step(level.alpha * prediction.eps - level.sigma * prediction.x0, t, x).prev_sample
    grid = dfw.build("grid", "explicit", times=given[:-1].tolist())
    found = dfw.build("sampler", "plms", steps=steps, grid=grid, warm_up="lower_order")(oracle, start())
    torch.testing.assert_close(found, x, rtol=0, atol=1e-12)
