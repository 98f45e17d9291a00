"""What networks make of a Condition: each example's own, only what is told of it, and nothing where nothing is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.condition import CLASS, Condition, Told, blank, joined, told_nothing

SHAPE, COUNT = (2, 8, 8), 5
SIZES = {"vectors": {"angle": 3}, "sequences": {"text": (6, 4), "more": (2, 5)}, "images": {"gray": 1, "mask": 2}}
UNET = {"channels": 8, "channel_mult": [1, 2], "attention_resolutions": [4]}
NETWORKS = {
    "unet": ("unet", SHAPE, SIZES, UNET),
    "unet of sequences": ("unet", (1, 16), {**SIZES, "images": {}}, {**UNET, "attention_resolutions": [8]}),
    "unet, text alone": ("unet", SHAPE, {"sequences": {"text": (6, 4)}}, {**UNET, "scale_shift_norm": True}),
    "mlp": ("mlp", (3,), {"vectors": {"angle": 3, "size": 1}}, {"width": 16, "depth": 2}),
}


def build(name, num_classes=3, **more):
    """A network with random weights everywhere, those that start at zero included, and what is said of its inputs."""
    kind, shape, sizes, settings = NETWORKS[name]
    torch.manual_seed(0)
    conditional = num_classes > 0
    network = dfw.build(
        "network", kind, shape=shape, num_classes=num_classes, class_conditional=conditional,
        **sizes, **settings, **more,
    )  # fmt: skip
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.5)
    return network.eval(), shape, sizes


def inputs(shape, sizes, num_classes=3, seed=1):
    """x, labels of times, and a Condition of which every example is told something, sequences of several lengths."""
    source = torch.Generator().manual_seed(seed)
    zeros = blank(shape, COUNT, num_classes=num_classes, **sizes)
    parts = {}
    for name, part in zeros.parts.items():
        if name == CLASS:
            parts[name] = Told.all(torch.arange(COUNT) % num_classes)
            continue
        told = part.told
        if told.ndim == 2:
            told = torch.arange(told.shape[1]) < torch.tensor([3, 1, 2, 6, 4])[:, None].clamp(max=told.shape[1])
        parts[name] = Told(torch.randn(part.value.shape, generator=source), told)
    x = torch.randn(COUNT, *shape, generator=source)
    return x, 999 * torch.rand(COUNT, generator=source), Condition(parts)


def distance(first, second):
    return (first - second).flatten(1).norm(dim=1)


@pytest.fixture(params=NETWORKS)
def example(request):
    network, shape, sizes = build(request.param)
    return network, *inputs(shape, sizes)


def names(cond):
    return list(cond.parts)


@torch.no_grad()
def test_the_output_depends_on_each_thing_that_is_told(example):
    network, x, label, cond = example
    whole = network(x, label, cond)
    for name in names(cond):
        # Of the labels: the next class.
        value = cond.parts[name].value
        other = (value + 1) % 3 if name == CLASS else value + 1
        changed = cond | {name: Told(other, cond.parts[name].told)}
        assert (distance(network(x, label, changed), whole) > 1e-3).all(), name
        assert (distance(network(x, label, cond.without([name])), whole) > 1e-3).all(), name


@torch.no_grad()
def test_told_nothing_is_no_condition_at_all(example):
    network, x, label, cond = example
    none = network(x, label, told_nothing(cond, 3))
    torch.testing.assert_close(none, network(x, label, None), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(none, network(x, label), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_is_not_told_has_no_influence_whatever_its_value(example):
    network, x, label, cond = example
    for name in names(cond):
        if name == CLASS:
            continue
        part = cond.parts[name]
        wild = torch.where(part.told.view(*part.told.shape, *[1] * (part.value.ndim - part.told.ndim)), 0.0, 1e3)
        hidden = cond | {name: Told(part.value + wild, part.told)}
        torch.testing.assert_close(network(x, label, hidden), network(x, label, cond), rtol=1e-4, atol=1e-4)
        untold = cond.without([name])
        filled = untold | {name: Told(torch.full_like(part.value, 1e3), untold.parts[name].told)}
        torch.testing.assert_close(network(x, label, filled), network(x, label, untold), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_condition_that_is_left_out_of_the_batch_is_one_that_is_not_told(example):
    network, x, label, cond = example
    for name in names(cond):
        fewer = Condition({other: part for other, part in cond.parts.items() if other != name})
        if fewer.parts:
            torch.testing.assert_close(
                network(x, label, fewer), network(x, label, cond.without([name])), rtol=1e-4, atol=1e-4
            )


@torch.no_grad()
def test_an_example_has_the_same_output_alone_and_among_any_others(example):
    """Also where the others are told nothing, or longer sequences."""
    network, x, label, cond = example
    whole = network(x, label, cond)
    alone = torch.cat([network(x[i : i + 1], label[i : i + 1], cond[i : i + 1]) for i in range(COUNT)])
    torch.testing.assert_close(alone, whole, rtol=1e-4, atol=1e-4)
    doubled = network(torch.cat([x, x]), torch.cat([label, label]), joined(cond, told_nothing(cond, 3)))
    torch.testing.assert_close(doubled[:COUNT], whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(doubled[COUNT:], network(x, label), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_order_of_the_words_counts():
    network, shape, sizes = build("unet, text alone")
    x, label, cond = inputs(shape, sizes)
    part = cond.parts["text"]
    swapped = part.value.clone()
    swapped[:, [0, 1]] = part.value[:, [1, 0]]
    moved = distance(network(x, label, cond | {"text": Told(swapped, part.told)}), network(x, label, cond))
    # The second example has one word.
    assert (moved[part.told.sum(1) > 1] > 1e-3).all()


def test_every_parameter_takes_part_in_a_batch_of_which_half_is_told(example):
    network, x, label, cond = example
    half = told_nothing(cond, 3)
    network(torch.cat([x, x]), torch.cat([label, label]), joined(cond, half)).square().mean().backward()
    unused = [name for name, parameter in network.named_parameters() if not parameter.grad.any()]
    assert unused == []


@pytest.mark.parametrize("name", ["unet", "mlp"])
def test_without_conditions_the_weights_and_their_values_are_those_of_before(name):
    kind, shape, _, settings = NETWORKS[name]
    torch.manual_seed(0)
    plain = dfw.build("network", kind, shape=shape, num_classes=3, class_conditional=True, **settings)
    assert not [key for key in plain.state_dict() if key.startswith("told")]
    torch.manual_seed(0)
    empty = dfw.build(
        "network", kind, shape=shape, num_classes=3, class_conditional=True, **settings, vectors={}
    )  # fmt: skip
    for key, value in plain.state_dict().items():
        assert torch.equal(value, empty.state_dict()[key]), key


@torch.no_grad()
def test_a_class_alone_is_the_same_as_labels():
    network, shape, sizes = build("mlp")
    x, label, cond = inputs(shape, sizes)
    labels = cond.labels(3)
    torch.testing.assert_close(
        network(x, label, Condition({CLASS: cond.parts[CLASS]})), network(x, label, labels), rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_images_that_are_told_are_channels_beside_x_and_zero_otherwise():
    network, shape, sizes = build("unet")
    seen = []
    network.enter.register_forward_hook(lambda layer, given, output: seen.append(given[0]))
    x, label, cond = inputs(shape, sizes)
    network(x, label, cond | {"gray": cond.parts["gray"].where(torch.tensor([True, False, True, True, False]))})
    (given,) = seen
    assert torch.equal(given[:, :2], x)
    told = given[:, 2:3]
    assert torch.equal(told[[0, 2, 3]], cond.parts["gray"].value[[0, 2, 3]])
    assert not told[[1, 4]].any()
    assert torch.equal(given[:, 3:], cond.parts["mask"].value)


def test_cross_attention_attends_to_what_is_there_with_the_weights_of_the_softmax():
    """h + W_o sum_i softmax_i(q k_i / sqrt(d)) v_i, by hand, over the tokens that are there."""
    from diffusion_fw.networks.blocks.conditions import CrossAttention

    torch.manual_seed(0)
    layer = CrossAttention(8, num_heads=2, features=6)
    nn.init.normal_(layer.out.weight)
    h, tokens = torch.randn(2, 8, 3, 3), torch.randn(2, 4, 6)
    there = torch.tensor([[True, True, False, False], [True, False, True, True]])
    with torch.no_grad():
        found = layer(h, (tokens, there))
        for i in range(2):
            q = layer.query(layer.norm(h)[i].flatten(1).T)
            k, v = layer.key_value(tokens[i][there[i]]).chunk(2, dim=1)
            mixed = torch.cat(
                [(q[:, d] @ k[:, d].T / 2).softmax(1) @ v[:, d] for d in (slice(0, 4), slice(4, 8))], dim=1
            )
            wanted = h[i] + layer.out(mixed).T.unflatten(1, (3, 3))
            torch.testing.assert_close(found[i], wanted, rtol=1e-4, atol=1e-5)
