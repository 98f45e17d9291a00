from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.interop.formats.ermongroup_ddim import ErmonGroupDDIM
from diffusion_fw.interop.pairs import Pair, same, stacked, to_ours
from diffusion_fw.registry import ConfigError

SMALL: dict[str, Any] = {"channels": 32, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [4]}


def ddpm_unet(shape=(3, 8, 8), seed=0, **kwargs):
    torch.manual_seed(seed)
    return dfw.build("network", "ddpm_unet", shape=shape, **{**SMALL, **kwargs})


def inputs(batch, shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *shape, generator=generator), 999 * torch.rand(batch, generator=generator)


def test_starts_as_in_the_authors_code():
    """Variance scaling of scale 1, or 1e-10, over the mean of inputs and outputs, uniform (nn.py, default_init)."""
    network = ddpm_unet()
    for name, layer in network.named_modules():
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            continue
        last = name.split(".")[-1]
        for weight in layer.weight.chunk(3 if last == "qkv" else 1):
            area = weight[0, 0].numel() if weight.ndim > 2 else 1
            scale = 1e-10 if last in ("conv2", "out", "leave") else 1.0
            most = math.sqrt(3 * scale / (area * sum(weight.shape[:2]) / 2))
            assert 0.9 * most < weight.abs().max().item() <= most * (1 + 1e-6), name
        assert not layer.bias.any()
    x, label = inputs(2, (3, 8, 8))
    assert 0 < network.eval()(x, label).abs().max() < 1e-4


@pytest.mark.parametrize("settings", [{}, {"channel_mult": [1, 2, 1], "attention_resolutions": [8, 2]}])
def test_gives_the_output_of_diffusers(settings):
    """UNet2DModel in the layout of google/ddpm-cifar10-32, with the same random weights."""
    network = ddpm_unet(**settings).eval()
    chosen = {**SMALL, **settings}
    attention = [8 >> i in chosen["attention_resolutions"] for i in range(len(chosen["channel_mult"]))]
    theirs = UNet2DModel(
        sample_size=8,
        in_channels=3,
        out_channels=3,
        block_out_channels=[32 * mult for mult in chosen["channel_mult"]],
        layers_per_block=1,
        down_block_types=["AttnDownBlock2D" if has else "DownBlock2D" for has in attention],
        up_block_types=["AttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)],
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        norm_num_groups=32,
    ).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    network.load_state_dict(to_ours(diffusers_pairs(network), theirs.state_dict(), network, "diffusers"))
    x, label = inputs(2, (3, 8, 8))
    with torch.no_grad():
        wanted = theirs(x, label).sample
        assert (network(x, label) - wanted).abs().max() < 1e-5 * wanted.abs().max()


NAMES = {
    "embedding": "time_emb_proj",
    "skip": "conv_shortcut",
    "norm": "group_norm",
    "out": "to_out.0",
}


def diffusers_pairs(network) -> list[Pair]:
    """The names of diffusers for our weights, as in the converted google/ddpm-* checkpoints."""
    outer = {
        "time.first": "time_embedding.linear_1",
        "time.second": "time_embedding.linear_2",
        "enter": "conv_in",
        "norm": "conv_norm_out",
        "leave": "conv_out",
    }
    places = {f"middle.{i}": ("mid_block", i) for i in range(2)}
    for way, block in (("down", "down_blocks"), ("up", "up_blocks")):
        for i, level in enumerate(getattr(network, way).levels):
            places |= {f"{way}.levels.{i}.{j}": (f"{block}.{i}", j) for j in range(len(level))}
    found = []
    for key in network.state_dict():
        layer, _, kind = key.rpartition(".")
        parts = key.split(".")
        if layer in outer:
            found.append(same(key, f"{outer[layer]}.{kind}"))
        elif parts[1].endswith("sample"):
            block, kept = ("down_blocks", "downsamplers") if parts[0] == "down" else ("up_blocks", "upsamplers")
            found.append(same(key, f"{block}.{parts[2]}.{kept}.0.conv.{kind}"))
        else:
            part, name = parts[-3:-1]
            block, j = places[".".join(parts[:-3])]
            kinds = f"{block}.{'resnets' if part == 'block' else 'attentions'}.{j}"
            if name == "qkv":
                found.append(stacked(key, [f"{kinds}.to_{letter}.{kind}" for letter in "qkv"]))
            else:
                found.append(same(key, f"{kinds}.{NAMES.get(name, name)}.{kind}"))
    return found


def test_takes_no_classes_and_has_no_other_keys():
    network = ddpm_unet()
    assert network.class_conditional is False
    assert {pair.ours for pair in ErmonGroupDDIM().pairs(network)} == network.state_dict().keys()


@pytest.mark.parametrize(("shape", "outputs"), [((1, 8, 8), 2), ((3, 4, 12), 1)])
def test_keeps_the_size_of_images_that_the_levels_divide(shape, outputs):
    network = ddpm_unet(shape, outputs=outputs, attention_resolutions=[])
    x, label = inputs(2, shape)
    output = network(x, label)
    assert output.shape == (2, outputs * shape[0], *shape[1:])
    assert output.is_contiguous()
    assert network.to(memory_format=torch.channels_last)(x, label).is_contiguous()


def test_checkpointing_gives_the_same_gradients():
    x, label = inputs(2, (3, 8, 8))
    gradients = []
    for checkpointing in (False, True):
        network = ddpm_unet(checkpointing=checkpointing, dropout=0.2).train()
        torch.manual_seed(3)
        network(x, label).sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"shape": (2,)}, ["network=ddpm_unet needs images", r"\(2,\)", "network=mlp"]),
        ({"shape": (3, 2, 8, 8)}, ["images"]),
        ({"attention_resolutions": [16]}, ["network.attention_resolutions", "no level has size 16"]),
        (
            {"shape": (1, 28, 28), "channel_mult": [1] * 4, "attention_resolutions": []},
            ["network.channel_mult", "multiples of 8", "32x32", "at most 3"],
        ),
        ({"dropout": 1.0}, ["network.dropout"]),
    ],
)
def test_what_cannot_be_built_says_which_key_to_change(kwargs, says):
    with pytest.raises(ConfigError) as caught:
        ddpm_unet(**kwargs)
    for part in says:
        assert caught.match(part)
