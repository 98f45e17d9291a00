"""A folder that diffusers loads as a pipeline: model_index.json, the network and its scheduler."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion_fw.denoiser import NetworkDenoiser
from diffusion_fw.files import atomic_write
from diffusion_fw.interop.diffusion_settings import write_settings
from diffusion_fw.interop.formats.diffusers_unet import UNet2D
from diffusion_fw.interop.pairs import to_theirs

VERSION = "0.38.0"
"""Of diffusers, whose keys these are."""


def write_pipeline(folder: Path, denoiser: NetworkDenoiser, config: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    """Write a DDPMPipeline: ``diffusers.DDPMPipeline.from_pretrained(folder)``.

    Raises ConfigError for a network, a schedule or a parameterization that diffusers has no class for.
    """
    from safetensors.torch import save

    format = UNet2D()
    network = denoiser.network
    files: dict[str, Any] = {
        "unet/config.json": format.settings(network, config, shape),
        "scheduler/scheduler_config.json": write_settings(config),
        "model_index.json": {
            "_class_name": "DDPMPipeline",
            "scheduler": ["diffusers", "DDPMScheduler"],
            "unet": ["diffusers", "UNet2DModel"],
        },
    }
    weights = to_theirs(format.pairs(network), network.state_dict())
    for part in ("unet", "scheduler"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "unet" / "diffusion_pytorch_model.safetensors") as file:
        file.write(save(weights, metadata={"format": "pt"}))
    # The index last: without it the folder is no pipeline.
    for name, content in files.items():
        with atomic_write(folder / name) as file:
            file.write(json.dumps({**content, "_diffusers_version": VERSION}, indent=2).encode())
