from __future__ import annotations

from typing import Any

import pytest
import torch

import diffusion_fw as dfw
from diffusion_fw.networks.network import is_classifier
from diffusion_fw.registry import ConfigError

SMALL: dict[str, Any] = {
    "channels": 8,
    "channel_mult": [1, 2],
    "num_res_blocks": 1,
    "attention_resolutions": [4],
    "num_head_channels": 8,
}


def classifier(shape=(1, 8, 8), seed=0, **kwargs):
    torch.manual_seed(seed)
    network = dfw.build("network", "adm_classifier", shape=shape, **{"num_classes": 5, **SMALL, **kwargs})
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval()


def inputs(batch, shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, *shape, generator=generator), 999 * torch.rand(batch, generator=generator)


@pytest.mark.parametrize("resblock_updown", [False, True])
@pytest.mark.parametrize(
    ("shape", "attention"), [((1, 8, 8), [4]), ((3, 4, 6), [3]), ((2, 8), [8]), ((1, 3, 4, 4), [])]
)
def test_gives_the_logits_of_each_example_alone(shape, attention, resblock_updown):
    network = classifier(shape, attention_resolutions=attention, resblock_updown=resblock_updown)
    x, label = inputs(3, shape)
    logits = network(x, label)
    assert is_classifier(network)
    assert logits.shape == (3, 5)
    torch.testing.assert_close(network(x[1:2], label[1:2])[0], logits[1], rtol=1e-4, atol=1e-4)
    assert (logits - network(x, label.flip(0))).abs().max() > 1e-3


def test_every_parameter_takes_part():
    network = classifier()
    network(*inputs(4, (1, 8, 8))).square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if not parameter.grad.any()] == []


def test_checkpointing_gives_the_same_gradients():
    x, label = inputs(2, (1, 8, 8))
    gradients = []
    for checkpointing in (False, True):
        network = classifier(checkpointing=checkpointing, dropout=0.2).train()
        torch.manual_seed(3)
        network(x, label).square().sum().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize(
    ("kwargs", "says"),
    [
        ({"num_classes": 0}, ["network=adm_classifier needs classes", "data="]),
        ({"shape": (2,)}, ["network=adm_classifier needs sequences"]),
        ({"shape": (1, 5, 6)}, ["network.channel_mult", "6x6"]),
        ({"num_head_channels": 5}, ["network.num_head_channels=5", "16 channels"]),
        ({"attention_resolutions": [3]}, ["network.attention_resolutions"]),
    ],
)
def test_what_cannot_be_built_says_which_key_to_change(kwargs, says):
    with pytest.raises(ConfigError) as caught:
        classifier(**kwargs)
    for part in says:
        assert caught.match(part)
