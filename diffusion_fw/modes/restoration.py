"""Samples given a measurement, beside what is known: a picture and errors."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from diffusion_fw.data.dataset import to_model
from diffusion_fw.guidance.guidance import Known
from diffusion_fw.modes.mode import SHOWN, Model


def restoration(model: Model, known: Known, samples: Tensor) -> tuple[list[Path], dict[str, str]]:
    """The picture of what is known, a plain baseline and samples (N, *shape); and their errors as rows of a table.

    Errors are root mean squares for data scaled to [0, 1]: of the measured part, A x - y, and of x to the original if
    that is known. Examples that are no images have no picture.
    """
    x, y = to_model(samples).double(), known.y.double()
    y = y if y.ndim == known.operator(x[:1]).ndim else y[None]
    original = None if known.original is None else known.original.double()[None]
    candidates = {
        "samples": x,
        "mean of the samples": x.mean(0, keepdim=True),
        f"baseline: {known.operator.plain}": known.operator.baseline(y),
    }
    low, high = model.bounds
    rows = {}
    for name, value in candidates.items():
        whole = [] if original is None else [f"error {error(value - original, high - low)}"]
        measured = f"of the measured part {error(known.operator(value) - y, high - low)}"
        rows[name] = ", ".join([*whole, measured])
    if len(model.shape) != 3:
        return [], rows
    shown = {
        **({} if original is None else {"original": original}),
        "measured": known.operator.as_example(y),
        "baseline": known.operator.baseline(y),
        "mean": x.mean(0, keepdim=True),
    }
    cells = torch.cat([*(value[:1] for value in shown.values()), x[:SHOWN]])
    columns = [*shown, *(str(1 + index) for index in range(len(x[:SHOWN])))]
    return [model.view.table(model.folder / "restoration.png", cells[None].float(), rows=[""], columns=columns)], rows


def error(difference: Tensor, scale: float) -> str:
    """The root mean square of a difference, and its signal-to-noise ratio with the scale as the peak."""
    value = float(difference.square().mean().sqrt()) / (scale or 1.0)
    # Below is rounding.
    return f"{value:.3g} ({-20 * math.log10(value):.1f} dB)" if value > 1e-6 else "0"
