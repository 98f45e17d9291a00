from __future__ import annotations

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.networks.blocks.resampling import BOX, FIR, Downsample, DownsampleConv, Upsample, UpsampleConv
from diffusion_fw.registry import ConfigError

SMALL = {"channels": 8, "channel_mult": [1, 2], "num_res_blocks": 1, "attention_resolutions": [4]}
SKIPS = {"progressive_input": "input_skip", "progressive_output": "output_skip"}
KINDS = [
    ("ncsnpp", {}),
    ("ncsnpp", SKIPS),
    ("ncsnpp", {"progressive_output": "residual", "embedding": "positional"}),
    ("ddpmpp", {}),
]


def network(name="ncsnpp", shape=(1, 8, 8), seed=0, **kwargs):
    """A network with random weights everywhere, the layers that start almost at zero included."""
    torch.manual_seed(seed)
    made = dfw.build("network", name, shape=shape, **{**SMALL, **kwargs})
    for parameter in made.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return made.eval()


def inputs(batch, shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *shape, generator=generator), 4 * torch.rand(batch, generator=generator) - 2


def test_the_fourier_frequencies_are_kept_but_not_trained():
    made = network(channels=128)
    kept = made.state_dict()["embedding.waves.frequencies"]
    assert kept.shape == (128,)
    assert 12 < kept.std() < 20
    assert "embedding.waves.frequencies" not in dict(made.named_parameters())


@pytest.mark.parametrize("taps", [FIR, BOX])
def test_resampling_keeps_a_constant_and_halves_or_doubles(taps):
    x = torch.ones(1, 2, 8, 6)
    down, up = Downsample(taps)(x), Upsample(taps)(x)
    assert down.shape == (1, 2, 4, 3)
    assert up.shape == (1, 2, 16, 12)
    torch.testing.assert_close(down[..., 1:-1, 1:-1], torch.ones(1, 2, 2, 1))
    torch.testing.assert_close(up[..., 1:-1, 1:-1], torch.ones(1, 2, 14, 10))


def test_without_a_filter_resampling_is_a_mean_and_a_repetition():
    x = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(Downsample(BOX)(x), nn.functional.avg_pool2d(x, 2))
    torch.testing.assert_close(Upsample(BOX)(x), nn.functional.interpolate(x, scale_factor=2.0, mode="nearest"))


