"""openai/guided-diffusion: samples of its loops, with a small U-Net of seeded weights and a learned variance."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from scripts.peer_outputs.seeded import fill, record, seeded

SETTINGS: dict[str, Any] = {
    **{"image_size": 8, "in_channels": 3, "model_channels": 32, "out_channels": 6, "num_res_blocks": 1},
    **{"channel_mult": (1, 2), "attention_resolutions": (2,), "num_head_channels": 16, "use_scale_shift_norm": True},
    **{"resblock_updown": True, "num_classes": 5},
}
RESPACING = {"ddim": "ddim10", "ancestral": "10"}


def records() -> Iterator[dict[str, Any]]:
    """Ten steps from the same noise by DDIM, and by ancestral sampling with noise of the global generator, seed 0."""
    from guided_diffusion.script_util import create_gaussian_diffusion  # type: ignore[import-not-found]
    from guided_diffusion.unet import UNetModel  # type: ignore[import-not-found]

    network = UNetModel(**SETTINGS).eval()
    keys = fill(network)
    shape, classes = (2, 3, 8, 8), [4, 0]
    for case, respacing in RESPACING.items():
        diffusion = create_gaussian_diffusion(learn_sigma=True, timestep_respacing=respacing)
        loop = diffusion.ddim_sample_loop if case == "ddim" else diffusion.p_sample_loop
        torch.manual_seed(0)
        with torch.no_grad():
            samples = loop(
                network, shape, noise=seeded("x", shape), model_kwargs={"y": torch.tensor(classes)}, device="cpu"
            )
        yield {
            **{"case": case, "settings": SETTINGS, "keys": keys, "input": ["x", list(shape)]},
            **{"classes": classes, "respacing": respacing, "output": record(samples)},
        }
