from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.networks.blocks.patches import from_patches, to_patches
from diffusion_fw.networks.blocks.positions import AddedPositions, RotaryPositions
from diffusion_fw.registry import ConfigError

SMALL = {"width": 32, "depth": 2, "num_heads": 2}
OPTIONS = {"positions": "rope", "num_registers": 3, "norm": "rms", "mlp": "swiglu", "qk_norm": True}


def dit(shape=(3, 8, 8), **kwargs):
    """A small DiT whose layers that start at zero have random weights too."""
    torch.manual_seed(0)
    network = dfw.build("network", "dit", shape=shape, **{**SMALL, **kwargs})
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return network


def inputs(batch, shape=(3, 8, 8)):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *shape, generator=generator), 999 * torch.rand(batch, generator=generator)


def test_the_default_is_the_smallest_published_size():
    with torch.device("meta"):
        network = dfw.build("network", "dit", shape=(4, 32, 32), num_classes=1000, outputs=2)
    assert sum(parameter.numel() for parameter in network.parameters()) == 32_865_056


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["defaults", "options"])
def test_starts_with_blocks_that_do_nothing_and_an_output_of_zero(options):
    torch.manual_seed(0)
    network = dfw.build("network", "dit", shape=(3, 8, 8), num_classes=3, **SMALL, **options)
    h, condition = torch.randn(2, 16 + network.num_registers, 32), torch.randn(2, 32)
    for block in network.blocks:
        assert torch.equal(block(h, condition, network.dropout, network.rotate), h)
    assert not network(*inputs(2), torch.tensor([0, 3])).any()


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["defaults", "options"])
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("shape", [(3, 8, 8), (4, 4, 12), (1, 10), (2, 4, 6, 8)], ids=str)
def test_keeps_the_shape_of_sequences_images_and_video(shape, outputs, options):
    output = dit(shape, outputs=outputs, **options)(*inputs(2, shape))
    assert output.shape == (2, outputs * shape[0], *shape[1:])
    assert output.is_contiguous()


@pytest.mark.parametrize("shape", [(3, 12), (3, 6, 12), (2, 3, 6, 9)], ids=str)
def test_patches_are_undone(shape):
    x = torch.randn(2, *shape)
    tokens = to_patches(x, 3)
    assert torch.equal(from_patches(tokens, 3, tuple(size // 3 for size in shape[1:])), x)
    # The last token is the last patch.
    last = x[(slice(None), slice(None)) + (slice(-3, None),) * (len(shape) - 1)]
    assert torch.equal(tokens[:, -1], last.flatten(1))


def test_a_linear_layer_on_patches_is_a_convolution_with_their_stride():
    x, weight = torch.randn(2, 3, 8, 4), torch.randn(5, 3, 2, 2)
    tokens = nn.functional.linear(to_patches(x, 2), weight.flatten(1))
    expected = nn.functional.conv2d(x, weight, stride=2).flatten(2).mT
    torch.testing.assert_close(tokens, expected, rtol=1e-5, atol=1e-5)


def test_added_positions_are_the_sinusoids_of_the_column_and_then_of_the_row():
    table = AddedPositions((3, 5), 8).table.unflatten(0, (3, 5))
    row, column = 2, 4
    expected = [value for place in (column, row) for wave in ("sin", "cos") for value in _waves(wave, place)]
    torch.testing.assert_close(table[row, column], torch.tensor(expected))
    assert len({tuple(place.tolist()) for place in table.flatten(0, 1)}) == 15


def _waves(wave, place):
    values = getattr(torch, wave)(torch.tensor([place / 1.0, place / 100.0]))
    return values.tolist()


def test_products_of_rotated_vectors_depend_on_the_distance_alone():
    rotate = RotaryPositions((4, 5), 10, extra=1)
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 10, generator=generator)
    heads = torch.stack([query.expand(21, -1), key.expand(21, -1)])[None]
    turned = rotate(heads)[0]
    assert torch.equal(turned[:, 0], heads[0, :, 0])  # a register has no place
    products = (turned[0, 1:] @ turned[1, 1:].T).unflatten(1, (4, 5)).unflatten(0, (4, 5))
    torch.testing.assert_close(products[0, 1, 2, 3], products[1, 2, 3, 4])
    torch.testing.assert_close(products[3, 0, 1, 2], products[2, 2, 0, 4])
    distances = [products[0, 0, row, column] for row in range(4) for column in range(5)]
    assert all((first - second).abs() > 1e-3 for first, second in itertools.combinations(distances, 2))


def test_the_order_of_the_patches_matters_only_by_their_positions():
    x, label = inputs(1)
    swapped = x.roll(4, dims=3)
    for options, moves in (({}, True), ({"positions": "rope"}, True)):
        network = dit(**options)
        same = torch.allclose(network(swapped, label), network(x, label).roll(4, dims=3), atol=1e-4)
        assert same != moves
    network.rotate = nn.Identity()
    torch.testing.assert_close(network(swapped, label), network(x, label).roll(4, dims=3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["defaults", "options"])
def test_checkpointing_gives_the_same_gradients(options):
    def gradients(**changed):
        network = dit(num_classes=3, dropout=0.2, **options, **changed)
        torch.manual_seed(2)
        network(*inputs(2), torch.tensor([0, 3])).square().sum().backward()
        return [parameter.grad for parameter in network.parameters()]

    for first, second in zip(gradients(), gradients(checkpointing=True), strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["defaults", "options"])
def test_embeds_the_label_in_float32_under_autocast(options):
    network = dit(**options)
    x = inputs(1)[0].expand(2, -1, -1, -1)
    label = torch.tensor([998.0, 999.0])  # the same number in bf16
    seen = []
    network.time.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    exact = network(x, label)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(x, label)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(output[0], output[1])
    assert (output.float() - exact).norm() < 0.05 * exact.norm()


def test_all_memory_formats_give_the_same():
    network = dit().to(memory_format=torch.channels_last)
    x, label = inputs(2)
    output = network(x.to(memory_format=torch.channels_last), label)
    torch.testing.assert_close(output, network(x, label))
    assert output.is_contiguous()


def test_the_last_row_of_the_table_is_no_class():
    network = dit(num_classes=2)
    x, label = inputs(1)
    outputs = [network(x, label, torch.tensor([cond])) for cond in range(3)]
    assert all((first - second).norm() > 1e-3 for first, second in itertools.combinations(outputs, 2))
    torch.testing.assert_close(network(x, label), outputs[2])


def test_positions_are_no_weights():
    for options in ({}, OPTIONS):
        assert not {name for name, _ in dit(**options).named_buffers()} & dit(**options).state_dict().keys()


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((3, 9, 8), {}, r"network.patch=2.*9x8.*next size that fits is 10x8.*network.patch"),
        ((3, 8, 8), {"patch": 16}, r"network.patch=16.*next size that fits is 16x16"),
        ((2,), {}, r"network=dit.*\(C, H, W\).*\(2,\).*network=mlp"),
        ((3, 8, 8), {"num_heads": 3}, r"network.num_heads=3.*network.width=32"),
        ((3, 8, 8), {"width": 2}, r"network.positions=sincos.*at least 4.*network.width"),
        ((3, 4, 8, 8), {"positions": "rope", "num_heads": 8}, r"network.positions=rope.*at least 6.*network.num_heads"),
        ((3, 8, 8), {"class_conditional": True}, r"network.class_conditional.*data"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_does_not_fit_is_refused_when_it_is_built(shape, changes, message, device):
    with torch.device(device), pytest.raises(ConfigError, match=message):
        dfw.build("network", "dit", shape=shape, **{**SMALL, **changes})
