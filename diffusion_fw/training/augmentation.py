"""Augmentations: what training does to the clean examples of a batch before noise is added.

uniform_dequantization  x_0 of pixels p in 0 .. 255 becomes 2 (p + u) / 256 - 1, u uniform in [0, 1)
edm                     flips and geometric transformations, of which 9 labels tell the network

Sampling and held-out losses see none of them. Several act in their order.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from diffusion_fw.denoiser import Noise
from diffusion_fw.registry import ConfigError, Fraction, Runtime, register


class Augmentation(ABC):
    """A random change of clean examples, with numbers that tell the network which, if it needs to know."""

    labels: int = 0
    """How many numbers describe the change of one example; they are 0 for no change, as in sampling."""

    @abstractmethod
    def __call__(self, x0: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        """x_0 (B, *shape) -> the changed examples and labels (B, ``labels``), like x_0.

        All randomness comes from ``noise(like)``, which draws standard normal numbers of the shape and on the device of
        ``like`` (B, ...), a function of the seed, the step and the place of the example in the batch.
        """


def uniform(noise: Noise, like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1] of the shape and on the device of ``like``."""
    result: Tensor = torch.special.ndtr(noise(like))
    return result


@register("augmentation", "uniform_dequantization")
@dataclass(frozen=True)
class UniformDequantization(Augmentation):
    """x_0 = 2 (p + u) / 256 - 1 for pixels p in 0 .. 255 and u uniform in [0, 1).

    So the data have a density (Theis et al. 2016, section 3.1). Song & Ermon 2019 train so, and Song et al. 2021 for
    likelihoods. Raises ConfigError for data that are no 8-bit pixels.
    """

    pixels: Runtime[bool]

    def __post_init__(self) -> None:
        if not self.pixels:
            raise ConfigError(
                "augmentation=uniform_dequantization is for images of 8-bit pixels; choose [none] or other data=..."
            )

    def __call__(self, x0: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        pixels = (x0 + 1) * 127.5
        return (pixels + uniform(noise, x0)) / 128 - 1, x0.new_zeros(len(x0), 0)


SYM6 = (
    *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633),
    *(0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252),
    *(-0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
)
"""The low-pass filter of the symlet with 6 vanishing moments: orthogonal to its shifts by 2 (Daubechies 1992)."""
REACH = len(SYM6) // 4
"""Pixels beyond the image that its downsampling reads."""


@register("augmentation", "edm")
@dataclass(frozen=True)
class EDMAugmentation(Augmentation):
    """EDM's augmentation of images: x_0(G^-1 y) of a random affine G, and 9 labels for the network.

    Karras et al. 2022, appendix F.2 and table 6. Every image is mirrored with probability 1/2. Each of these happens
    with probability p (0: nothing changes), with n standard normal:

    - a flip of the rows, half of the time
    - scaling by 2^(0.2 n)
    - rotation by an angle uniform in (-pi, pi)
    - scaling by 2^(0.2 n) along one axis and its inverse along the other; half of the time the axis is random
    - a shift by 0.125 n of the image's size

    The image is extended by reflection and resampled at twice its resolution with the wavelet sym6. The paper has
    p = 0.12 for CIFAR-10 and 0.15 for FFHQ and AFHQ.

    The network must take the labels: network=hdit, or ddpmpp, ncsnpp or k_diffusion_unet with augment_dim=9. Raises
    ConfigError for data that are no images.
    """

    shape: Runtime[tuple[int, ...]]
    p: Fraction = 0.12

    labels = 9

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape[1:]) < 2:
            raise ConfigError(
                f"augmentation=edm is for images (C, H, W), and an example of the data=... has the shape {self.shape}"
            )

    def __call__(self, x0: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
        if self.p == 0:
            return x0, x0.new_zeros(len(x0), self.labels)
        # On the host, where the size of the resampled image has to be known.
        inverse, flips, labels = self.parameters(noise(torch.empty(len(x0), 14)))
        mirrored, upside_down = (flip.to(x0.device, non_blocking=True).view(-1, 1, 1, 1) for flip in flips.T)
        x0 = torch.where(mirrored, x0.flip(3), x0)
        x0 = torch.where(upside_down, x0.flip(2), x0)
        return self.resample(x0, inverse), labels.to(x0, non_blocking=True)

    def parameters(self, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """G^-1 (B, 3, 3) in pixels from the centre, flips (B, 2) and labels (B, 9) of normal numbers (B, 14)."""
        normal, (_, height, width) = draws.double(), self.shape
        chance = torch.special.ndtr(normal)
        flips = torch.stack([chance[:, 0] < 0.5, (chance[:, 1] < 0.5) & (chance[:, 2] < self.p)], dim=1)
        size = torch.where(chance[:, 4] < self.p, normal[:, 3], 0.0)
        turn = torch.where(chance[:, 6] < self.p, math.pi * (2 * chance[:, 5] - 1), 0.0)
        stretch = torch.where(chance[:, 9] < self.p, normal[:, 7], 0.0)
        axis = torch.where(chance[:, 10] < 0.5, math.pi * (2 * chance[:, 8] - 1), 0.0)
        shift = torch.where(chance[:, 13:] < self.p, normal[:, 11:13], 0.0)
        smaller, narrower = torch.exp2(-0.2 * size), torch.exp2(-0.2 * stretch)
        inverse = (
            diagonal(smaller, smaller)
            @ rotation(turn)
            @ (rotation(-axis) @ diagonal(narrower, 1 / narrower) @ rotation(axis))
            @ translation(-0.125 * shift * torch.tensor([width, height]))
        )
        turned = torch.stack([turn.cos() - 1, turn.sin()], dim=1)
        stretched = stretch[:, None] * torch.stack([axis.cos(), axis.sin()], dim=1)
        return inverse, flips, torch.cat([flips, size[:, None], turned, stretched, shift], dim=1)

    @cached_property
    def filters(self) -> Tensor:
        """sym6 as the kernel of a convolution of each channel."""
        return torch.tensor(SYM6).expand(self.shape[0], 1, -1)

    def resample(self, x0: Tensor, inverse: Tensor) -> Tensor:
        """x_0 at G^-1 y for every pixel y, with ``inverse`` = G^-1 (B, 3, 3) on the host."""
        channels, height, width = self.shape
        middle = torch.tensor([width - 1, height - 1]) / 2
        corners = torch.cat([middle * torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]]), torch.ones(4, 1)], dim=1)
        reached = (inverse[:, :2] @ corners.T.double()).abs().amax(dim=(0, 2)) - middle + 2 * REACH
        right, below = (int(item) for item in reached.ceil().clamp(min=0).minimum(2 * middle))
        x = functional.pad(x0, [right, right, below, below], mode="reflect")
        taps, filters = len(SYM6), self.filters.to(x0)
        x = functional.conv_transpose2d(
            x, filters[:, :, None], stride=(1, 2), padding=(0, taps // 2 - 1), groups=channels
        )
        x = functional.conv_transpose2d(
            x, filters[..., None], stride=(2, 1), padding=(taps // 2 - 1, 0), groups=channels
        )
        # A sample of twice the resolution lies a quarter of a pixel off the centre of its half of a pixel.
        half = torch.full((1, 2), 0.5, dtype=torch.float64)
        two = torch.tensor([2.0], dtype=torch.float64)
        finer = translation(-half) @ diagonal(two, two) @ inverse @ diagonal(1 / two, 1 / two) @ translation(half)
        wanted = [len(x0), channels, 2 * (height + 2 * REACH), 2 * (width + 2 * REACH)]
        ends = torch.tensor([[2 / size] for size in (x.shape[3], x.shape[2], wanted[3], wanted[2])]).double()
        normalized = diagonal(ends[0], ends[1]) @ finer @ diagonal(1 / ends[2], 1 / ends[3])
        grid = functional.affine_grid(normalized[:, :2].to(x), wanted, align_corners=False)
        x = functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        x = functional.conv2d(x, filters[:, :, None], stride=(1, 2), padding=(0, taps // 2 - 1), groups=channels)
        x = functional.conv2d(x, filters[..., None], stride=(2, 1), padding=(taps // 2 - 1, 0), groups=channels)
        return x[:, :, REACH:-REACH, REACH:-REACH].contiguous()


def rotation(angle: Tensor) -> Tensor:
    """(B,) -> (B, 3, 3): (x, y) is turned by ``angle``."""
    cosine, sine, zero, one = angle.cos(), angle.sin(), torch.zeros_like(angle), torch.ones_like(angle)
    return torch.stack([cosine, -sine, zero, sine, cosine, zero, zero, zero, one], dim=1).view(-1, 3, 3)


def diagonal(x: Tensor, y: Tensor) -> Tensor:
    """(B,), (B,) -> (B, 3, 3): (x, y) is scaled."""
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], dim=1))


def translation(by: Tensor) -> Tensor:
    """(B, 2) -> (B, 3, 3): (x, y) is moved."""
    result = torch.eye(3, dtype=by.dtype).repeat(len(by), 1, 1)
    result[:, :2, 2] = by
    return result
