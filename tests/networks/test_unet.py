from __future__ import annotations

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.networks.blocks.norms import group_norm
from diffusion_fw.networks.unet import FourierChannels, ResidualBlock
from diffusion_fw.registry import ConfigError

DDPM = {"channels": 128, "num_res_blocks": 2, "attention_resolutions": [16], "dropout": 0.1}
IMPROVED = {
    "channels": 128,
    "num_res_blocks": 3,
    "attention_resolutions": [16, 8],
    "num_heads": 4,
    "dropout": 0.3,
    "scale_shift_norm": True,
}
SMALL = {"channels": 16, "channel_mult": [1, 2]}


def unet(shape=(1, 8, 8), seed=0, **kwargs):
    """A U-Net with random weights everywhere, the layers that start at zero included."""
    torch.manual_seed(seed)
    network = dfw.build("network", "unet", shape=shape, **{**SMALL, **kwargs})
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return network.eval()


def inputs(batch, shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *shape, generator=generator), 999 * torch.rand(batch, generator=generator)


# Instantiated from the authors' code: ermongroup/ddim cifar10.yml, celeba.yml, bedroom.yml; openai/improved-diffusion
# with the flags of its README. The class-conditional model has one class more than the original's, the null class.
@pytest.mark.parametrize(
    ("size", "mult", "outputs", "settings", "parameters"),
    [
        (32, (1, 2, 2, 2), 1, DDPM, 35_746_307),
        (64, (1, 2, 2, 2, 4), 1, DDPM, 78_700_803),
        (256, (1, 1, 2, 2, 4, 4), 1, DDPM, 113_673_219),
        (32, (1, 2, 2, 2), 2, IMPROVED, 52_546_438),
        (32, (1, 2, 2, 2), 1, IMPROVED, 52_542_979),
        (64, (1, 2, 3, 4), 2, IMPROVED, 121_063_942),
        (256, (1, 1, 2, 2, 4, 4), 2, DDPM, 113_676_678),
        (
            64,
            (1, 2, 3, 4),
            2,
            {**IMPROVED, "channels": 192, "class_conditional": True, "num_classes": 1000},
            273_049_350 + 4 * 192,
        ),
    ],
)
def test_has_the_parameters_of_the_published_models(size, mult, outputs, settings, parameters):
    with torch.device("meta"):
        network = dfw.build("network", "unet", shape=(3, size, size), outputs=outputs, channel_mult=mult, **settings)
        output = network(torch.empty(2, 3, size, size), torch.empty(2))
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert output.shape == (2, 3 * outputs, size, size)


@pytest.mark.parametrize("channels", [128, 256, 384, 512, 640, 1024])
def test_the_norm_has_32_groups_at_the_papers_widths(channels):
    assert group_norm(channels).num_groups == 32
    assert group_norm(channels).eps == 1e-6


@pytest.mark.parametrize("channels", [4, 6, 16, 24, 33, 48, 64])
def test_the_norm_of_narrow_layers_keeps_several_channels_to_a_group(channels):
    groups = group_norm(channels).num_groups
    assert channels % groups == 0
    assert channels // groups >= 4


@pytest.mark.parametrize("scale_shift_norm", [False, True])
@pytest.mark.parametrize("channels", [4, 8, 32])
def test_narrow_blocks_do_not_normalise_the_embedding_away(channels, scale_shift_norm):
    torch.manual_seed(0)
    block = ResidualBlock(channels, channels, 16, 0.0, scale_shift_norm)
    nn.init.normal_(block.conv2.weight, std=0.1)
    h = torch.randn(1, channels, 8, 8)
    first, second = block(h, torch.randn(1, 16)), block(h, torch.randn(1, 16))
    assert (first - second).std() > 1e-2


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(
    ("shape", "mult"),
    [
        ((1, 8, 8), (1, 2)),
        ((1, 28, 28), (1, 2, 2)),
        ((1, 28, 28), (1, 1, 2, 2)),
        ((3, 5, 12), (1, 2, 2)),
        ((2, 1, 1), (1,)),
        ((3, 9, 9), (1, 1, 1, 1, 1)),
    ],
)
def test_keeps_the_size_of_any_image(shape, mult, outputs):
    x, label = inputs(2, shape)
    output = unet(shape, outputs=outputs, channel_mult=mult)(x, label)
    assert output.shape == (2, outputs * shape[0], *shape[1:])
    assert output.dtype == torch.float32
    assert output.isfinite().all()


def test_every_parameter_takes_part():
    network = unet((1, 8, 8), num_classes=3, class_conditional=True, attention_resolutions=[8, 4], num_heads=2)
    x, label = inputs(4, (1, 8, 8))
    network(x, label, torch.tensor([0, 1, 2, 3])).square().sum().backward()
    without = [name for name, parameter in network.named_parameters() if not parameter.grad.any()]
    assert without == []


def test_output_is_zero_before_training():
    network = dfw.build("network", "unet", shape=(1, 8, 8), **SMALL)
    assert not network(*inputs(2, (1, 8, 8))).any()


