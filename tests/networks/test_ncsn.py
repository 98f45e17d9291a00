from __future__ import annotations

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.networks.blocks.refinenet import instance_norm_plus
from diffusion_fw.registry import ConfigError

NAMES = ["ncsn", "ncsnv2"]


def network(name, shape=(1, 8, 8), seed=0, **kwargs):
    torch.manual_seed(seed)
    return dfw.build("network", name, shape=shape, **{"channels": 4, **kwargs}).eval()


def inputs(batch, shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *shape, generator=generator), torch.arange(batch).float()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("shape", "mult"), [((1, 8, 8), (1, 2, 2, 2)), ((3, 6, 10), (1, 2, 2)), ((2, 28, 28), (1, 1, 1, 2, 2))]
)
def test_keeps_the_size_of_any_image_that_its_stages_halve(name, shape, mult):
    for outputs in (1, 2):
        output = network(name, shape, outputs=outputs, channel_mult=mult)(*inputs(2, shape))
        assert output.shape == (2, outputs * shape[0], *shape[1:])
        assert output.isfinite().all()


def test_instance_normalization_keeps_the_means_of_channels_relative_to_each_other():
    h = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(0))
    h = h - h.mean((2, 3), keepdim=True) + torch.arange(6.0)[:, None, None]
    one, none = torch.ones(6), torch.zeros(6)
    plain = instance_norm_plus(h, one, none, none)
    torch.testing.assert_close(plain.mean((2, 3)), torch.zeros(2, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(plain.var((2, 3), correction=0), torch.ones(2, 6), atol=1e-3, rtol=0)
    means = instance_norm_plus(h, one, one, none).mean((2, 3))
    wanted = (torch.arange(6.0) - 2.5) / 3.5**0.5
    torch.testing.assert_close(means, wanted.expand(2, 6), atol=1e-4, rtol=0)
    torch.testing.assert_close(instance_norm_plus(h, 2 * one, one, one).mean((2, 3)), 2 * means + 1)


def test_the_label_is_rounded_to_a_noise_level():
    made = network("ncsn", num_levels=4)
    x = inputs(1, (1, 8, 8))[0].expand(4, -1, -1, -1)
    rows = made(x, torch.arange(4.0))
    assert all((rows[i] - rows[j]).abs().max() > 1e-3 for i in range(4) for j in range(i))
    torch.testing.assert_close(made(x, torch.tensor([0.4, 1.4, 1.6, 3.49])), rows)
    assert made.known_labels == (0.0, 3.0)


def test_ncsnv2_does_not_see_the_noise_level():
    made = network("ncsnv2")
    x, label = inputs(2, (1, 8, 8))
    assert torch.equal(made(x, label), made(x, label + 100))
    assert made.uses_label is False


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_takes_part(name):
    made = network(name, (3, 8, 8), **({"num_levels": 3} if name == "ncsn" else {}))
    made(*inputs(3, (3, 8, 8))).square().sum().backward()
    assert [key for key, parameter in made.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize("name", NAMES)
def test_checkpointing_gives_the_same_gradients(name):
    gradients = []
    for checkpointing in (False, True):
        made = network(name, checkpointing=checkpointing).train()
        made(*inputs(2, (1, 8, 8))).square().mean().backward()
        gradients.append([parameter.grad for parameter in made.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_each_row_equals_the_same_row_alone_in_any_layout(name, layout):
    made = network(name, (3, 8, 8)).to(memory_format=layout)
    x, label = inputs(3, (3, 8, 8))
    together = made(x, label)
    assert together.is_contiguous()
    alone = torch.cat([made(x[i : i + 1], label[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"shape": (2,)}, ["needs images", r"\(2,\)", "network=mlp"]),
        ({"shape": (1, 7, 7)}, ["network.channel_mult", "7x7 can be halved 0 times", "3 factors or fewer", "8x8"]),
        ({"channel_mult": [1, 2]}, [r"network.channel_mult=\(1, 2\)", "at least three factors"]),
        ({"shape": (1, 2, 2)}, ["one pixel", "network.channel_mult"]),
        ({"channels": 2}, ["network.channels"]),
    ],
)
def test_what_cannot_be_built_says_which_key_to_change(name, kwargs, says):
    with pytest.raises(ConfigError) as caught:
        dfw.build("network", name, **{"shape": (1, 8, 8), "channels": 4, **kwargs})
    for part in says:
        assert caught.match(part)


def test_labels_beyond_the_noise_levels_are_refused_when_an_experiment_is_built(tiny, tmp_path):
    changes = {"network": "ncsn", "network.num_levels": 10, "schedule": "ncsn", "schedule.num_steps": 10}
    changes |= {"parameterization": "score", "sampler": "annealed_langevin", "sampler.steps": 10}
    with pytest.raises(ConfigError, match=r"time labels from -\d.*knows 0 to 9.*parameterization.label_scale=10 and"):
        build_experiment(tiny(changes), tmp_path)
    stated = {"label_of": "time", "label_scale": 10.0, "label_shift": -1.0}
    changes |= {f"parameterization.{key}": value for key, value in stated.items()}
    build_experiment(tiny(changes), tmp_path)
