"""What an objective is: the loss of each example at given times and noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from diffusion_fw.denoiser import Denoiser, NetworkDenoiser
from diffusion_fw.process.level import NoiseLevel


class Objective(ABC):
    """Returns the loss per example; the mean, its logging and its curve over log-SNR are the caller's.

    It asks for what it needs, such as ``weighting: Runtime[Weighting]``. One that is also an nn.Module has parameters
    of its own, which are trained with the network's.
    """

    trains_variance: ClassVar[bool] = False
    """Whether a learned variance has a gradient from it."""

    @abstractmethod
    def __call__(
        self, denoiser: NetworkDenoiser, x0: Tensor, level: NoiseLevel, eps: Tensor, cond: Any = None
    ) -> Tensor:
        """Loss (B,) of clean x0 (B, ...) at levels (B,) with the noise eps of x0's shape."""

    def irreducible(
        self, denoiser: NetworkDenoiser, oracle: Denoiser, x0: Tensor, level: NoiseLevel, eps: Tensor
    ) -> Tensor | None:
        """The loss (B,) of a perfect network on these very draws, by the data's oracle; None where it isn't known."""
        return None
