"""Samples, the mode that sample.py has by default."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image

from diffusion_fw.data.dataset import from_model
from diffusion_fw.files import unfinished
from diffusion_fw.modes.mode import Mode, Model, Outcome
from diffusion_fw.pictures.conditioned import conditioned, errors
from diffusion_fw.provenance import png_info
from diffusion_fw.registry import ConfigError, register
from diffusion_fw.sampling.share import rank

MOST_SHOWN = 256


@register("mode", "samples")
@dataclass(frozen=True)
class Samples(Mode):
    """num_samples samples in one picture, and a PNG for each image in images/."""

    def __call__(self, model: Model) -> Outcome:
        from tqdm import tqdm

        folder, values = model.folder / "images", []
        if folder.exists():
            raise ConfigError(f"{model.folder} holds the images of another run; give another hydra.run.dir")
        with tqdm(total=model.num_samples, desc="sampling", disable=rank() > 0) as bar:
            for indices, x in model.draw():
                values.append(from_model(x, model.pixels).cpu())
                bar.update(len(indices))
        samples, classes = torch.cat(values), model.class_of(range(model.num_samples))
        path, shown, rows = model.folder / "grid.png", range(min(MOST_SHOWN, model.num_samples)), {}
        if model.asking:
            names = model.asking.called(shown)
            picture = conditioned(model.view, path, model.asking, shown, samples[:MOST_SHOWN], names)
            rows = errors(model.asking, range(model.num_samples), samples)
        else:
            names = [model.class_names[k] for k in classes[:MOST_SHOWN].tolist()] if classes is not None else []
            picture = model.view.samples(path, samples[:MOST_SHOWN], names)
        if model.pixels and rank() == 0:
            images = unfinished(folder)
            images.mkdir()
            for index, image in enumerate(samples.permute(0, 2, 3, 1).numpy()):
                info = None if model.record is None else png_info({**model.record, "index": index})
                pixels = image.squeeze(-1) if image.shape[-1] == 1 else image
                Image.fromarray(pixels).save(images / f"{index:06d}.png", pnginfo=info)
            images.replace(folder)
        arrays = {"samples": samples} | ({} if classes is None else {"labels": classes})
        return Outcome(arrays, [picture], rows)
