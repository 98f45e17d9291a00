from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.networks.blocks.ddpm_layers import Attention, SpaceTimeAttention, group_norm
from diffusion_fw.registry import ConfigError

SMALL: dict[str, Any] = {
    "channels": 8,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [4],
    "num_heads": 2,
    "dropout": 0.0,
}


def adm_unet(shape=(1, 8, 8), seed=0, **kwargs):
    """A network with random weights everywhere, the layers that start at zero included."""
    torch.manual_seed(seed)
    network = dfw.build("network", "adm_unet", shape=shape, **{**SMALL, **kwargs})
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return network.eval()


def inputs(batch, shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *shape, generator=generator), 999 * torch.rand(batch, generator=generator)


@pytest.mark.parametrize("channels", [32, 64, 96, 128, 1024])
def test_the_norm_has_32_groups_where_these_divide_the_channels(channels):
    assert group_norm(channels, 1e-5).num_groups == 32


@pytest.mark.parametrize(("channels", "groups"), [(2, 1), (4, 1), (8, 2), (48, 12), (100, 25), (200, 25)])
def test_the_norm_of_other_widths_keeps_four_channels_to_a_group(channels, groups):
    assert group_norm(channels, 1e-5).num_groups == groups


BETWEEN_LEVELS: list[dict[str, Any]] = [{}, {"resblock_updown": True}, {"conv_resample": False}]


@pytest.mark.parametrize("resampling", BETWEEN_LEVELS)
@pytest.mark.parametrize(
    ("shape", "mult", "attention"),
    [
        ((1, 8, 8), (1, 2), [8, 4]),
        ((3, 4, 12), (1, 2, 2), [6]),
        ((2, 1, 1), (1,), []),
        ((2, 12), (1, 1, 2), [3]),
        ((2, 3, 4, 8), (1, 2), [4]),
        ((1, 1, 4, 4), (0.5, 1), []),
    ],
)
def test_keeps_sequences_images_and_videos_of_any_size_that_the_levels_divide(shape, mult, attention, resampling):
    network = adm_unet(shape, outputs=2, channel_mult=mult, attention_resolutions=attention, **resampling)
    x, label = inputs(2, shape)
    output = network(x, label)
    assert output.shape == (2, 2 * shape[0], *shape[1:])
    assert output.isfinite().all()


def test_levels_without_convolutions_between_them_are_averaged_and_repeated():
    network = adm_unet((1, 8, 8), conv_resample=False)
    h, embedding = inputs(2, (3, 8, 8))
    coarse = network.down.downsample[0](h, embedding)
    torch.testing.assert_close(coarse, h.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5)))
    assert torch.equal(network.up.upsample[0](coarse, embedding)[..., 1::2, ::2], coarse)


def test_a_video_is_halved_in_height_and_width_alone():
    network = adm_unet((1, 3, 8, 8), resblock_updown=True)
    lengths: list[torch.Size] = []
    network.middle[0].register_forward_hook(lambda module, given, output: lengths.append(output.shape))
    network(*inputs(1, (1, 3, 8, 8)))
    assert lengths[0][2:] == (3, 4, 4)


def test_every_parameter_takes_part():
    network = adm_unet(num_classes=3, resblock_updown=True)
    x, label = inputs(4, (1, 8, 8))
    network(x, label, torch.tensor([0, 1, 2, 3])).square().sum().backward()
    without = [name for name, parameter in network.named_parameters() if not parameter.grad.any()]
    assert without == []


def test_output_is_zero_before_training():
    network = dfw.build("network", "adm_unet", shape=(1, 8, 8), **SMALL)
    assert not network(*inputs(2, (1, 8, 8))).any()


def test_without_a_class_nothing_is_added():
    network = adm_unet(num_classes=3)
    unconditional = adm_unet(num_classes=3, class_conditional=False)
    unconditional.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("classes")})
    assert network.class_conditional
    assert not unconditional.class_conditional
    x, label = inputs(2, (1, 8, 8))
    plain = unconditional(x, label)
    torch.testing.assert_close(network(x, label, None), plain)
    mixed = network(x, label, torch.tensor([3, 1]))
    torch.testing.assert_close(mixed[0], plain[0])
    assert (mixed[1] - plain[1]).std() > 1e-3


def test_the_two_orders_of_attention_are_one_function_of_permuted_weights():
    """Rows (head, q|k|v, d) against rows (q|k|v, head, d)."""
    network, other = adm_unet(), adm_unet(use_new_attention_order=True)
    x, label = inputs(2, (1, 8, 8))
    weights = network.state_dict()
    for key in [key for key in weights if ".qkv." in key]:
        weights[key] = weights[key].unflatten(0, (2, 3, -1)).transpose(0, 1).flatten(0, 2)
    other.load_state_dict(weights)
    torch.testing.assert_close(other(x, label), network(x, label))


def test_heads_of_a_width_are_heads_of_a_number():
    by_number, by_width = adm_unet(num_heads=4), adm_unet(num_head_channels=4)
    x, label = inputs(2, (1, 8, 8))
    assert torch.equal(by_number(x, label), by_width(x, label))


VIDEO = (1, 3, 4, 4)
FACTORIZED: dict[str, Any] = {"factorized_attention": True, "attention_resolutions": [2]}


def dependence(layer):
    """[t, y, x] of a video: whether the output of a layer in frame 1 at (0, 2) depends on the input there."""
    h = torch.randn(1, 8, 3, 2, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(h)[0, :, 1, 0, 2].sin().sum(), h)
    return gradient[0].abs().amax(0) > 0


