"""Held-out examples as latents x_T."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from diffusion_fw.condition import class_labels
from diffusion_fw.modes.mode import SHOWN, Images, Mode, Model, Outcome
from diffusion_fw.registry import register


@register("mode", "encode")
@dataclass(frozen=True)
class Encode(Mode):
    """The latent x_T of each of num_samples held-out examples, and the example that the sampler returns to from it.

    By the reversed sampler: sampler=ddim (Song et al. 2020, section 4.3) or sampler=ode, the probability flow (Song et
    al. 2021, section 4.3). images=[a.png,b.png] encodes these images, or those of a folder or zip, in place of held-out
    examples. For a good model x_T / sigma_T is standard normal. The npz holds the examples x_0, the
    latents x_T and the reconstructions, all in the scale of the model, and the labels. guidance=none encodes by the
    model's own flow; clip changes it. mode=decode takes the npz.
    """

    images: Images = None

    def __call__(self, model: Model) -> Outcome:
        x0, told = model.examples(self.images)
        latents = model.encode(x0, told)
        back = model.decode(latents, told)
        normal = latents / model.sigma
        low, high = model.bounds
        as_values = model.space.drawn(normal)
        picture = model.view.table(
            model.folder / "encode.png",
            torch.stack([x0, as_values, back], dim=1)[:SHOWN],
            rows=[""] * min(SHOWN, len(x0)),
            columns=["data", "latent", "decoded"],
        )
        error = (back - x0).square().mean() / (high - low) ** 2
        rows = {
            "mean of x_T / sigma_T": f"{normal.mean():.4g}",
            "standard deviation of x_T / sigma_T": f"{normal.std():.4g}",
            "error of the reconstruction": f"{error:.3g} (mean square, for data in [0, 1])",
        }
        arrays = {"examples": x0, "latents": latents, "reconstructions": back}
        classes = class_labels(told, len(model.class_names))
        return Outcome(arrays | ({} if classes is None else {"labels": classes}), [picture], rows)
