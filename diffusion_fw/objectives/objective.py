"""What an objective is: the loss of each example at given times and noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from diffusion_fw.denoiser import Denoiser, NetworkDenoiser
from diffusion_fw.process.level import NoiseLevel


class Objective(ABC):
    """The loss of each example; the caller takes the mean, logs it and plots it over log-SNR.

    It declares what it needs, such as ``weighting: Runtime[Weighting]``. If it is also an nn.Module, its parameters are
    trained with the network's.
    """

    trains_variance: ClassVar[bool] = False
    """Whether it trains a learned variance."""
    trains_classifier: ClassVar[bool] = False
    """Whether it trains a NetworkClassifier, which it is then called with, instead of a NetworkDenoiser."""

    trains_autoencoder: ClassVar[bool] = False
    """Whether it trains a NetworkAutoencoder, which it is then called with, instead of a NetworkDenoiser."""

    draws: ClassVar[bool] = False
    """Whether it draws from torch's global generator, which is then seeded at each step."""
    differentiates: ClassVar[bool] = False
    """Whether it differentiates the network by x, so that training takes second derivatives."""

    @abstractmethod
    def __call__(
        self, denoiser: NetworkDenoiser, x0: Tensor, level: NoiseLevel, eps: Tensor, cond: Any = None
    ) -> Tensor:
        """Loss (B,) of clean data x0 (B, ...) at levels (B,) with noise eps of x0's shape."""

    def plain(self) -> Objective:
        """The objective without what it learns itself, so that the losses of two models compare."""
        return self

    def irreducible(
        self, denoiser: NetworkDenoiser, oracle: Denoiser, x0: Tensor, level: NoiseLevel, eps: Tensor
    ) -> Tensor | None:
        """The loss (B,) of a perfect network on the same draws, from the data's oracle; None if unknown."""
        return None
