"""Compare samplers on an oracle: the exact denoiser of a mixture of Gaussians, so that every error is the sampler's.

`python examples/compare_samplers.py` prints the error after equal numbers of network evaluations.
"""

from __future__ import annotations

from typing import Any

import torch

import diffusion_fw as dfw

EVEN = {"name": "log_snr", "log_snr_min": -9.0, "log_snr_max": 9.0}
SAMPLERS: dict[str, dict[str, Any]] = {
    "ddim": {"grid": "uniform"},
    "heun": {"grid": "uniform"},
    "dpm_solver_pp": {"grid": EVEN},
    "unipc": {"grid": EVEN},
    "deis": {"grid": "quadratic"},
}


def main(evaluations: tuple[int, ...] = (5, 10, 20, 40), count: int = 2000) -> dict[str, list[float]]:
    """The root mean square error of each sampler after each number of evaluations."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    denoiser = dfw.oracles.GaussianMixture(corners, torch.full((4,), 0.2)).denoiser("vp")
    x = dfw.prior(
        denoiser.schedule, (count, 2), lambda like: torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    )
    # The probability flow to a tolerance: where every deterministic sampler should arrive from the same x.
    exact = dfw.build("sampler", "ode", atol=1e-7, rtol=1e-7)(denoiser, x.double())

    errors: dict[str, list[float]] = {}
    print(f"{'evaluations':>16}" + "".join(f"{number:>10}" for number in evaluations))
    for name, settings in SAMPLERS.items():
        per_step = dfw.build("sampler", name).evaluations_per_step or 1
        errors[name] = []
        for number in evaluations:
            sampler = dfw.build("sampler", name, steps=max(2, number // per_step), **settings)
            errors[name].append(float((sampler(denoiser, x.double()) - exact).square().mean().sqrt()))
        print(f"{name:>16}" + "".join(f"{error:>10.1e}" for error in errors[name]))
    return errors


if __name__ == "__main__":
    main()
