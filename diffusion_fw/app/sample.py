"""Sample: draw images from a checkpoint with any sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusion_fw.app.program import run
from diffusion_fw.registry import ConfigError


def sample(config: dict[str, Any], folder: Path) -> None:
    """Draw config["num_samples"] samples into ``folder``: a PNG each for images, a grid, and samples.npz on request."""
    import numpy as np
    import torch
    from PIL import Image
    from tqdm import tqdm

    from diffusion_fw.app.device import choose
    from diffusion_fw.app.load import load_chosen
    from diffusion_fw.app.memory import chunk_size
    from diffusion_fw.composition import (
        Facts,
        build_sampler,
        build_variance,
        build_wrappers,
        check_fit,
        check_label_dropout,
        is_conditional,
        own_variance,
    )
    from diffusion_fw.data.source import to_pixels
    from diffusion_fw.pictures.view import view_for
    from diffusion_fw.sampling import draw

    if (folder / "images").exists():
        raise ConfigError(f"{folder} holds the images of another run already; give another hydra.run.dir")
    denoiser, record, choice = load_chosen(config["checkpoint"], raw_weights=config["raw_weights"], **config["ema"])
    facts = Facts.from_record(record["facts"])
    config = own_variance(config, record["config"])
    sampler = build_sampler(config)
    check_fit(denoiser, sampler, build_variance(config))
    device = choose(config["device"])
    batch_size = chunk_size(config["batch_size"], record["config"], facts, device)
    conditional = is_conditional(denoiser)
    check_label_dropout(config, record["config"]["label_dropout"])
    wrapped = build_wrappers(config, facts, conditional)(denoiser.to(device))
    chunks = draw(
        sampler,
        wrapped,
        facts.shape,
        range(config["num_samples"]),
        seed=config["seed"],
        num_classes=facts.num_classes if conditional else 0,
        batch_size=batch_size,
        device=device,
    )
    values = []
    with tqdm(total=config["num_samples"], desc="sampling") as bar:
        for chunk, x in chunks:
            values.append((to_pixels(x) if facts.pixels else x).cpu())
            bar.update(len(chunk))
    result = torch.cat(values)
    if facts.pixels:
        (folder / "images").mkdir()
        for index, image in enumerate(result.permute(0, 2, 3, 1).numpy()):
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(
                folder / "images" / f"{index:06d}.png"
            )
    if config["npz"]:
        np.savez(folder / "samples.npz", samples=result.numpy())
    path = view_for(facts.shape).samples(folder / "grid.png", result[:256])
    how = f"sampler={config['sampler']['name']}, weights {choice.name}"
    print(f"{len(result)} samples by {how}, in {folder}; all at a glance: {path}")


def main(plugins: Path | None = None) -> None:
    """The program `python sample.py`."""
    run("sample", sample, plugins=plugins)
