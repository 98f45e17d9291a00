"""A mixture of Gaussians, whose distribution is known in closed form."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from diffusion_fw.data.points import Points
from diffusion_fw.oracles import GaussianMixture
from diffusion_fw.registry import Positive, Range, register


@register("data", "gaussian_mixture")
@dataclass(frozen=True)
class RingOfGaussians(Points):
    """p(x) = mean_k N(x; m_k, noise^2 I), m_k = radius (cos 2 pi k / modes, sin 2 pi k / modes), k < modes; label k.

    Training on it logs the irreducible loss beside the loss; the difference is the error of the network alone.
    """

    modes: Annotated[int, Range(1, 10_000)] = 8
    radius: Positive = 1.4
    noise: Positive = 0.1

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(str(mode) for mode in range(self.modes))

    @functools.cached_property
    def oracle(self) -> GaussianMixture:
        angle = torch.arange(self.modes, dtype=torch.float64) * (2 * math.pi / self.modes)
        means = self.radius * torch.stack([angle.cos(), angle.sin()], dim=1)
        return GaussianMixture(means, torch.full((self.modes,), self.noise, dtype=torch.float64))

    def draw(self, count: int, random: torch.Generator) -> tuple[Tensor, Tensor | None]:
        labels = torch.randint(0, self.modes, (count,), generator=random)
        return self.oracle.means[labels], labels
