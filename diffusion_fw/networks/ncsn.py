"""NCSN: the RefineNet whose normalizations depend on the noise level, by a table."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from diffusion_fw.networks.blocks.refinenet import RefineNet, instance_norm_plus
from diffusion_fw.registry import Range, Runtime, Size, register


class LevelNorm(nn.Module):
    """Instance normalization++ with a row of (gamma, alpha, beta) for each noise level: h (B, C, H, W), row (B,)."""

    def __init__(self, channels: int, num_levels: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_levels, 3 * channels)
        nn.init.normal_(self.table.weight[:, : 2 * channels], 1, 0.02)
        nn.init.zeros_(self.table.weight[:, 2 * channels :])

    def forward(self, h: Tensor, row: Tensor) -> Tensor:
        return instance_norm_plus(h, *self.table(row).chunk(3, dim=1))


@register("network", "ncsn")
class NCSN(RefineNet):
    """The noise-conditional score network of Song & Ermon 2019, appendix A: a RefineNet of instance normalization++.

    Two residual blocks for each factor of channel_mult, of which the last two are dilated and those between halve
    height and width. The label is an index from 0, the smallest noise, to num_levels - 1, the largest; it is rounded to
    the nearest row of the tables. With schedule=ncsn of as many steps, it is that of parameterization.label_of=time
    label_scale=num_levels label_shift=-1. The paper's network for MNIST has channels=64.

    network(x, label, cond): x (B, C, H, W), label (B,) -> (B, outputs C, H, W); it has no classes.

    Raises ConfigError for data other than images, fewer than three factors, and a size that is not halved exactly or
    down to one pixel.
    """

    def __init__(
        self,
        shape: Runtime[tuple[int, ...]],
        outputs: Runtime[int] = 1,
        channels: Annotated[int, Range(4, 1_000_000)] = 128,
        channel_mult: tuple[Size, ...] = (1, 2, 2, 2),
        num_levels: Annotated[int, Range(1, 10_000)] = 10,
        checkpointing: bool = False,
    ) -> None:
        def norm(width: int) -> nn.Module:
            return LevelNorm(width, num_levels)

        super().__init__("ncsn", shape, outputs, channels, channel_mult, norm, norm, nn.AvgPool2d, checkpointing)
        self.known_labels = (0.0, num_levels - 1.0)

    def forward(self, x: Tensor, label: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.refined(x, label.round().clamp(*self.known_labels).to(torch.int64))
