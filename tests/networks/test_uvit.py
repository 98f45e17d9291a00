from __future__ import annotations

import itertools

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.registry import ConfigError

SMALL = {"width": 32, "depth": 5, "num_heads": 2}


def uvit(shape=(3, 8, 8), **kwargs):
    torch.manual_seed(0)
    return dfw.build("network", "uvit", shape=shape, **{**SMALL, **kwargs})


def inputs(batch, shape=(3, 8, 8)):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *shape, generator=generator), 999 * torch.rand(batch, generator=generator)


def test_the_default_is_the_papers_for_cifar10():
    with torch.device("meta"):
        network = dfw.build("network", "uvit", shape=(3, 32, 32))
    assert sum(parameter.numel() for parameter in network.parameters()) == 44_255_328


@pytest.mark.parametrize("final_conv", [True, False])
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("shape", [(3, 8, 8), (4, 4, 12)], ids=str)
def test_keeps_the_shape_of_images(shape, outputs, final_conv):
    output = uvit(shape, outputs=outputs, final_conv=final_conv)(*inputs(2, shape))
    assert output.shape == (2, outputs * shape[0], *shape[1:])
    assert output.is_contiguous()


def test_a_deep_block_sees_the_output_of_its_shallow_counterpart():
    network = uvit()
    outputs, skips = [], []
    for block in network.shallow:
        block.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    for block in network.deep:
        block.register_forward_pre_hook(lambda _module, given: skips.append(given[1]))
    network(*inputs(1))
    assert len(outputs) == 2
    assert all(skip is output for skip, output in zip(skips, reversed(outputs), strict=True))


def test_time_and_class_are_tokens_before_the_patches():
    network = uvit(num_classes=3)
    seen = []
    network.shallow[0].register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    x, label = inputs(2)
    network(x, label, torch.tensor([0, 3]))
    network(x.flip(0), label, torch.tensor([0, 1]))
    network(x, label.flip(0), torch.tensor([0, 3]))
    changed = [[bool((other - seen[0])[0, token].any()) for token in (0, 1, 2)] for other in seen[1:]]
    assert seen[0].shape[1] == 2 + 16
    assert changed == [[False, False, True], [False, True, False]]
    assert (seen[1] - seen[0])[1, 0].any()


@pytest.mark.parametrize("null_class", [True, False])
def test_no_class_is_another_output(null_class):
    network = uvit(num_classes=2, null_class=null_class)
    x, label = inputs(1)
    outputs = [network(x, label, torch.tensor([cond])) for cond in range(3)]
    assert all((first - second).norm() > 1e-4 for first, second in itertools.combinations(outputs, 2))
    torch.testing.assert_close(network(x, label), outputs[2])
    assert len(network.classes.table.weight) == 2 + null_class


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((3, 9, 8), {}, r"network.patch=2.*9x8.*next size that fits is 10x8"),
        ((2,), {}, r"network=uvit.*\(C, H, W\).*\(2,\).*network=mlp"),
        ((3, 8, 8), {"depth": 12}, r"network.depth=12.*odd.*network.depth=11 or 13"),
        ((3, 8, 8), {"width": 33}, r"network.width=33.*even"),
        ((3, 8, 8), {"num_heads": 3}, r"network.num_heads=3.*network.width=32"),
        ((3, 8, 8), {"class_conditional": True}, r"network.class_conditional.*data"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_does_not_fit_is_refused_when_it_is_built(shape, changes, message, device):
    with torch.device(device), pytest.raises(ConfigError, match=message):
        dfw.build("network", "uvit", shape=shape, **{**SMALL, **changes})
