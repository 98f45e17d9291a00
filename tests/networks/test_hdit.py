from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.networks.blocks.hourglass import AxialRotations
from diffusion_fw.networks.blocks.regions import Everything, Neighborhoods, Windows
from diffusion_fw.registry import ConfigError

SMALL = {
    **{"widths": [16, 32], "depths": [1, 2], "attention": ["neighborhood", "global"], "kernel_size": 3, "patch": 1},
    **{"num_head_channels": 8, "mapping_width": 16, "mapping_depth": 1, "dropout": 0.0},
}


def hdit(shape=(3, 8, 8), **kwargs):
    """A small network whose layers that start as zero have weights too."""
    torch.manual_seed(0)
    network = dfw.build("network", "hdit", shape=shape, **{**SMALL, **kwargs})
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


def inputs(batch, shape=(3, 8, 8)):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *shape, generator=generator), torch.randn(batch, generator=generator)


def test_the_default_is_that_of_cifar10():
    with torch.device("meta"):
        network = dfw.build("network", "hdit", shape=(3, 32, 32), num_classes=10)
    assert sum(parameter.numel() for parameter in network.parameters()) == 20_981_809


def test_starts_at_zero():
    network = dfw.build("network", "hdit", shape=(3, 8, 8), **SMALL)
    assert not network(*inputs(2)).any()
    h, embedding = torch.randn(1, 4, 4, 32), torch.randn(1, 16)
    assert torch.equal(network.down[1](h, embedding, False), h)


@pytest.mark.parametrize("kind", ["global", "neighborhood", "shifted-window", "none"])
@pytest.mark.parametrize(("shape", "patch", "outputs"), [((1, 8, 16), 1, 2), ((3, 24, 16), 2, 1)], ids=str)
def test_keeps_the_shape_of_images(kind, shape, patch, outputs):
    output = hdit(shape, attention=[kind, kind], window_size=2, patch=patch, outputs=outputs)(*inputs(2, shape))
    assert output.shape == (2, outputs * shape[0], *shape[1:])
    assert output.is_contiguous()


def heads(count, grid, features=4):
    """Query, key and value."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(3, 2, count, grid[0] * grid[1], features, generator=generator)


def test_a_neighborhood_is_the_nearest_tokens_within_the_image():
    grid, size = (11, 18), 5
    query, key, value = heads(2, grid)
    mask = torch.zeros(grid[0], grid[1], *grid, dtype=torch.bool)
    for i, j in itertools.product(*map(range, grid)):
        top, left = (min(max(at - 2, 0), side - size) for at, side in zip((i, j), grid, strict=True))
        mask[i, j, top : top + size, left : left + size] = True
    wanted = nn.functional.scaled_dot_product_attention(query, key, value, mask.flatten(2).flatten(0, 1), scale=1.0)
    torch.testing.assert_close(Neighborhoods(grid, size)(query, key, value), wanted)


def test_a_neighborhood_of_the_whole_image_is_all_tokens():
    given = heads(1, (5, 5))
    torch.testing.assert_close(Neighborhoods((5, 5), 5)(*given), Everything()(*given))
    torch.testing.assert_close(Windows((5, 5), 5, 0)(*given), Everything()(*given))


@pytest.mark.parametrize("shift", [0, 2])
def test_windows_do_not_reach_over_the_edge(shift):
    grid, size = (8, 12), 4
    query, key, value = heads(2, grid)
    at = torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij"), dim=-1).flatten(0, 1)
    # The window of a place along an axis, and whether it has come around.
    window = torch.div(at + shift, size, rounding_mode="floor")
    same = (window[:, None] == window[None]).all(dim=-1)
    wanted = nn.functional.scaled_dot_product_attention(query, key, value, same, scale=1.0)
    torch.testing.assert_close(Windows(grid, size, shift)(query, key, value), wanted)


def test_products_of_rotated_heads_depend_on_the_distance():
    rotate = AxialRotations((4, 6), 2, 16)
    one = torch.ones(1, 2, 24, 16)
    turned = rotate(one).unflatten(2, (4, 6))
    products = [(turned[:, :, 0, 0] * turned[:, :, 1, 2]).sum(-1), (turned[:, :, 2, 3] * turned[:, :, 3, 5]).sum(-1)]
    torch.testing.assert_close(*products)
    assert torch.equal(turned[..., 8:], torch.ones(1, 2, 4, 6, 8))
    torch.testing.assert_close(turned.norm(dim=-1), torch.full((1, 2, 4, 6), 4.0))


def test_every_second_block_has_shifted_windows():
    network = hdit(attention=["shifted-window", "global"], depths=[3, 1], window_size=4)
    used = []
    for region in network.down[0].regions:
        region.register_forward_hook(lambda module, _given, _output: used.append(module.mask is not None))
    network(*inputs(1))
    assert used == [False, True, False, True, False, True]


def test_the_class_and_the_label_matter():
    network = hdit(num_classes=3)
    x, label = inputs(1)
    outputs = [network(x, label, torch.tensor([cond])) for cond in range(4)]
    assert all((first - second).norm() > 1e-4 for first, second in itertools.combinations(outputs, 2))
    torch.testing.assert_close(network(x, label), outputs[3])
    assert not torch.equal(network(x, label), network(x, label + 1))


def test_dropout_may_differ_between_levels():
    network = hdit(dropout=[0.0, 0.5])
    rates = [[item.p for item in level.modules() if isinstance(item, nn.Dropout)] for level in network.down]
    assert rates == [[], [0.5] * 4]
    x, label = inputs(1)
    assert not torch.equal(network(x, label), network(x, label))
    network.eval()
    assert torch.equal(network(x, label), network(x, label))


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((3, 9, 8), {}, r"multiples of 2, from 3 on.*9x8.*next size that fits is 10x8"),
        ((3, 8, 8), {"kernel_size": 9}, r"multiples of 2, from 9 on.*next size that fits is 10x10"),
        ((3, 8, 12), {"attention": ["global", "shifted-window"]}, r"multiples of 16,.*8x12.*next.* is 16x16"),
        ((2,), {}, r"network=hdit.*\(C, H, W\).*\(2,\).*network=mlp"),
        ((3, 8, 8), {"depths": [1]}, r"network.widths has 2, network.depths has 1, network.attention has 2"),
        ((3, 8, 8), {"dropout": [0.1]}, r"network.dropout has 1 levels"),
        ((3, 8, 8), {"widths": [], "depths": [], "attention": []}, r"network.widths has 0"),
        ((3, 8, 8), {"widths": [16, 36]}, r"network.widths.*36.*network.num_head_channels=8"),
        ((3, 8, 8), {"num_head_channels": 4}, r"network.num_head_channels=4.*multiple of 8"),
        ((3, 8, 8), {"mapping_width": 15}, r"network.mapping_width=15.*even"),
        ((3, 8, 8), {"kernel_size": 4}, r"network.kernel_size=4.*odd"),
        ((3, 8, 8), {"class_conditional": True}, r"network.class_conditional.*data"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_does_not_fit_is_refused_when_it_is_built(shape, changes, message, device):
    with torch.device(device), pytest.raises(ConfigError, match=message):
        dfw.build("network", "hdit", shape=shape, **{**SMALL, **changes})
