"""The cross-entropy of a classifier of noisy examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from diffusion_fw.objectives.objective import Objective
from diffusion_fw.process.level import NoiseLevel, noised
from diffusion_fw.registry import register


@register("objective", "classifier")
@dataclass(frozen=True)
class ClassifierLoss(Objective):
    """-log p(class | x_t) by the logits at x_t = alpha x_0 + sigma eps. Dhariwal & Nichol 2021, section 4.

    It trains a classifier, such as network=adm_classifier, for guidance=classifier. label_dropout does not apply.
    """

    trains_classifier: ClassVar[bool] = True

    def __call__(self, denoiser: Any, x0: Tensor, level: NoiseLevel, eps: Tensor, cond: Any = None) -> Tensor:
        return self.error(denoiser(noised(level, x0, eps), level), cond)

    def error(self, logits: Tensor, cond: Tensor) -> Tensor:
        """The cross-entropy (B,) of logits (B, K) for the classes cond (B,)."""
        return nn.functional.cross_entropy(logits, cond, reduction="none")
