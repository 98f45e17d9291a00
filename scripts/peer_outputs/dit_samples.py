"""facebookresearch/DiT: samples of its loop, with a small transformer of seeded weights; needs timm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from scripts.peer_outputs.dit import CASES
from scripts.peer_outputs.seeded import fill, record, seeded


def records() -> Iterator[dict[str, Any]]:
    """Ten ancestral steps with noise of the global generator, seed 0; latents are not clipped."""
    from diffusion import create_diffusion  # type: ignore[import-not-found]
    from models import DiT  # type: ignore[import-not-found]

    settings = CASES["latents"]
    model = DiT(**settings).eval()
    positions = model.pos_embed.clone()
    keys = fill(model)
    with torch.no_grad():
        model.pos_embed.copy_(positions)
        # Unclipped sampling with large outputs is chaotic.
        model.final_layer.linear.weight.mul_(0.1)
    shape, classes = [2, 4, 8, 8], [0, 4]
    torch.manual_seed(0)
    samples = create_diffusion("10").p_sample_loop(
        model.forward,
        shape,
        seeded("x", shape),
        clip_denoised=False,
        model_kwargs={"y": torch.tensor(classes)},
        device="cpu",
    )
    yield {
        **{"case": "ancestral", "settings": settings, "keys": keys, "input": ["x", shape]},
        **{"classes": classes, "scaled": {"final_layer.linear.weight": 0.1}, "output": record(samples)},
    }
