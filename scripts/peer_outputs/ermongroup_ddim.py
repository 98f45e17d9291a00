"""ermongroup/ddim: the U-Net of DDPM."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch

from scripts.peer_outputs.seeded import fill, record, seeded

CASES: dict[str, dict[str, Any]] = {
    "two levels": {"ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4]},
    "the first level is wider": {"ch": 32, "ch_mult": [2, 1, 2], "num_res_blocks": 1, "attn_resolutions": [8, 2]},
}


def records() -> Iterator[dict[str, Any]]:
    """The output of each network for two inputs."""
    from models.diffusion import Model  # type: ignore[import-not-found]

    label = torch.tensor([3.0, 871.25])
    for case, settings in CASES.items():
        own = {"type": "simple", "in_channels": 3, "out_ch": 3, "dropout": 0.1, "resamp_with_conv": True, **settings}
        config = SimpleNamespace(
            model=SimpleNamespace(**own),
            data=SimpleNamespace(image_size=8),
            diffusion=SimpleNamespace(num_diffusion_timesteps=1000),
        )
        network = Model(config)
        keys = fill(network)
        x = seeded(case, (2, 3, 8, 8))
        with torch.no_grad():
            output = network.eval()(x, label)
        yield {
            "case": case,
            "settings": settings,
            "keys": keys,
            "input": {"name": case, "shape": list(x.shape)},
            "label": label.tolist(),
            "output": record(output),
        }
