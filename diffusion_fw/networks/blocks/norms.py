"""Normalization layers."""

from __future__ import annotations

from torch import nn


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with the paper's 32 groups; fewer in narrow layers, so that a group has at least 4 channels if C >= 4.

    With one channel per group the norm would remove what the time embedding adds to each channel.
    """
    most = max(1, min(32, channels // 4))
    groups = next(count for count in range(most, 0, -1) if channels % count == 0)
    return nn.GroupNorm(groups, channels, eps=1e-6)
