"""What networks of several pages do alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import diffusion_fw as dfw

NETWORKS: dict[str, dict[str, Any]] = {
    "uvit": {"width": 32, "depth": 5, "num_heads": 2},
    "hdit": {
        **{"widths": [16, 32], "depths": [1, 2], "attention": ["neighborhood", "global"], "kernel_size": 3, "patch": 1},
        **{"num_head_channels": 8, "mapping_width": 16, "mapping_depth": 1, "dropout": 0.0},
    },
    "k_diffusion_unet": {
        **{"channels": [8, 16], "depths": [1, 2], "self_attn_depths": [False, True], "mapping_out": 16, "dropout": 0.0}
    },
}


def built(name: str, **changed: Any) -> nn.Module:
    """A small network whose layers that start as zero have weights too."""
    torch.manual_seed(0)
    network: Any = dfw.build("network", name, shape=(3, 8, 8), **{**NETWORKS[name], **changed})
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, 8, 8, generator=generator), torch.randn(batch, generator=generator)


@pytest.mark.parametrize("name", NETWORKS)
def test_checkpointing_gives_the_same_gradients(name):
    def gradients(**changed):
        network = built(name, num_classes=3, dropout=0.2, **changed)
        torch.manual_seed(2)
        network(*inputs(2), torch.tensor([0, 3])).square().sum().backward()
        return [parameter.grad for parameter in network.parameters()]

    for first, second in zip(gradients(), gradients(checkpointing=True), strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("name", NETWORKS)
def test_embeds_the_label_in_float32_under_autocast(name):
    network = built(name).eval()
    x = inputs(1)[0].expand(2, -1, -1, -1)
    label = torch.tensor([998.0, 999.0])  # the same number in bf16
    exact = network(x, label)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(x, label)
    assert not torch.equal(output[0], output[1])
    assert (output.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("name", NETWORKS)
def test_all_memory_formats_give_the_same(name):
    network = built(name).eval().to(memory_format=torch.channels_last)
    x, label = inputs(2)
    output = network(x.to(memory_format=torch.channels_last), label)
    torch.testing.assert_close(output, network(x, label), atol=1e-5, rtol=1e-4)
    assert output.is_contiguous()
