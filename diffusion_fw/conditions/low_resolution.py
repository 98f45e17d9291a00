"""Super-resolution, and cascades."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from diffusion_fw.condition import Told
from diffusion_fw.conditions.of_images import OfImages, model_image, read_image
from diffusion_fw.conditions.source import Asked
from diffusion_fw.denoiser import Noise
from diffusion_fw.registry import ConfigError, Fraction, Range, register


@register("condition", "low_resolution")
@dataclass(frozen=True)
class LowResolution(OfImages):
    """The image at 1 / factor of its height and width, brought back to full size: super-resolution.

    y is the mean over blocks of factor x factor pixels, resized bilinearly, and concatenated to x_t (Saharia et al.
    2021, SR3; Nichol & Dhariwal 2021, section 6; both resize bicubically). In sampling ``image=FILE`` may have the full
    size, of which y is made, or the small one.

    Cascades: the images of the model before are not perfect. With noise > 0, training adds noise to the small image,
    sqrt(1 - s^2) y + s eps with s uniform in [0, noise] for each example, and a further channel tells s (Gaussian
    conditioning augmentation, Ho et al. 2022, "Cascaded diffusion models", section 4.2). In sampling s is
    ``sampled_noise``.

    Raises ConfigError for examples that are no images, and a factor that does not divide their sides.
    """

    factor: Annotated[int, Range(2, 1024)] = 2
    noise: Fraction = 0.0
    sampled_noise: Fraction = 0.0

    def channels(self, shape: tuple[int, ...]) -> int:
        if any(side % self.factor for side in shape[1:]):
            raise ConfigError(
                f"condition.low_resolution.factor={self.factor} does not divide the sides of images {shape}; choose "
                "another factor"
            )
        if self.sampled_noise > self.noise:
            raise ConfigError(
                f"condition.low_resolution.sampled_noise={self.sampled_noise:g} is more than the "
                f"condition.low_resolution.noise={self.noise:g} of the training"
            )
        return shape[0] + (1 if self.noise else 0)

    def of(self, x0: Tensor, noise: Noise) -> Told:
        share = torch.special.ndtr(noise(x0.new_empty(len(x0), 1, 1, 1))) if self.noise else x0.new_zeros(())
        return self.enlarged(functional.avg_pool2d(x0, self.factor), share * self.noise, noise)

    def enlarged(self, small: Tensor, level: Tensor, noise: Noise) -> Told:
        """The condition of small images (B, C, h, w) with noise of these levels (B, 1, 1, 1)."""
        if self.noise:
            small = (1 - level.square()).sqrt() * small + level * noise(small)
        large = functional.interpolate(small, scale_factor=self.factor, mode="bilinear", align_corners=False)
        if self.noise:
            large = torch.cat([large, level.expand(len(large), 1, *large.shape[2:])], dim=1)
        return Told.all(large)

    def told(self, path: str, asked: Asked, shape: tuple[int, ...], noise: Noise) -> Told:
        small = tuple(side // self.factor for side in shape[1:])
        given = tuple(read_image(path, "image", shape[0]).shape[1:])
        if given not in (small, tuple(shape[1:])):
            raise ConfigError(
                f"image={path} is {given[1]} x {given[0]} pixels; the model takes {small[1]} x {small[0]}, or "
                f"{shape[2]} x {shape[1]}, which it makes smaller first"
            )
        image = model_image(path, "image", shape, given)[None]
        level = image.new_full((1, 1, 1, 1), self.sampled_noise)
        small_image = image if given == small else functional.avg_pool2d(image, self.factor)
        return self.enlarged(small_image, level, noise)

    def shown(self, told: Told) -> Tensor:
        return told.value[:, :-1] if self.noise else told.value