def test_output_depends_on_the_label():
    network = unet()
    x, _ = inputs(1, (1, 8, 8))
    x = x.expand(3, -1, -1, -1)
    indices = network(x, torch.tensor([0.0, 500.0, 501.0]))
    assert (indices[1] - indices[0]).std() > 1e-2
    assert (indices[2] - indices[1]).std() > 1e-3
    continuous = network(x, torch.tensor([-1.5, 0.0, 1.0]))
    assert (continuous[1:] - continuous[:-1]).flatten(1).std(dim=1).min() > 1e-2


def test_output_depends_on_the_class_and_none_is_the_null_class():
    network = unet(num_classes=3, class_conditional=True)
    x, label = inputs(1, (1, 8, 8))
    outputs = [network(x, label, torch.tensor([cond])) for cond in range(4)]
    assert all((first - second).std() > 1e-3 for i, first in enumerate(outputs) for second in outputs[:i])
    torch.testing.assert_close(network(x, label, None), outputs[3])


def test_without_class_conditioning_the_class_has_no_effect():
    network = unet(num_classes=3, class_conditional=False)
    x, label = inputs(2, (1, 8, 8))
    assert torch.equal(network(x, label, torch.tensor([0, 3])), network(x, label))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_each_row_equals_the_same_row_alone_in_any_layout(layout):
    network = unet((3, 8, 8), attention_resolutions=[8], num_heads=2)
    x, label = inputs(5, (3, 8, 8))
    together = network.to(memory_format=layout)(x, label)
    assert together.is_contiguous()
    alone = torch.cat([network(x[i : i + 1], label[i : i + 1]) for i in (4, 2, 0)])
    torch.testing.assert_close(together[[4, 2, 0]], alone, rtol=1e-4, atol=1e-4)


def test_checkpointing_gives_the_same_gradients():
    x, label = inputs(2, (1, 8, 8))
    gradients = []
    for checkpointing in (False, True):
        network = unet(checkpointing=checkpointing, dropout=0.2, attention_resolutions=[8]).train()
        torch.manual_seed(3)
        network(x, label).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_dropout_acts_in_training_alone():
    network = unet(dropout=0.5)
    x, label = inputs(2, (1, 8, 8))
    assert torch.equal(network(x, label), network(x, label))
    network.train()
    assert not torch.equal(network(x, label), network(x, label))


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"shape": (2,)}, ["images", r"\(2,\)", "network=mlp"]),
        ({"attention_resolutions": [16, 4]}, ["network.attention_resolutions", "no level has size 16", "8x8", "8, 4"]),
        ({"shape": (1, 28, 28), "channel_mult": [1] * 3, "attention_resolutions": [16]}, ["sizes 28, 14, 7"]),
        ({"channel_mult": [1] * 5}, ["network.channel_mult", "at most 4", "8, 4, 2, 1"]),
        ({"channel_mult": []}, ["network.channel_mult", "at least one"]),
        ({"num_heads": 3}, ["network.num_heads=3", "32 channels"]),
        ({"channels": 18, "attention_resolutions": [8], "num_heads": 4}, ["network.num_heads=4", "18 channels"]),
        ({"class_conditional": True}, ["network.class_conditional", "data"]),
        ({"dropout": 1.0}, ["network.dropout"]),
        ({"channels": 0}, ["network.channels"]),
    ],
)
def test_what_cannot_be_built_says_which_key_to_change(kwargs, says):
    with pytest.raises(ConfigError) as caught:
        dfw.build("network", "unet", **{"shape": (1, 8, 8), **SMALL, **kwargs})
    for part in says:
        assert caught.match(part)


@pytest.mark.parametrize("name", ["unet", "mlp"])
def test_a_network_says_whether_it_takes_classes(name):
    for told in (True, False):
        network = dfw.build("network", name, shape=(1, 8, 8), num_classes=3, class_conditional=told)
        assert network.class_conditional is told


def test_fourier_features_are_waves_of_the_input():
    """Kingma et al. 2021, appendix C: sin(2^n pi x) and cos(2^n pi x)."""
    x = torch.linspace(-1, 1, 2 * 3 * 4 * 4).view(2, 3, 4, 4)
    found = FourierChannels((7, 8))(x)
    assert found.shape == (2, 15, 4, 4)
    torch.testing.assert_close(found[:, :3], x)
    torch.testing.assert_close(found[:, 3:6], torch.sin(128 * torch.pi * x.double()).float(), rtol=0, atol=1e-4)
    torch.testing.assert_close(found[:, 12:], torch.cos(256 * torch.pi * x.double()).float(), rtol=0, atol=1e-4)


def test_in_bf16_a_network_sees_differences_of_a_tenth_of_a_pixel_by_its_fourier_features_alone():
    seen = {}
    for exponents in ((), (7, 8)):
        torch.manual_seed(0)
        network = dfw.build("network", "unet", shape=(1, 8, 8), channels=8, fourier_features=exponents)
        nn.init.normal_(network.leave.weight, std=0.1)
        # Of one sign, so that a bf16 of -1 does not tell them apart: its neighbours are 2^-8 and more away.
        noise = 0.0008 * torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            one, other = network(noise - 1 + 0.0001, torch.full((2,), 10.0))
        seen[exponents] = float((one - other).abs().max())
    assert seen[()] == 0
    assert seen[(7, 8)] > 0.01
