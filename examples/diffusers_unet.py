"""Plug a UNet of diffusers in: any schedule, parameterization and objective trains it, any sampler draws from it.

`pip install diffusers`, then `python examples/diffusers_unet.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel

import diffusion_fw as dfw


def main(folder: Path, steps: int = 500, batch_size: int = 64) -> torch.Tensor:
    """Train for some steps, and return ten samples."""
    torch.manual_seed(0)
    data = dfw.build("data", "digits")
    unet: Any = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=data.num_classes + 1,
    )
    # Its classes have a name of its own, and its output is an object.
    denoiser = dfw.wrap(unet, "flow", "flow", cond="class_labels", bounds=data.bounds)
    objective = dfw.build("objective", "simple", weighting="native")
    times = dfw.build("time_sampler", "uniform")
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        values, labels = data.train.__getitems__(
            torch.randint(len(data.train), (batch_size,), generator=random).tolist()
        )
        x0 = dfw.to_model(values)
        level = denoiser.schedule(times(batch_size, denoiser.schedule, random))
        loss = objective(denoiser, x0, level, torch.randn(x0.shape, generator=random), labels).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    unet.eval()
    sampler = dfw.build("sampler", "dpm_solver_pp", steps=10, grid="log_snr")
    clipped = dfw.build("guidance", "clip", denoiser=denoiser)
    x = sampler(clipped, dfw.prior(denoiser.schedule, (10, *data.shape)), cond=torch.arange(10))
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(dfw.to_pixels(x), folder / "digits.pt")
    return x


if __name__ == "__main__":
    main(Path("outputs/diffusers_unet"))
