"""Rules by which images are resized to the size that a network takes; published numbers differ by them.

Each takes float images (B, C, H, W) in the model's scale [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate

Resize = Callable[[Tensor, tuple[int, int]], Tensor]
"""From images (B, C, H, W) and a size (H', W') to images (B, C, H', W')."""


def tf1_bilinear(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixel i of N' is read at i N / N' between floor and floor + 1: the upper left corners coincide.

    tf.image.resize_bilinear of TensorFlow 1 with align_corners=False, without half-pixel centres and without
    antialiasing, which is in the Inception graph of Heusel et al. 2017. torch's own bilinear rule reads at
    (i + 1/2) N / N' - 1/2 instead.
    """
    for dim, target in ((-1, size[1]), (-2, size[0])):
        images = _between(images, dim, target)
    return images


def _between(images: Tensor, dim: int, target: int) -> Tensor:
    """Linear interpolation of one dimension to ``target`` places i N / N'."""
    count = images.shape[dim]
    # As in the kernel, the scale is a float32.
    place = torch.arange(target, dtype=torch.float32, device=images.device) * (count / target)
    low = place.floor().long().clamp(max=count - 1)
    fraction = (place - low).view(-1, *[1] * (-1 - dim))
    start = images.index_select(dim, low)
    end = images.index_select(dim, (low + 1).clamp(max=count - 1))
    return start + (end - start) * fraction


def bicubic(images: Tensor, size: tuple[int, int]) -> Tensor:
    """PIL's bicubic rule on floats: antialiased, not rounded, clipped to the range of the pixels.

    The "clean" resizing of Parmar et al. 2022. The rule is linear but for the clip, so that the scale does not matter.
    """
    return interpolate(images, size=size, mode="bicubic", antialias=True).clamp(-1, 1)


def antialiased_bilinear(images: Tensor, size: tuple[int, int]) -> Tensor:
    """The bilinear rule with half-pixel centres, antialiased, as PIL's."""
    return interpolate(images, size=size, mode="bilinear", antialias=True)
