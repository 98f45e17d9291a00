"""facebookresearch/DiT, and willisma/SiT by scripts/peer_outputs/sit.py; needs timm."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from scripts.peer_outputs.seeded import fill, record, seeded

CASES: dict[str, dict[str, Any]] = {
    "latents": {
        **{"input_size": 8, "patch_size": 2, "in_channels": 4, "hidden_size": 32, "depth": 2, "num_heads": 4},
        **{"num_classes": 5, "learn_sigma": True},
    },
    "pixels": {
        **{"input_size": 16, "patch_size": 4, "in_channels": 3, "hidden_size": 48, "depth": 1, "num_heads": 2},
        **{"num_classes": 3, "learn_sigma": False, "mlp_ratio": 2},
    },
}


def of(network: Any, label: list[float]) -> Iterator[dict[str, Any]]:
    """A record of each case of a class of networks at three times; the last class is "no class"."""
    for case, settings in CASES.items():
        model = network(**settings).eval()
        positions = model.pos_embed.clone()
        keys = fill(model)
        model.pos_embed.data.copy_(positions)
        cond = [0, settings["num_classes"] - 1, settings["num_classes"]]
        shape = [3, settings["in_channels"], settings["input_size"], settings["input_size"]]
        with torch.no_grad():
            output = model(seeded("x", shape), torch.tensor(label), torch.tensor(cond))
        yield {
            **{"case": case, "settings": settings, "keys": keys, "positions": record(positions)},
            **{"input": ["x", shape], "label": label, "cond": cond, "output": record(output)},
        }


def records() -> Iterator[dict[str, Any]]:
    """DiT's label is the index 0 .. 999."""
    from models import DiT  # type: ignore[import-not-found]

    yield from of(DiT, [0.0, 250.0, 999.0])
