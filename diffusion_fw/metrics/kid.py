"""The kernel distance of samples to real data, on named features."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from diffusion_fw.metrics.comparison import Measure, Numbers, SampleMetric
from diffusion_fw.metrics.sample_set import SampleSet
from diffusion_fw.registry import ConfigError, PositiveInt, Size, register

ROWS = 1000
"""Of the matrix of kernels that are held at once."""
SUBSET = 1000


@register("metric", "kid")
@dataclass(frozen=True)
class KernelDistance(SampleMetric):
    """The squared maximum mean discrepancy with the kernel k(x, y) = (x . y / D + 1)^3 of D features.

    E k(x, x') + E k(y, y') - 2 E k(x, y) without bias (Binkowski et al. 2018, section 4), by torchmetrics: the mean
    over ``subsets`` pairs of random subsets of ``subset_size`` samples and real examples (None: 1000, or as many as
    there are). ``kid_std`` is the deviation between them, as papers report it, unless all subsets are the same. The
    number of samples makes no bias, so values of few samples are comparable with those of many. A perfect model has the
    mean 0, so a value may be negative.

    The interval is that of the estimate from all samples, whose kernels are summed once for all groups. Raises
    ConfigError for subsets larger than the sets.
    """

    numbers: ClassVar[dict[str, Literal["lower", "higher"]]] = {"kid": "lower"}

    subsets: PositiveInt = 100
    subset_size: Size | None = None

    def against(self, real: SampleSet, device: torch.device) -> Measure:
        from torchmetrics.image.kid import KernelInceptionDistance

        held = real.vectors.to(device).double()

        def measure(generated: SampleSet) -> Numbers:
            fitting = min(len(real), len(generated))
            size = min(SUBSET, fitting) if self.subset_size is None else self.subset_size
            if not 2 <= size <= fitting:
                raise ConfigError(
                    f"metric.subset_size={size}: must be from 2 to {fitting}, as there are {len(generated)} samples "
                    f"(metric.num_samples) and {len(real)} real examples"
                )
            with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
                warnings.filterwarnings("ignore", message="Metric `Kernel")
                torch.default_generator.manual_seed(0)
                kid = KernelInceptionDistance(nn.Identity(), subsets=self.subsets, subset_size=size).to(device)
                kid.update(held, real=True)
                kid.update(generated.vectors.to(device).double(), real=False)
                mean, deviation = kid.compute()
            # Subsets that are all alike have no deviation.
            spread = {} if size == len(real) == len(generated) else {"kid_std": float(deviation)}
            return {"kid": float(mean), **spread}

        return measure

    def replicates(self, measure: Measure, generated: SampleSet, group: Tensor, device: torch.device) -> list[Numbers]:
        """Without E k(y, y'), which all of them have in common."""
        real, x = (item.vectors.to(device).double() for item in (self.compared(device), generated))
        members = one_hot(group).to(device).double()
        within = torch.zeros(members.shape[1], members.shape[1], dtype=torch.float64, device=device)
        across = torch.zeros(members.shape[1], dtype=torch.float64, device=device)
        for rows, ours in zip(x.split(ROWS), members.split(ROWS), strict=True):
            within += ours.T @ kernel(rows, x) @ members
            within -= torch.diag(ours.T @ kernel_diagonal(rows))
            across += ours.T @ kernel(rows, real).sum(1)
        kept = len(x) - members.sum(0)
        pairs = within.sum() - within.sum(0) - within.sum(1) + within.diagonal()
        estimates = pairs / (kept * (kept - 1)) - 2 * (across.sum() - across) / (kept * len(real))
        return [{"kid": value} for value in estimates.tolist()]


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """k of all pairs (N, M)."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def kernel_diagonal(x: Tensor) -> Tensor:
    """k(x, x) (N,)."""
    return (x.square().mean(1) + 1) ** 3
