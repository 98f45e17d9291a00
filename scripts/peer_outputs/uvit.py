"""baofff/U-ViT."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from scripts.peer_outputs.seeded import fill, record, seeded

CASES: dict[str, dict[str, Any]] = {
    "pixels, classes": {
        **{"img_size": 8, "patch_size": 2, "in_chans": 3, "embed_dim": 32, "depth": 4, "num_heads": 4},
        **{"num_classes": 5, "mlp_ratio": 2, "conv": True},
    },
    "latents, no convolution": {
        **{"img_size": 16, "patch_size": 4, "in_chans": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "conv": False},
    },
}


def records() -> Iterator[dict[str, Any]]:
    """The output of each case at three times."""
    from libs.uvit import UViT  # type: ignore[import-not-found]

    label = [0.999, 250.0, 999.0]
    for case, settings in CASES.items():
        model = UViT(**settings).eval()
        keys = fill(model)
        shape = [3, settings["in_chans"], settings["img_size"], settings["img_size"]]
        cond = [0, 2, 4] if "num_classes" in settings else None
        with torch.no_grad():
            output = model(seeded("x", shape), torch.tensor(label), None if cond is None else torch.tensor(cond))
        yield {
            **{"case": case, "settings": settings, "keys": keys, "input": ["x", shape], "label": label, "cond": cond},
            "output": record(output),
        }
