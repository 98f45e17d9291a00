"""Colourisation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from diffusion_fw.condition import Told
from diffusion_fw.conditions.of_images import OfImages
from diffusion_fw.denoiser import Noise
from diffusion_fw.registry import ConfigError, register


@register("condition", "grayscale")
@dataclass(frozen=True)
class Grayscale(OfImages):
    """The gray image, the mean over the channels, concatenated to x_t: colourisation.

    Saharia et al. 2022, "Palette". Raises ConfigError for images of one channel, and examples that are no images.
    """

    def channels(self, shape: tuple[int, ...]) -> int:
        if shape[0] == 1:
            raise ConfigError("condition=grayscale needs images in colour, and those of data=... have one channel")
        return 1

    def of(self, x0: Tensor, noise: Noise) -> Told:
        return Told.all(x0.mean(1, keepdim=True))

    def shown(self, told: Told) -> Tensor:
        return told.value
