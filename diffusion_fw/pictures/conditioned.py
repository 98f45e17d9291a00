"""Samples beside what they were told and the examples that it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from diffusion_fw.conditions.conditioner import Asking
from diffusion_fw.data.dataset import from_model, to_model
from diffusion_fw.pictures.view import View

ROWS = 8


def conditioned(
    view: View,
    path: Path,
    asking: Asking,
    indices: Sequence[int],
    samples: Tensor,
    names: Sequence[str],
    title: str | None = None,
) -> Path:
    """A picture of samples (N, *shape), as the data hold them, with these indices.

    Where they are told images, each row is an image, the sample, and the example that the image was made of if it is a
    held-out one; otherwise the samples have ``names``.
    """
    some = list(indices[:ROWS])
    shown = asking.shown(some)
    if not shown:
        return view.samples(path, samples, names, title)
    pixels = samples.dtype == torch.uint8
    like = to_model(samples[: len(some)])
    columns = {name: from_model(image.expand_as(like), pixels) for name, image in shown.items()}
    columns["sample"] = samples[: len(some)]
    originals = asking.originals(some)
    if originals is not None:
        columns["example"] = from_model(originals, pixels)
    values = torch.stack(list(columns.values()), dim=1)
    return view.table(path, values, rows=[""] * len(some), columns=[name.replace("_", " ") for name in columns])


def errors(asking: Asking, indices: Sequence[int], samples: Tensor) -> dict[str, str]:
    """The root mean square distance of samples, and of the images that they were told, to the held-out examples.

    For values in [-1, 1]. Empty where nothing is an image, or the user gave it.
    """
    shown, originals = asking.shown(indices), asking.originals(indices)
    if not shown or originals is None:
        return {}
    found = {"samples": to_model(samples).cpu(), **{name.replace("_", " "): image for name, image in shown.items()}}
    return {
        f"root mean square distance of {name} to the examples": f"{float((x - originals).square().mean().sqrt()):.4f}"
        for name, x in found.items()
    }
