"""NCSNv2: the RefineNet that does not see the noise level."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from torch import Tensor, nn

from diffusion_fw.networks.blocks.refinenet import NoNorm, RefineNet, instance_norm_plus
from diffusion_fw.registry import Range, Runtime, Size, register


class InstanceNormPlus(nn.Module):
    """Instance normalization++ with one gamma, alpha and beta for each channel: h (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(1 + 0.02 * torch.randn(channels))
        self.alpha = nn.Parameter(1 + 0.02 * torch.randn(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, h: Tensor, row: Tensor | None) -> Tensor:
        return instance_norm_plus(h, self.gamma, self.alpha, self.beta)


@register("network", "ncsnv2")
class NCSNv2(RefineNet):
    """The score network of Song & Ermon 2020, appendix B: that of NCSN, the same at every noise level.

    The noise level enters by its division of the output, which is parameterization=score scale_by_sigma=true
    (technique 3): the network ignores the label. Two residual blocks for each factor of channel_mult, of which the last
    two are dilated and those between halve height and width. The paper's deeper networks have channel_mult
    (1, 2, 2, 4, 4) for 128 pixels and (1, 2, 2, 2, 4, 4) for 256.

    network(x, label, cond): x (B, C, H, W) -> (B, outputs C, H, W); it has no classes.

    Raises ConfigError for data other than images, fewer than three factors, and a size that is not halved exactly or
    down to one pixel.
    """

    uses_label: ClassVar[bool] = False

    def __init__(
        self,
        shape: Runtime[tuple[int, ...]],
        outputs: Runtime[int] = 1,
        channels: Annotated[int, Range(4, 1_000_000)] = 128,
        channel_mult: tuple[Size, ...] = (1, 2, 2, 2),
        checkpointing: bool = False,
    ) -> None:
        super().__init__(
            "ncsnv2", shape, outputs, channels, channel_mult, InstanceNormPlus, NoNorm, nn.MaxPool2d, checkpointing
        )

    def forward(self, x: Tensor, label: Tensor, cond: Tensor | None = None) -> Tensor:
        return self.refined(x, None)
