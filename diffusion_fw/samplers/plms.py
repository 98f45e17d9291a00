"""PLMS: pseudo linear multistep, PNDM's sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from diffusion_fw.process.level import has_signal
from diffusion_fw.process.schedule import Schedule
from diffusion_fw.registry import register
from diffusion_fw.samplers.methods.exponential import hold_eps
from diffusion_fw.samplers.methods.linear import LinearSampler, LinearStep, Stage, linear_steps
from diffusion_fw.samplers.methods.multistep import multistep_stages
from diffusion_fw.samplers.methods.runge_kutta import euler_stage, heun_stages

# The weights of the classical Adams-Bashforth methods for equal steps, newest first.
ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


STARTED = {"runge_kutta": 3, "improved_euler": 1, "lower_order": 0}
"""The steps that each warm-up makes by a one-step method of order 2 or more."""


@register("sampler", "plms")
@dataclass(frozen=True)
class PLMS(LinearSampler):
    """DDIM's step with eps' = (55 eps_t - 59 eps_t1 + 37 eps_t2 - 9 eps_t3) / 24 in place of eps.

    Liu et al. 2022, section 3 (F-PNDM). The combination has order 4, but DDIM's step with it has order 2, which is what
    the paper proves, on grids that are smooth in their index. Warm-up: ``runge_kutta`` makes the first three steps by
    the paper's pseudo Runge-Kutta method, with 4 evaluations each; ``improved_euler`` makes the first step by its
    pseudo improved Euler method, with 2, and the next ones by combinations of lower order, as latent diffusion does;
    ``lower_order`` makes the first step by DDIM, so that every step has one evaluation (iPNDM, Zhang & Chen 2022).
    A first step from a level without signal (alpha < 0.001 sigma) is DDIM's.
    """

    warm_up: Literal["runge_kutta", "improved_euler", "lower_order"] = "runge_kutta"

    order: ClassVar[int | None] = 2
    needs_smooth_grid: ClassVar[bool] = True
    quantity: ClassVar[Literal["x0", "eps"]] = "eps"

    def plan(self, schedule: Schedule) -> list[LinearStep]:
        started = STARTED[self.warm_up]
        self.require_steps(started + 1, f"sampler.warm_up={self.warm_up}")
        levels = self.levels(schedule)
        rows = levels.unbind()
        c_x, c_eps = (values.tolist() for values in hold_eps(*levels.steps()))

        def multistep(i: int, order: int) -> Stage:
            if order == 1:
                return euler_stage(rows[i], rows[i + 1])
            return Stage(rows[i], c_x[i], tuple(c_eps[i] * weight for weight in ADAMS_BASHFORTH[order - 1]))

        def pseudo_runge_kutta(i: int) -> tuple[Stage, ...]:
            level, end = rows[i], rows[i + 1]
            if not has_signal(level):
                return (euler_stage(level, end),)
            middle = schedule((level.t + end.t) / 2)
            half_x, half_eps = (value.item() for value in hold_eps(level, middle))
            return (
                Stage(level, half_x, (half_eps,)),
                Stage(middle, half_x, (half_eps,)),
                Stage(middle, c_x[i], (c_eps[i],)),
                Stage(end, c_x[i], tuple(c_eps[i] * weight for weight in (1 / 6, 1 / 3, 1 / 3, 1 / 6))),
            )

        def improved_euler(i: int) -> tuple[Stage, ...]:
            return heun_stages(rows[i], rows[i + 1])

        start = pseudo_runge_kutta if self.warm_up == "runge_kutta" else improved_euler
        return linear_steps(levels, multistep_stages([4] * self.steps, multistep, start, started))
