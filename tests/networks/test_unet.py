from __future__ import annotations

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.networks.blocks.embeddings import TimeEmbedding
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


RANKS = [
    ((2, 21), (1, 2, 2), [6]),
    ((1, 8, 8), (1, 2), [8]),
    ((2, 3, 5, 9), (1, 2, 2), [9, 3]),
]


@pytest.mark.parametrize("halve_time", [False, True])
@pytest.mark.parametrize("factorized_attention", [False, True])
@pytest.mark.parametrize(("shape", "mult", "attention"), RANKS)
def test_takes_sequences_images_and_videos_of_any_size(shape, mult, attention, factorized_attention, halve_time):
    keys = {"halve_time": halve_time, "factorized_attention": factorized_attention} if len(shape) == 4 else {}
    network = unet(shape, channel_mult=mult, attention_resolutions=attention, outputs=2, **keys)
    x, label = inputs(3, shape)
    together = network(x, label)
    assert together.shape == (3, 2 * shape[0], *shape[1:])
    alone = torch.cat([network(x[i : i + 1], label[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    together.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())


@pytest.mark.parametrize(("shape", "mult"), [rank[:2] for rank in RANKS])
def test_all_ranks_have_the_same_layers_whose_kernels_have_the_rank_of_the_data(shape, mult):
    """The network of images, and every kernel 3 x 3 replaced by 3 or 3 x 3 x 3: the names don't depend on the rank."""
    images = {key: value.shape for key, value in unet((shape[0], 32, 32), channel_mult=mult).state_dict().items()}
    found = unet(shape, channel_mult=mult).state_dict()
    assert list(found) == list(images)
    for key, weight in found.items():
        wanted = images[key]
        if len(wanted) == 4:
            wanted = (*wanted[:2], *[wanted[2]] * (len(shape) - 1))
        assert tuple(weight.shape) == tuple(wanted), key


def test_the_network_of_images_has_the_names_and_the_first_values_that_checkpoints_and_seeds_rely_on():
    torch.manual_seed(0)
    network = dfw.build("network", "unet", shape=(1, 8, 8), channels=8, channel_mult=[1, 2], attention_resolutions=[8])
    stage = {"block." + name for name in ("norm1", "conv1", "embedding", "norm2", "conv2")}
    attention = {"after." + name for name in ("norm", "qkv", "out")}
    names = {
        "enter", "norm", "leave", "downsample.0", "upsample.0",
        *("time." + name for name in dict.fromkeys(key.rsplit(".", 1)[0] for key in network.time.state_dict())),
        *("down.0.0." + name for name in stage | attention),
        *("down.1.0." + name for name in stage | {"block.skip"}),
        *("middle.0." + name for name in stage | attention),
        *("middle.1." + name for name in stage),
        *(f"up.0.{k}." + name for k in range(2) for name in stage | {"block.skip"}),
        *(f"up.1.{k}." + name for k in range(2) for name in stage | attention | {"block.skip"}),
    }  # fmt: skip
    assert {name.rsplit(".", 1)[0] for name in network.state_dict()} == names

    torch.manual_seed(0)
    TimeEmbedding(8, 32)
    enter = nn.Conv2d(1, 8, 3, padding=1)
    nn.Conv2d(8, 8, 3, padding=1), nn.Linear(32, 8), nn.Conv2d(8, 8, 3, padding=1)
    qkv = nn.Linear(8, 24)
    nn.Linear(8, 8)
    downsample = nn.Conv2d(8, 8, 3, stride=2, padding=1)
    for layer, own in (
        (network.enter, enter),
        (network.down[0][0].after.qkv, qkv),
        (network.downsample[0], downsample),
    ):
        assert torch.equal(layer.weight, own.weight)


def test_a_video_of_equal_frames_under_kernels_of_one_frame_is_an_image():
    """With the kernels of the network of images in the middle of T, and attention in each frame, frames are apart."""
    image = unet((1, 9, 9), attention_resolutions=[9])
    video = unet((1, 4, 9, 9), attention_resolutions=[9], factorized_attention=True)
    weights = image.state_dict()
    for key, weight in video.state_dict().items():
        if ".time." in key:
            weight.zero_()
        elif weight.ndim == 5:
            weight.zero_()[:, :, weight.shape[2] // 2] = weights[key]
        else:
            weight.copy_(weights[key])
    x, label = inputs(2, (1, 1, 9, 9))
    x = x.expand(-1, -1, 4, -1, -1)
    expected = image(x[:, :, 0], label).unsqueeze(2).expand_as(x)
    torch.testing.assert_close(video(x, label), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factorized_attention", [False, True])
def test_every_frame_depends_on_the_distant_ones(factorized_attention):
    network = unet((1, 16, 8, 8), factorized_attention=factorized_attention)
    x, label = inputs(1, (1, 16, 8, 8))
    x.requires_grad_()
    network(x, label)[:, :, 0].sum().backward()
    assert x.grad[:, :, -1].abs().max() > 1e-6


@pytest.mark.parametrize(("halve_time", "sides"), [(False, (5, 4, 3)), (True, (3, 4, 3))])
def test_levels_keep_time_unless_told_to_halve_it(halve_time, sides):
    network = unet((1, 5, 7, 6), halve_time=halve_time)
    seen = []
    network.middle[0].register_forward_hook(lambda layer, given, h: seen.append(tuple(h.shape[2:])))
    network(*inputs(1, (1, 5, 7, 6)))
    assert seen == [sides]


def test_a_long_volume_counts_its_time_among_the_sizes_if_it_is_halved():
    with pytest.raises(ConfigError, match="sizes 8, 4"):
        dfw.build("network", "unet", shape=(1, 16, 8, 8), **SMALL, attention_resolutions=[16])
    network = dfw.build("network", "unet", shape=(1, 16, 8, 8), **SMALL, attention_resolutions=[16], halve_time=True)
    assert not network(*inputs(1, (1, 16, 8, 8))).any()


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
        ({"shape": (2,)}, ["sequences", "images", "videos", r"\(2,\)", "network=mlp"]),
        ({"halve_time": True}, ["network.halve_time=true", "videos", r"\(1, 8, 8\)"]),
        ({"shape": (1, 9), "factorized_attention": True}, ["network.factorized_attention=true", r"\(1, 9\)"]),
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
