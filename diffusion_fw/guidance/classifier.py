"""Guidance by the gradient of a classifier of noisy data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion_fw.guidance.guidance import Guidance, with_gradient
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.registry import ConfigError, NonNegative, Runtime, register


@register("guidance", "classifier")
@dataclass(frozen=True)
class Classifier(Guidance):
    """For Python only: eps' = eps - scale sigma grad log p(cond | x_t), and x_0 with it.

    Dhariwal & Nichol 2021, equation 14. classifier(x, level) -> logits (B, K) of the classes of cond int64 (B,). The
    wrapped denoiser is evaluated without the condition: with the exact classifier scale = 1 is the conditional
    distribution (Bayes) and scale = 0 the unconditional. conditional=true gives it the condition as well (their guided
    conditional models, where scale = 0 is unguided).

    Raises ConfigError when called without cond.
    """

    classifier: Runtime[Callable[[Tensor, NoiseLevel], Tensor]]
    scale: NonNegative = 1.0
    conditional: bool = False

    def __call__(self, x: Tensor, level: NoiseLevel, cond: Any = None) -> Prediction:
        if cond is None:
            raise ConfigError(
                "guidance=classifier was called without cond, the class to guide to; "
                "pass labels, or remove classifier from guidance"
            )

        def log_probability(x: Tensor) -> Tensor:
            return self.classifier(x, level).log_softmax(1).gather(1, cond[:, None]).sum()

        prediction = self.denoiser(x, level, cond if self.conditional else None)
        return with_gradient(prediction, level, self.scale * torch.func.grad(log_probability)(x))
