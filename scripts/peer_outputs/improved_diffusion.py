"""openai/improved-diffusion: its U-Net."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from scripts.peer_outputs.seeded import fill, record, seeded

CASES: dict[str, dict[str, Any]] = {
    "scale and shift": {"num_heads": 4, "use_scale_shift_norm": True, "num_classes": 5, "out_channels": 6},
    "sum, one head": {"num_heads": 1, "use_scale_shift_norm": False, "channel_mult": (1, 1, 2)},
}


def records() -> Iterator[dict[str, Any]]:
    """The output of each network for two inputs."""
    from improved_diffusion.unet import UNetModel  # type: ignore[import-not-found]

    label = torch.tensor([3.0, 871.25])
    for case, options in CASES.items():
        settings = {
            "in_channels": 3,
            "model_channels": 32,
            "out_channels": 3,
            "num_res_blocks": 1,
            "channel_mult": (1, 2),
            "attention_resolutions": (2,),
            **options,
        }
        network = UNetModel(**settings)
        keys = fill(network)
        x = seeded(case, (2, 3, 8, 8))
        classes = torch.tensor([4, 0]) if "num_classes" in settings else None
        with torch.no_grad():
            output = network.eval()(x, label, classes)
        yield {
            "case": case,
            "settings": settings,
            "keys": keys,
            "input": {"name": case, "shape": list(x.shape)},
            "label": label.tolist(),
            "classes": None if classes is None else classes.tolist(),
            "output": record(output),
        }
