"""What the frames of a video show, and how much they change from each to the next."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from diffusion_fw.data.dataset import to_model, usual_features
from diffusion_fw.metrics.features.digits import Digits
from diffusion_fw.metrics.features.extractor import FeatureExtractor
from diffusion_fw.registry import ConfigError, Runtime, register

COARSE, COARSER = 8, 4
"""The largest side of averaged frames."""


@register("features", "clips")
class Clips(FeatureExtractor):
    """phi(x) = (mean_t p_t, mean_t |p_(t+1) - p_t|), with p_t frame t area-averaged to at most 8x8, in [-1, 1].

    For videos of any kind, without weights: 2 C min(H, 8) min(W, 8) features. The second half is 0 for still clips, and
    large for frames in a wrong order. Raises ConfigError for data that are no videos (C, T, H, W), T >= 2.
    """

    name = "clips"
    settings = "area 8"

    def __init__(self, shape: Runtime[tuple[int, ...]]):
        super().__init__()
        require_clips("clips", shape)
        channels, _, height, width = shape
        self.size = (min(height, COARSE), min(width, COARSE))
        self.num_features = 2 * channels * self.size[0] * self.size[1]
        self.freeze()

    def forward(self, examples: Tensor) -> Tensor:
        frames = averaged(examples, self.size)
        return torch.cat([frames.mean(1), changes(frames)], dim=1)


@register("features", "moving_digits")
class MovingDigits(FeatureExtractor):
    """phi(x) = (mean_t d_t, mean_t p_t, mean_t |p_(t+1) - p_t|): what the digit looks like, where it is, how it moves.

    d_t is the last hidden layer of the classifier of features=digits (64), on frame t in its own size, averaged over
    positions, so that it doesn't depend on the place of the digit. p_t is frame t area-averaged to 4x4. So there are
    64 + 16 + 16 features. The last are 0 for still clips and large for frames in a wrong order, which the others don't
    see. Raises ConfigError for data that are no videos (1, T, H, W), T >= 2, of at least 8x8 pixels.
    """

    name = "moving_digits"
    settings = "area 4"

    def __init__(self, shape: Runtime[tuple[int, ...]]):
        super().__init__()
        require_clips("moving_digits", shape)
        if shape[0] != 1 or min(shape[2:]) < COARSE:
            raise ConfigError(
                f"these features need clips (1, T, H, W) of at least {COARSE}x{COARSE} pixels, but an example of "
                f"data=... has the shape {tuple(shape)}; choose features=clips instead of features=moving_digits"
            )
        self.digits = Digits((1, COARSE, COARSE)).classifier
        self.num_features = self.digits.num_features + 2 * COARSER**2
        self.freeze()

    def forward(self, examples: Tensor) -> Tensor:
        shown = self.digits.features(to_model(examples).transpose(1, 2).flatten(0, 1))
        places = averaged(examples, (COARSER, COARSER))
        return torch.cat([shown.unflatten(0, (len(examples), -1)).mean(1), places.mean(1), changes(places)], dim=1)


def require_clips(features: str, shape: tuple[int, ...]) -> None:
    """Raise ConfigError unless ``shape`` is that of a video with several frames."""
    if len(shape) != 4 or shape[1] < 2:
        raise ConfigError(
            f"these features need videos (C, T, H, W), T >= 2, but an example of data=... has the shape "
            f"{tuple(shape)}; choose features={usual_features(shape)} instead of features={features}"
        )


def averaged(clips: Tensor, size: tuple[int, int]) -> Tensor:
    """Clips (B, C, T, H, W) by the means of areas of their frames, ``size`` of them: float32 (B, T, features)."""
    frames = adaptive_avg_pool2d(to_model(clips).transpose(1, 2).flatten(0, 1), size)
    result: Tensor = frames.flatten(1).unflatten(0, (len(clips), -1))
    return result


def changes(frames: Tensor) -> Tensor:
    """mean_t |p_(t+1) - p_t| of p (B, T, features): (B, features)."""
    return frames.diff(dim=1).abs().mean(1)