def space_time(zero=None):
    """Attention in space and time, without one of the two."""
    torch.manual_seed(0)
    layer = SpaceTimeAttention(8, 2, eps=1e-5)
    for out in (layer.out, layer.time.out):
        nn.init.normal_(out.weight)
    if zero is not None:
        nn.init.zeros_(layer.get_submodule(zero).weight)
    return layer


def test_space_attention_keeps_to_its_frame_and_time_attention_to_its_place():
    frame, place = torch.zeros(3, 2, 4, dtype=torch.bool), torch.zeros(3, 2, 4, dtype=torch.bool)
    frame[1], place[:, 0, 2] = True, True
    assert torch.equal(dependence(space_time(zero="time.out")), frame)
    assert torch.equal(dependence(space_time(zero="out")), place)
    assert dependence(space_time()).all()


def test_the_two_attentions_are_those_of_images_and_of_sequences():
    h = torch.randn(2, 8, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    layer = space_time()
    images = Attention(8, 2, eps=1e-5)
    images.load_state_dict({k: v for k, v in layer.state_dict().items() if not k.startswith("time.")})
    h_space = torch.stack([images(frame) for frame in h.unbind(2)], dim=2)
    wanted = torch.stack([layer.time(place) for place in h_space.flatten(3).unbind(3)], dim=3)
    torch.testing.assert_close(layer(h), wanted.unflatten(3, (2, 4)))


def test_factorized_attention_costs_less(monkeypatch):
    costs: list[int] = []

    def counting(query, key, value, exact=nn.functional.scaled_dot_product_attention, **options):
        costs.append(query.shape[0] * query.shape[2] * key.shape[2])
        return exact(query, key, value, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", counting)
    h = torch.zeros(1, 8, 3, 2, 4)
    for layer in (Attention(8, 2, eps=1e-5), space_time()):
        layer(h)
    assert costs == [(3 * 2 * 4) ** 2, 3 * (2 * 4) ** 2, 2 * 4 * 3**2]


def test_factorized_attention_adds_weights_and_changes_no_name():
    joint, factorized = adm_unet(VIDEO, attention_resolutions=[2]), adm_unet(VIDEO, **FACTORIZED)
    added = factorized.state_dict().keys() - joint.state_dict().keys()
    assert joint.state_dict().keys() < factorized.state_dict().keys()
    assert added
    assert all(".attention.time." in key for key in added)


def test_a_network_with_factorized_attention_is_zero_before_training_and_trains_everywhere():
    untrained = dfw.build("network", "adm_unet", shape=VIDEO, **{**SMALL, **FACTORIZED})
    assert not untrained(*inputs(2, VIDEO)).any()
    network = adm_unet(VIDEO, **FACTORIZED)
    network(*inputs(2, VIDEO)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("shape", "kwargs"),
    [((1, 8, 8), {}), ((1, 8, 8), {"resblock_updown": True}), (VIDEO, FACTORIZED)],
)
def test_checkpointing_gives_the_same_gradients(shape, kwargs):
    x, label = inputs(2, shape)
    gradients = []
    for checkpointing in (False, True):
        network = adm_unet(shape, checkpointing=checkpointing, dropout=0.2, **kwargs).train()
        torch.manual_seed(3)
        network(x, label).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_output_is_contiguous_in_any_layout(layout):
    x, label = inputs(3, (3, 8, 8))
    network = adm_unet((3, 8, 8), resblock_updown=True)
    wanted = network(x, label)
    found = network.to(memory_format=layout)(x, label)
    assert found.is_contiguous()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_labels_stay_apart_under_autocast():
    network = adm_unet()
    x, _ = inputs(1, (1, 8, 8))
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = network.time(torch.arange(900.0, 1000.0))
        assert network(x, torch.tensor([999.0])).isfinite().all()
    assert embeddings.dtype == torch.float32
    assert len(embeddings.unique(dim=0)) == 100


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"shape": (2,)}, ["sequences", "images", "videos", r"\(2,\)", "network=mlp"]),
        ({"attention_resolutions": [16, 4]}, ["network.attention_resolutions", "no level has size 16", "8x8", "8, 4"]),
        (
            {"shape": (1, 28, 28), "channel_mult": [1] * 4, "attention_resolutions": []},
            ["network.channel_mult", "multiples of 8", "28x28", "32x32", "at most 3 factors"],
        ),
        ({"shape": (1, 5, 6)}, ["multiples of 2", "5x6", "6x6", "at most 1 factor$"]),
        ({"channel_mult": [1] * 5}, ["multiples of 16", "16x16", "at most 4"]),
        ({"channel_mult": []}, ["network.channel_mult", "at least one"]),
        ({"channel_mult": [0.1, 1]}, ["network.channel_mult", "no channel", "network.channels=8"]),
        ({"num_heads": 3}, ["network.num_heads=3", "16 channels"]),
        ({"resblock_updown": True, "conv_resample": False}, ["network.resblock_updown=true", "conv_resample=false"]),
        ({"num_head_channels": 5}, ["network.num_head_channels=5", "16 channels"]),
        ({"factorized_attention": True}, ["network.factorized_attention", "videos", r"\(1, 8, 8\)"]),
        ({"shape": (2, 8), "factorized_attention": True}, ["network.factorized_attention", r"\(2, 8\)"]),
        ({"class_conditional": True}, ["network.class_conditional", "data"]),
        ({"dropout": 1.0}, ["network.dropout"]),
        ({"channels": 0}, ["network.channels"]),
    ],
)
def test_what_cannot_be_built_says_which_key_to_change(kwargs, says):
    with pytest.raises(ConfigError) as caught:
        dfw.build("network", "adm_unet", **{"shape": (1, 8, 8), **SMALL, **kwargs})
    for part in says:
        assert caught.match(part)
