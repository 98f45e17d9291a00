"""The range of the values of examples that are latents of an autoencoder."""

from __future__ import annotations

PIXEL_CHANNELS = (1, 3)
DEVIATIONS = 10.0


def value_range(channels: int, deviation: float = 1.0) -> tuple[float, float]:
    """(-1, 1) for images; ten standard deviations for latents, which have no bounds, so that guidance=clip is idle."""
    return (-1.0, 1.0) if channels in PIXEL_CHANNELS else (-DEVIATIONS * deviation, DEVIATIONS * deviation)
