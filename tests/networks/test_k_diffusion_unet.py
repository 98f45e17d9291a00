from __future__ import annotations

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.networks.blocks.resampling import FIR, ReflectedDownsample, ReflectedUpsample
from diffusion_fw.registry import ConfigError

SMALL = {"channels": [8, 16], "depths": [1, 2], "self_attn_depths": [False, True], "mapping_out": 16, "dropout": 0.0}


def unet(shape=(3, 8, 8), **kwargs):
    """A small network whose layers that start as zero have weights too."""
    torch.manual_seed(0)
    network = dfw.build("network", "k_diffusion_unet", shape=shape, **{**SMALL, **kwargs})
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network


def inputs(batch, shape=(3, 8, 8)):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *shape, generator=generator), torch.randn(batch, generator=generator)


def test_the_default_is_that_of_cifar10():
    with torch.device("meta"):
        network = dfw.build("network", "k_diffusion_unet", shape=(3, 32, 32))
    assert sum(parameter.numel() for parameter in network.parameters()) == 66_121_731 - 9 * 256


def test_starts_at_zero():
    network = dfw.build("network", "k_diffusion_unet", shape=(3, 8, 8), **SMALL)
    assert not network(*inputs(2)).any()
    block = network.down[1][0]
    h, embedding = torch.randn(1, 8, 4, 4), torch.randn(1, 16)
    torch.testing.assert_close(block(h, embedding), block.block.skip(h))


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(("shape", "patch"), [((3, 8, 8), 1), ((1, 4, 12), 1), ((3, 8, 12), 2)], ids=str)
def test_keeps_the_shape_of_images(shape, patch, outputs):
    output = unet(shape, outputs=outputs, patch=patch, has_variance=True)(*inputs(2, shape))
    assert output.shape == (2, outputs * shape[0], *shape[1:])
    assert output.is_contiguous()


def test_the_variance_head_is_the_mean_of_a_channel_of_its_own():
    network = unet(has_variance=True)
    x, label = inputs(3)
    before = network(x, label)
    with torch.no_grad():
        network.leave.bias[-1] += 2
    assert torch.equal(network(x, label), before)
    assert network.log_variance(x, label).shape == (3,)
    with torch.no_grad():
        network.leave.weight[-1] = 0
    torch.testing.assert_close(network.log_variance(x, label), network.leave.bias[-1].expand(3))


def test_levels_that_are_left_out_stay_as_they_are():
    network = unet(skip_stages=1)
    network(*inputs(2)).square().sum().backward()
    parts = {
        name: [item.grad is not None for item in network.get_submodule(name).parameters()] for name in ("down", "up")
    }
    for name, found in parts.items():
        skipped = len(list(network.get_submodule(f"{name}.0").parameters()))
        assert found == [False] * skipped + [True] * (len(found) - skipped)
    whole = unet()
    assert network.down.state_dict().keys() == whole.down.state_dict().keys()
    assert not any(item.requires_grad for item in network.down[0].parameters())


def test_the_class_and_the_label_matter_and_no_class_is_zero():
    network = unet(num_classes=3, augment_dim=2)
    x, label = inputs(1)
    outputs = [network(x, label, torch.tensor([cond])) for cond in range(4)]
    assert len({round(output.sum().item(), 5) for output in outputs}) == 4
    torch.testing.assert_close(network(x, label), outputs[3])
    with torch.no_grad():
        network.mapping.conditions.linear.weight.zero_()
    assert torch.equal(network(x, label), network(x, label, torch.tensor([1])))
    assert not torch.equal(network(x, label), network(x, label + 1))


def test_augmentation_labels_have_weights_and_are_zero():
    x, label = inputs(2)
    network = unet(augment_dim=9)
    before = network(x, label)
    assert network.mapping.conditions.linear.weight.shape == (16, 9)
    with torch.no_grad():
        network.mapping.conditions.linear.weight.zero_()
    assert torch.equal(network(x, label), before)


@pytest.mark.parametrize("options", [{}, {"num_classes": 3}, {"num_classes": 3, "class_conditional": False}])
def test_an_example_is_described_by_its_own_augmentation_labels(options):
    """W [a, onehot(cond)] of k-diffusion: the first columns are of the augmentation."""
    network = unet(augment_dim=2, **options)
    x, label = inputs(2)
    told = torch.tensor([[0.5, -1.0], [0.0, 0.0]])
    none, some = network(x, label), network(x, label, augmentation=told)
    assert not torch.allclose(some[0], none[0])
    torch.testing.assert_close(some[1], none[1])
    conditions = network.mapping.conditions
    weight, embedding = conditions.linear.weight, torch.zeros(2, 16)
    torch.testing.assert_close(conditions(embedding, None, told), told @ weight[:, :2].T)


def test_dropout_is_for_training_only():
    network = unet(dropout=0.5)
    x, label = inputs(2)
    first, second = network(x, label), network(x, label)
    assert not torch.equal(first, second)
    network.eval()
    assert torch.equal(network(x, label), network(x, label))


def test_resampling_keeps_what_is_flat_up_to_the_edges():
    x = torch.full((1, 2, 4, 6), 3.0)
    torch.testing.assert_close(ReflectedDownsample(FIR)(x), torch.full((1, 2, 2, 3), 3.0))
    torch.testing.assert_close(ReflectedUpsample(FIR)(x), torch.full((1, 2, 8, 12), 3.0))


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((3, 9, 8), {}, r"multiples of 2, from 4 on.*9x8.*next size that fits is 10x8"),
        ((3, 2, 8), {}, r"next size that fits is 4x8"),
        ((3, 8, 8), {"patch": 3, "skip_stages": 1}, r"network.patch=3.*multiples of 3, from 3 on.*9x9"),
        ((2,), {}, r"network=k_diffusion_unet.*\(C, H, W\).*\(2,\).*network=mlp"),
        ((3, 8, 8), {"depths": [1]}, r"channels, network.depths and network.self_attn_depths have 2, 1 and 2"),
        ((3, 8, 8), {"channels": [], "depths": [], "self_attn_depths": []}, r"have 0, 0 and 0"),
        ((3, 8, 8), {"skip_stages": 2}, r"network.skip_stages=2.*less than the 2 levels"),
        ((3, 8, 8), {"channels": [8, 100]}, r"network.channels.*100 channels has 3 groups.*multiples of 64"),
        ((3, 8, 8), {"channels": [8, 224]}, r"network.channels.*224 channels has 3 heads"),
        ((3, 8, 8), {"mapping_out": 15}, r"network.mapping_out=15.*even"),
        ((3, 8, 8), {"class_conditional": True}, r"network.class_conditional.*data"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_does_not_fit_is_refused_when_it_is_built(shape, changes, message, device):
    with torch.device(device), pytest.raises(ConfigError, match=message):
        dfw.build("network", "k_diffusion_unet", shape=shape, **{**SMALL, **changes})
