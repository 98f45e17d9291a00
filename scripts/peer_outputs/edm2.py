"""NVlabs/edm2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from scripts.peer_outputs.seeded import fill, record, seeded

CASES: dict[str, dict[str, Any]] = {
    "classes": {
        **{"img_resolution": 8, "img_channels": 3, "label_dim": 5, "model_channels": 16, "channel_mult": [1, 2]},
        **{"num_blocks": 1, "attn_resolutions": [4], "channels_per_head": 16},
    },
    "latents without classes": {
        **{"img_resolution": 8, "img_channels": 4, "label_dim": 0, "model_channels": 8, "channel_mult": [1, 2, 4]},
        **{"num_blocks": 2, "attn_resolutions": [8], "channels_per_head": 8},
    },
}


def records() -> Iterator[dict[str, Any]]:
    """The denoised image of each case at three sigmas; the last example has no class."""
    from training.networks_edm2 import Precond  # type: ignore[import-not-found]

    sigma = [0.01, 0.7, 30.0]
    for case, settings in CASES.items():
        model = Precond(use_fp16=False, **settings).eval()
        keys = fill(model)
        buffers = dict(model.named_buffers())
        for name, buffer in buffers.items():
            buffer.copy_(seeded(name, buffer.shape))
        shape = [3, settings["img_channels"], 8, 8]
        classes = settings["label_dim"]
        one_hot = torch.eye(classes + 1)[[0, classes - 1, classes], :classes] if classes else None
        with torch.no_grad():
            output = model(seeded("x", shape), torch.tensor(sigma), one_hot)
        yield {
            **{"case": case, "settings": settings, "keys": keys, "buffers": list(buffers), "input": ["x", shape]},
            **{"sigma": sigma, "cond": [0, classes - 1, classes] if classes else None, "output": record(output)},
        }
