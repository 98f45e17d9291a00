"""Sliced score matching: the score from the examples alone, without the noise that was added to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from diffusion_fw.denoiser import Denoiser, NetworkDenoiser
from diffusion_fw.objectives.objective import Objective
from diffusion_fw.objectives.weighting import Weighting, eps_weight
from diffusion_fw.process.level import NoiseLevel, expand, noised
from diffusion_fw.registry import Range, Runtime, register


@register("objective", "sliced_score_matching")
@dataclass(frozen=True)
class SlicedScoreMatching(Objective):
    """w sigma^2 (|s|^2 + 2 v . d(v . s)/dx_t) / D, s = -eps_hat / sigma the score of the network, v a random direction.

    Song et al. 2019, equation 8, there for the distribution of the data, here for that of x_t at every level, as in
    Song & Ermon 2019, section 4.2. It is the mean over ``projections`` draws of v in {-1, 1}^D (rademacher) or N(0, I)
    (normal), for examples of D values. Without ``variance_reduced``, |s|^2 is (v . s)^2 (equation 7).

    w is the weighting's weight of the error of eps; use weighting=snr, where it is 1 (and thus lambda = sigma^2 of Song
    & Ermon 2019). The expected loss is then that of objective=simple minus w at each level, with the same gradient: the
    eps that was drawn is not used but for x_t. A step costs a second derivative: about twice the time and memory with
    one projection. Fused attention kernels have none, so the plain one is used.
    """

    weighting: Runtime[Weighting]
    projections: Annotated[int, Range(1, 1000)] = 1
    directions: Literal["rademacher", "normal"] = "rademacher"
    variance_reduced: bool = True

    draws: ClassVar[bool] = True
    differentiates: ClassVar[bool] = True

    def __call__(
        self, denoiser: NetworkDenoiser, x0: Tensor, level: NoiseLevel, eps: Tensor, cond: Any = None
    ) -> Tensor:
        training = torch.is_grad_enabled()
        total = x0.new_zeros(len(x0))
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            x = noised(level, x0, eps).detach().requires_grad_()
            predicted = denoiser.prediction(x, level, *denoiser.output(x, level, cond)).eps
            for left in reversed(range(self.projections)):
                v = self.direction(x)
                along = (v * predicted).flatten(1).sum(1)
                (slope,) = torch.autograd.grad(along.sum(), x, create_graph=training, retain_graph=training or left > 0)
                squared = predicted.square().flatten(1).sum(1) if self.variance_reduced else along.square()
                total = total + squared - 2 * expand(level.sigma, x).flatten() * (v * slope).flatten(1).sum(1)
        weight = eps_weight(self.weighting, denoiser.parameterization, level) / (x0[0].numel() * self.projections)
        loss = total * weight.to(total, non_blocking=True)
        return loss if training else loss.detach()

    def direction(self, x: Tensor) -> Tensor:
        """v, of the shape of x, with E[v v^T] = I; from torch's global generator."""
        normal = torch.randn_like(x)
        return normal if self.directions == "normal" else torch.copysign(torch.ones_like(x), normal)

    def irreducible(
        self, denoiser: NetworkDenoiser, oracle: Denoiser, x0: Tensor, level: NoiseLevel, eps: Tensor
    ) -> Tensor | None:
        exact = oracle(noised(level, x0, eps), level).eps
        weight = eps_weight(self.weighting, denoiser.parameterization, level)
        return ((exact - eps).square().flatten(1).mean(1) - 1) * weight.to(exact)
