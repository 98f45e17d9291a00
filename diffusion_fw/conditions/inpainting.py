"""Inpainting by a model that was trained for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from diffusion_fw.condition import Told
from diffusion_fw.conditions.of_images import OfImages, model_image, read_image
from diffusion_fw.conditions.source import Asked
from diffusion_fw.denoiser import Noise
from diffusion_fw.registry import ConfigError, Range, register


@register("condition", "inpainting")
@dataclass(frozen=True)
class Inpainting(OfImages):
    """The image without what a mask hides, and the mask: channels (m x_0, m) with m = 1 where known.

    Saharia et al. 2022, "Palette". In training a rectangle is hidden, whose sides are uniform between ``smallest`` and
    ``largest`` times those of the image, anywhere within it; 1 hides everything. Not told, all is hidden. In sampling
    ``image=FILE mask=FILE``: white is known, black is drawn.

    Raises ConfigError for examples that are no images.
    """

    asked_by: ClassVar[tuple[str, ...]] = ("image", "mask")

    smallest: Annotated[float, Range(0, 1)] = 0.3
    largest: Annotated[float, Range(0, 1)] = 0.8

    def channels(self, shape: tuple[int, ...]) -> int:
        if self.smallest > self.largest:
            raise ConfigError(
                f"condition.inpainting.smallest={self.smallest:g} is more than "
                f"condition.inpainting.largest={self.largest:g}"
            )
        return shape[0] + 1

    def of(self, x0: Tensor, noise: Noise) -> Told:
        drawn = torch.special.ndtr(noise(x0.new_empty(len(x0), 4)))
        sides = self.smallest + (self.largest - self.smallest) * drawn[:, :2]
        first = (1 - sides) * drawn[:, 2:]
        hidden = torch.ones(len(x0), *x0.shape[2:], dtype=torch.bool, device=x0.device)
        for axis, length in enumerate(x0.shape[2:]):
            centres = (torch.arange(length, device=x0.device) + 0.5) / length
            inside = (centres >= first[:, axis, None]) & (centres <= (first + sides)[:, axis, None])
            hidden &= inside.view(len(x0), *[length if other == axis else 1 for other in range(x0.ndim - 2)])
        return masked(x0, ~hidden[:, None])

    def told(self, path: str, asked: Asked, shape: tuple[int, ...], noise: Noise) -> Told:
        if asked.get("mask") is None:
            raise ConfigError(f"image={path}: which part is known? give mask=FILE, white where it is, black elsewhere")
        image = model_image(path, "image", shape)
        mask = read_image(str(asked["mask"]), "mask", 1)
        if mask.shape[1:] != image.shape[1:]:
            raise ConfigError(
                f"mask={asked['mask']} is {mask.shape[2]} x {mask.shape[1]} pixels, but the model's images are "
                f"{shape[2]} x {shape[1]}"
            )
        return masked(image[None], mask[None] > 127)

    def shown(self, told: Told) -> Tensor:
        return told.value[:, :-1]


def masked(x0: Tensor, known: Tensor) -> Told:
    """The condition of images (B, C, H, W), where known (B, 1, H, W) is bool."""
    return Told.all(torch.cat([torch.where(known, x0, 0.0), known.to(x0)], dim=1))
