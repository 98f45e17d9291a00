"""Langevin dynamics with the exact score on a mixture whose modes have hardly any weight between them.

Song & Ermon 2019, section 3.2.2 and figure 3: 1/5 N((-5, -5), I) + 4/5 N((5, 5), I), samples that start evenly on
[-8, 8]^2. Between the modes the score is that of the nearest one, whatever its weight, so that plain Langevin dynamics
leaves half of the samples in each. Annealed Langevin dynamics starts at a noise that joins the modes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from diffusion_fw.oracles import GaussianMixture
from diffusion_fw.process.schedule import DiscreteSchedule
from diffusion_fw.process.schedules.tables import NCSN
from diffusion_fw.samplers.annealed_langevin import AnnealedLangevin
from diffusion_fw.samplers.grid import Explicit

WEIGHT = 0.8
"""Of the mode at (5, 5)."""
LEVELS: DiscreteSchedule = NCSN(num_steps=10, sigma_min=1.0, sigma_max=20.0)
"""The last level is the data themselves: points with noise of variance 1."""
POINTS = GaussianMixture(
    torch.tensor([[5.0, 5.0], [-5.0, -5.0]]), torch.zeros(2), torch.tensor([WEIGHT, 1 - WEIGHT], dtype=torch.float64)
)
STEP_SIZE = 0.05
"""epsilon / 2 for the paper's epsilon = 0.1."""
COUNT = 1280
STANDARD_ERRORS = 4.0


def dynamics(
    count: int = COUNT, plain_steps: int = 1000, steps_per_level: int = 100, seed: int = 0
) -> dict[str, Tensor]:
    """Samples (count, 2): exact ones, those of plain Langevin dynamics at the last level, and of annealed ones.

    The defaults are those of the paper's appendix B.1, which leave the annealed weight about 0.015 below the exact one.
    """
    generator = torch.Generator().manual_seed(seed)
    start = 16 * torch.rand(count, 2, generator=generator) - 8
    last = Explicit((1 / LEVELS.num_steps,))
    samplers = {
        "plain": AnnealedLangevin(1, last, steps_per_level=plain_steps, step_size=STEP_SIZE, denoise=False),
        "annealed": AnnealedLangevin(
            LEVELS.num_steps, steps_per_level=steps_per_level, step_size=STEP_SIZE, denoise=False
        ),
    }
    denoiser = POINTS.denoiser(LEVELS)

    def noise(like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator)

    exact = POINTS.marginal(LEVELS(torch.tensor(1 / LEVELS.num_steps))).sample(count, generator)
    return {"exact": exact, **{name: sampler(denoiser, start, noise=noise) for name, sampler in samplers.items()}}


def weight(samples: Tensor) -> float:
    """The share of the samples (N, 2) that are nearer to the mode at (5, 5)."""
    return float((samples.sum(1) > 0).double().mean())


def standard_error(count: int) -> float:
    """Of ``weight``, for exact samples."""
    return math.sqrt(WEIGHT * (1 - WEIGHT) / count)


def as_published(samples: Mapping[str, Tensor]) -> dict[str, bool]:
    """Whether annealed dynamics has the exact weight within its Monte Carlo error, and plain dynamics has not."""
    off = {name: abs(weight(found) - WEIGHT) / standard_error(len(found)) for name, found in samples.items()}
    return {name: (error > STANDARD_ERRORS) == (name == "plain") for name, error in off.items()}
