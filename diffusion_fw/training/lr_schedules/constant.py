"""A constant rate after a warm-up."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_fw.registry import NonNegativeInt, Runtime, register


@register("lr_schedule", "constant")
@dataclass(frozen=True)
class Constant:
    """factor(n) = min(1, (n + 1) / warmup_steps): Ho et al. 2020, appendix B, warm up over 5,000 steps."""

    max_steps: Runtime[int]
    warmup_steps: NonNegativeInt = 100

    def __call__(self, step: int) -> float:
        return min(1.0, (step + 1) / max(1, self.warmup_steps))
