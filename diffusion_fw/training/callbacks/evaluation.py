"""Samples, their distance and pictures during training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from diffusion_fw.registry import PositiveInt, Runtime, register


@register("callbacks", "evaluation")
def evaluation(
    history: Runtime[Any],
    data: Runtime[Any],
    sampler: Runtime[Any],
    wrap: Runtime[Any],
    metric: Runtime[Any],
    folder: Runtime[Path],
    seed: Runtime[int],
    every: PositiveInt = 500,
    batch_size: PositiveInt | Literal["auto"] = 256,
    grid_images: PositiveInt = 64,
) -> Any:
    """Draw samples from the averaged weights, measure their distance to held-out data, draw pictures.

    batch_size is the samples drawn at once; auto: as many as half of the memory takes that is free at the first
    evaluation.
    """
    from diffusion_fw.training.evaluation import Evaluation

    return Evaluation(
        history=history,
        data=data,
        sampler=sampler,
        wrap=wrap,
        metric=metric,
        folder=folder / "samples",
        every=every,
        batch_size=batch_size,
        grid_images=grid_images,
        seed=seed,
    )
