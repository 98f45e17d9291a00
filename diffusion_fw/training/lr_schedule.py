"""Learning-rate schedules: a factor on the rate of the optimizer at step n.

constant      min(1, (n + 1) / W) with a warm-up of W steps
cosine        after the warm-up, f + (1 - f) (1 + cos(pi n / N)) / 2 down to the final factor f
linear        after the warm-up, 1 - (1 - f) n / N, down to the final factor f
inverse_sqrt  min(1, (n + 1) / W) / sqrt(max(1, n / R)), which falls from step R on
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from diffusion_fw.registry import Fraction, NonNegativeInt, PositiveInt, Runtime, register


@register("lr_schedule", "constant")
@dataclass(frozen=True)
class Constant:
    """factor(n) = min(1, (n + 1) / warmup_steps). Ho et al. 2020, appendix B, warm up over 5,000 steps.

    A ramp over images is warmup_steps = images / batch_size: 19531 for the 10 M images in batches of 512 of Karras et
    al. 2022 (EDM), table 7, whose first step has the rate 0 and is left out here.
    """

    max_steps: Runtime[int]
    warmup_steps: NonNegativeInt = 100

    def __call__(self, step: int) -> float:
        return min(1.0, (step + 1) / max(1, self.warmup_steps))


@register("lr_schedule", "cosine")
@dataclass(frozen=True)
class CosineDecay:
    """factor(n) = final + (1 - final) (1 + cos(pi n / N)) / 2 over the N steps after the warm-up.

    Loshchilov & Hutter 2017, equation 5, without restarts.
    """

    max_steps: Runtime[int]
    warmup_steps: NonNegativeInt = 100
    final: Fraction = 0.01

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.max_steps - self.warmup_steps))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


@register("lr_schedule", "linear")
@dataclass(frozen=True)
class LinearDecay:
    """factor(n) = 1 - (1 - final) n / N over the N steps after the warm-up, in which it is (n + 1) / warmup_steps."""

    max_steps: Runtime[int]
    warmup_steps: NonNegativeInt = 100
    final: Fraction = 0.0

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.max_steps - self.warmup_steps))
        return 1 - (1 - self.final) * progress


@register("lr_schedule", "inverse_sqrt")
@dataclass(frozen=True)
class InverseSqrt:
    """factor(n) = min(1, (n + 1) / warmup_steps) / sqrt(max(1, n / reference_steps)), whatever the length of the run.

    Karras et al. 2024b, equation 67 (after Kingma & Ba 2015), with their linear warm-up.
    """

    warmup_steps: NonNegativeInt = 100
    reference_steps: PositiveInt = 70_000

    def __call__(self, step: int) -> float:
        warmup = min(1.0, (step + 1) / max(1, self.warmup_steps))
        return warmup / math.sqrt(max(1.0, step / self.reference_steps))
