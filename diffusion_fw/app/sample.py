"""Sample: draw images from a checkpoint with any sampler."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diffusion_fw.app.program import run, unless_explained
from diffusion_fw.registry import ConfigError

logger = logging.getLogger(__name__)


def sample(config: dict[str, Any], folder: Path) -> None:
    """Draw config["num_samples"] samples into ``folder``: a grid, a PNG for each image, and samples.npz if npz=true.

    samples.npz holds ``samples``, and for a model that takes labels ``labels``.
    """
    import numpy as np
    import torch
    from PIL import Image
    from tqdm import tqdm

    from diffusion_fw.app.trained_model import open_trained
    from diffusion_fw.files import atomic_write, unfinished
    from diffusion_fw.pictures.view import view_for
    from diffusion_fw.sampling.draw import labels_of

    if (folder / "images").exists():
        raise ConfigError(f"{folder} holds the images of another run; give another hydra.run.dir")
    model = open_trained(config)
    model.check_sampler()
    if model.num_classes and not model.facts.class_counts:
        logger.warning(
            "checkpoint=%s does not say how often each class occurs in its data; they take turns",
            config["checkpoint"],
        )
    # Two copies: the chunks, and all samples together.
    print(f"memory, estimated: {model.memory(config['num_samples'], copies=2)}")
    values = []
    with tqdm(total=config["num_samples"], desc="sampling") as bar:
        for chunk, examples in model.draw(config["num_samples"]):
            values.append(examples.cpu())
            bar.update(len(chunk))
    result = torch.cat(values)
    labels = labels_of(range(len(result)), model.class_counts, config["seed"], "cpu")
    if config["npz"] or not model.facts.pixels:
        with atomic_write(folder / "samples.npz") as file:
            arrays: dict[str, Any] = {"samples": result.numpy()}
            if labels is not None:
                arrays["labels"] = labels.numpy()
            np.savez(file, **arrays)
    path = view_for(model.facts.shape, model.facts.data_range).samples(folder / "grid.png", result[:256])
    if model.facts.pixels:
        images = unfinished(folder / "images")
        images.mkdir()
        for index, image in enumerate(result.permute(0, 2, 3, 1).numpy()):
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(images / f"{index:06d}.png")
        images.replace(folder / "images")
    how = f"sampler={model.config['sampler']['name']} in {model.sampler.steps} steps, weights {model.choice.name}"
    print(f"{len(result)} samples by {how}, in {folder}; all in one picture: {path}")


def main(plugins: Path | None = None) -> None:
    """The program `python sample.py`."""
    run("sample", sample, plugins=plugins, prepare=unless_explained("sample"))