@pytest.mark.parametrize("taps", [FIR, BOX])
def test_a_resampling_convolution_is_resampling_and_a_convolution_away_from_the_border(taps):
    x = torch.randn(1, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    up = UpsampleConv(2, 3, taps)
    plain = nn.functional.conv2d(Upsample(taps)(x), up.conv.weight, up.conv.bias, padding=1)
    torch.testing.assert_close(up(x)[..., 2:-2, 2:-2], plain[..., 2:-2, 2:-2])
    down = DownsampleConv(2, 3, taps)
    assert down(x).shape == (1, 3, 6, 6)
    # A convolution before the filter gives the same: both are linear, and shift alike.
    before = nn.functional.conv2d(x, down.conv.weight, padding=1 + len(taps) // 2 - 1)
    after = nn.functional.conv2d(before, down.kernel.expand(3, 1, -1, -1), stride=2, groups=3)
    torch.testing.assert_close(down(x), after + down.conv.bias[:, None, None])


@pytest.mark.parametrize(("name", "kwargs"), KINDS)
def test_output_is_almost_zero_before_training(name, kwargs):
    made = dfw.build("network", name, shape=(1, 8, 8), **SMALL, **kwargs).eval()
    assert 0 < made(*inputs(2, (1, 8, 8))).abs().max() < 1e-3


@pytest.mark.parametrize(("name", "kwargs"), KINDS)
@pytest.mark.parametrize(("shape", "mult"), [((1, 8, 8), (1, 2)), ((3, 8, 20), (1, 2, 1)), ((2, 1, 1), (1,))])
def test_keeps_the_size_of_any_image_that_its_levels_halve(name, kwargs, shape, mult):
    x, label = inputs(2, shape)
    attention = [max(shape[1:])]
    for outputs in (1, 2):
        made = network(name, shape, outputs=outputs, channel_mult=mult, attention_resolutions=attention, **kwargs)
        output = made(x, label)
        assert output.shape == (2, outputs * shape[0], *shape[1:])
        assert output.isfinite().all()


@pytest.mark.parametrize(("name", "kwargs"), KINDS)
def test_every_parameter_takes_part(name, kwargs):
    made = network(name, num_classes=3, **kwargs)
    made(*inputs(4, (1, 8, 8)), torch.tensor([0, 1, 2, 3])).square().sum().backward()
    without = [key for key, parameter in made.named_parameters() if not parameter.grad.any()]
    assert without == []


def test_the_weights_of_augmentation_labels_have_no_effect_on_an_example_as_it_is():
    made = network(augment_dim=9)
    x, label = inputs(2, (1, 8, 8))
    before = made(x, label)
    nn.init.normal_(made.embedding.augmentation.weight)
    assert torch.equal(made(x, label), before)
    labels = torch.zeros(2, 9)
    labels[1, 4] = 1
    told = made(x, label, augmentation=labels)
    torch.testing.assert_close(told[0], before[0])
    assert not torch.allclose(told[1], before[1])


def test_no_class_is_the_bias_of_the_classes():
    made = network(num_classes=3)
    x, label = inputs(2, (1, 8, 8))
    torch.testing.assert_close(made(x, label, torch.tensor([3, 3])), made(x, label))
    assert not torch.allclose(made(x, label, torch.tensor([3, 1]))[1], made(x, label)[1])


def test_checkpointing_gives_the_same_gradients():
    gradients = []
    for checkpointing in (False, True):
        made = network(checkpointing=checkpointing, dropout=0.2).train()
        torch.manual_seed(3)
        made(*inputs(2, (1, 8, 8))).square().mean().backward()
        gradients.append([parameter.grad for parameter in made.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("name", ["ncsnpp", "ddpmpp"])
def test_labels_stay_float32_under_autocast(name):
    made = network(name)
    label = torch.tensor([500.0, 501.0])
    exact = made.embedding(label, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made.embedding(label, None), exact)
    assert exact.dtype == torch.float32


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_each_row_equals_the_same_row_alone_in_any_layout(layout):
    made = network(shape=(3, 8, 8)).to(memory_format=layout)
    x, label = inputs(3, (3, 8, 8))
    together = made(x, label)
    assert together.is_contiguous()
    alone = torch.cat([made(x[i : i + 1], label[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"shape": (2,)}, ["network=ncsnpp needs images", r"\(2,\)", "network=mlp"]),
        (
            {"shape": (1, 28, 28), "channel_mult": [1, 2, 2, 2]},
            ["network.channel_mult", "4 levels divide sides that are multiples of 8", "at most 3 factors", "32x32"],
        ),
        ({"shape": (1, 7, 9)}, ["the next size that fits is 8x10", "at most 1 factor", "8x10"]),
        ({"channel_mult": []}, ["network.channel_mult", "at least one"]),
        ({"attention_resolutions": [16, 4]}, ["network.attention_resolutions", "no level has size 16", "sizes 8, 4"]),
        ({"class_conditional": True}, ["network.class_conditional", "data"]),
        ({"embedding": "sine"}, ["network.embedding", "fourier, positional"]),
        ({"dropout": 1.0}, ["network.dropout"]),
        ({"augment_dim": -1}, ["network.augment_dim"]),
    ],
)
def test_what_cannot_be_built_says_which_key_to_change(kwargs, says):
    with pytest.raises(ConfigError) as caught:
        dfw.build("network", "ncsnpp", **{"shape": (1, 8, 8), **SMALL, **kwargs})
    for part in says:
        assert caught.match(part)


def test_ddpmpp_is_a_setting_of_ncsnpp():
    first = network("ddpmpp", num_classes=3)
    second = network(num_classes=3, embedding="positional", fir=False, progressive_input="none")
    assert first.state_dict().keys() == second.state_dict().keys()
    x, label = inputs(2, (1, 8, 8))
    assert torch.equal(first(x, label), second(x, label))
