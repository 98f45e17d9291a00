"""Forcing weights to their magnitude outside of compiled graphs. A module of its own: it imports torch's compiler."""

from __future__ import annotations

import torch
from torch import nn

from diffusion_fw.networks.blocks.magnitude import Weight


@torch.compiler.disable  # type: ignore[untyped-decorator]
def force_weights(network: nn.Module) -> None:
    """Force the weights of every layer, in place."""
    for layer in network.modules():
        if isinstance(layer, Weight):
            layer.force()
