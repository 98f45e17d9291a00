"""Train in a loop of your own, save the average of the weights, and sample from the file.

`python examples/own_loop.py`, then `python sample.py checkpoint=outputs/own_loop/model.ckpt`.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch

import diffusion_fw as dfw


def main(folder: Path, steps: int = 1000, batch_size: int = 128) -> Path:
    """Train for some steps; the path of the checkpoint."""
    torch.manual_seed(0)
    data = dfw.build("data", "digits")
    network = dfw.build("network", "unet", shape=data.shape, num_classes=data.num_classes, channels=16)
    denoiser = dfw.NetworkDenoiser(network, "cosine", "epsilon", bounds=data.bounds)
    average = copy.deepcopy(denoiser)

    objective = dfw.build("objective", "simple", weighting="native")
    times = dfw.build("time_sampler", "uniform")
    (ema,) = dfw.build("ema", "exponential", rate=0.995).tracks
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=1e-3)
    random = torch.Generator().manual_seed(0)

    for step in range(1, steps + 1):
        indices = torch.randint(len(data.train), (batch_size,), generator=random)
        values, labels = data.train.__getitems__(indices.tolist())
        x0 = dfw.to_model(values)
        level = denoiser.schedule(times(batch_size, denoiser.schedule, random))
        eps = torch.randn(x0.shape, generator=random)
        loss = objective(denoiser, x0, level, eps, labels).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), denoiser.parameters(), strict=True):
                mean.lerp_(weight, 1 - ema.decay(step))
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.3f}")

    path = dfw.save(average, folder / "model.ckpt", data=data, sampler=dfw.build("sampler", "ddim", steps=50))
    loaded = dfw.load(path)
    clipped = dfw.build("guidance", "clip", denoiser=loaded)
    x = dfw.build("sampler", "heun", steps=10)(
        clipped, dfw.prior(loaded.schedule, (10, *data.shape)), cond=torch.arange(10)
    )
    print(f"ten digits of shape {tuple(x.shape)} from {path}")
    return path


if __name__ == "__main__":
    main(Path("outputs/own_loop"))
