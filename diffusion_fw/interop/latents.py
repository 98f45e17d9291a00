"""Which examples are images, and the range of the values of those that are latents of an autoencoder."""

from __future__ import annotations

PIXEL_CHANNELS = (1, 3)
DEVIATIONS = 10.0


def are_images(shape: tuple[int, ...]) -> bool:
    """Whether examples can be 8-bit images: (C, H, W) with the channels of grey or colour."""
    return len(shape) == 3 and shape[0] in PIXEL_CHANNELS


def value_range(channels: int, deviation: float = 1.0) -> tuple[float, float]:
    """(-1, 1) for images; ten standard deviations for latents, which have no bounds, so that guidance=clip is idle."""
    return (-1.0, 1.0) if channels in PIXEL_CHANNELS else (-DEVIATIONS * deviation, DEVIATIONS * deviation)
