"""Samples, the mode that sample.py has by default."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from diffusion_fw.data.dataset import from_model
from diffusion_fw.files import unfinished
from diffusion_fw.guidance.guidance import Known
from diffusion_fw.modes.mode import Mode, Model, Outcome
from diffusion_fw.modes.restoration import restoration
from diffusion_fw.pictures.conditioned import conditioned, errors
from diffusion_fw.provenance import png_info
from diffusion_fw.registry import ConfigError, register
from diffusion_fw.sampling.share import rank

MOST_SHOWN = 256
FRAME_MS = 150
"""How long a frame of a video is shown."""


@register("mode", "samples")
@dataclass(frozen=True)
class Samples(Mode):
    """num_samples samples in one picture, and a PNG for each image in images/, which moves for a video.

    Where a guidance imposes a measurement, restoration.png shows the original if it is known, the measurement, a plain
    baseline and samples side by side, and the table has their errors.
    """

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
        if model.pixels and len(model.shape) in (3, 4) and rank() == 0:
            images = unfinished(folder)
            images.mkdir()
            for index, sample in enumerate(samples.movedim(1, -1)):
                info = None if model.record is None else png_info({**model.record, "index": index})
                first, *others = (Image.fromarray(frame.squeeze(-1).numpy()) for frame in frames_of(sample))
                moving: dict[str, Any] = (
                    {"save_all": True, "append_images": others, "duration": FRAME_MS, "loop": 0} if others else {}
                )
                first.save(images / f"{index:06d}.png", pnginfo=info, **moving)
            images.replace(folder)
        arrays = {"samples": samples} | ({} if classes is None else {"labels": classes})
        known: Known | None = getattr(model.denoiser, "known", None)
        if known is None:
            return Outcome(arrays, [picture], rows)
        pictures, found = restoration(model, known, samples)
        return Outcome({**arrays, "measurement": known.y}, [picture, *pictures], {**rows, **found})


def frames_of(sample: Tensor) -> Iterator[Tensor]:
    """The frames (H, W, C) of a video (T, H, W, C), or the image itself."""
    yield from sample if sample.ndim == 4 else (sample,)
