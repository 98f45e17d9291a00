"""The keys at the top of each program's config."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from diffusion_fw.registry import Fraction, NonNegativeInt, PositiveInt, register


@register("settings", "train")
@dataclass(frozen=True)
class TrainSettings:
    """batch_size is that of all processes and accumulated steps together: what one optimizer step sees.

    resume goes on with a run (its folder or a checkpoint of it); init_from starts anew with another run's averaged
    weights, or its raw ones. compile has torch.compile make the trained network's kernels.
    """

    seed: NonNegativeInt = 0
    batch_size: PositiveInt = 128
    num_workers: NonNegativeInt = 0
    label_dropout: Fraction = 0.1
    explain: bool = False
    compile: bool = False
    resume: str | None = None
    init_from: str | None = None
    init_raw_weights: bool = False


@register("settings", "sample")
@dataclass(frozen=True)
class SampleSettings:
    """What to draw from a checkpoint; weights are the averaged ones unless raw is asked for."""

    checkpoint: str
    num_samples: PositiveInt = 64
    seed: NonNegativeInt = 0
    batch_size: PositiveInt | Literal["auto"] = 256
    raw_weights: bool = False
    ema: dict[str, float | None] = field(default_factory=dict)
    device: str = "auto"
    npz: bool = False


@register("settings", "evaluate")
@dataclass(frozen=True)
class EvaluateSettings:
    """Which checkpoint to measure; the data is the checkpoint's own."""

    checkpoint: str
    seed: NonNegativeInt = 0
    batch_size: PositiveInt | Literal["auto"] = 256
    raw_weights: bool = False
    ema: dict[str, float | None] = field(default_factory=dict)
    device: str = "auto"
