"""crowsonkb/k-diffusion: samples of its loops, with a small ``image_v1`` of seeded weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from scripts.peer_outputs.k_diffusion import built, imported
from scripts.peer_outputs.seeded import record, seeded

TINY = {"feats_in": 16, "depths": [1, 1], "channels": [16, 24], "self_attn_depths": [False, True]}
LOOPS = ("sample_euler", "sample_heun", "sample_euler_ancestral", "sample_dpmpp_2m", "sample_lms")
STEPS, SIGMA_MIN, SIGMA_MAX = 8, 0.01, 80.0


def records() -> Iterator[dict[str, Any]]:
    """Eight steps of each loop; the noise is of the global generator, seed 0."""
    package = imported()
    model, keys = built(package, TINY)
    shape = (2, 3, 8, 8)
    sigmas = package.sampling.get_sigmas_karras(STEPS, SIGMA_MIN, SIGMA_MAX)
    for loop in LOOPS:
        torch.manual_seed(0)
        samples = getattr(package.sampling, loop)(model, seeded("x", shape) * SIGMA_MAX, sigmas, disable=True)
        yield {"case": loop, "keys": keys, "input": ["x", list(shape)], "steps": STEPS, "output": record(samples)}
