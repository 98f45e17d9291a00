from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.registry import ConfigError


def mlp(shape=(2,), **kwargs):
    """An MLP with random weights everywhere, the layers that start at zero included."""
    torch.manual_seed(0)
    network = dfw.build("network", "mlp", shape=shape, **kwargs)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return network


def inputs(batch, shape=(2,)):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *shape, generator=generator), 999 * torch.rand(batch, generator=generator)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("shape", [(1,), (2,), (5,), (1, 8, 8), (3, 4, 5)])
def test_keeps_the_shape_of_any_data(shape, outputs):
    output = mlp(shape, outputs=outputs)(*inputs(3, shape))
    assert output.shape == (3, outputs * shape[0], *shape[1:])


def test_output_is_zero_before_training():
    assert not dfw.build("network", "mlp", shape=(2,))(*inputs(4)).any()


def test_output_depends_on_the_label():
    x = inputs(1)[0].expand(6, -1)
    output = mlp()(x, torch.tensor([0.0, 500.0, 501.0, -1.5, -0.5, 1.0]))
    assert all((first - second).norm() > 1e-3 for i, first in enumerate(output) for second in output[:i])


def test_output_depends_on_the_class_and_none_is_the_null_class():
    network = mlp(num_classes=2, class_conditional=True)
    x, label = inputs(1)
    outputs = [network(x, label, torch.tensor([cond])) for cond in range(3)]
    assert all((first - second).norm() > 1e-3 for i, first in enumerate(outputs) for second in outputs[:i])
    torch.testing.assert_close(network(x, label), outputs[2])


def test_each_row_equals_the_same_row_alone():
    network = mlp()
    x, label = inputs(7)
    alone = torch.cat([network(x[i : i + 1], label[i : i + 1]) for i in range(7)])
    torch.testing.assert_close(network(x, label), alone, rtol=1e-5, atol=1e-5)


def test_every_parameter_takes_part():
    network = mlp(num_classes=2, class_conditional=True)
    network(*inputs(3), torch.tensor([0, 1, 2])).square().sum().backward()
    assert all(parameter.grad.any() for parameter in network.parameters())


def test_class_conditioning_without_classes_is_an_error():
    with pytest.raises(ConfigError, match=r"network.class_conditional.*data"):
        mlp(class_conditional=True)


def test_learns_the_denoiser_of_a_gaussian():
    # For x_0 ~ N(0, s^2) the best epsilon at x_t is x_t sigma / (alpha^2 s^2 + sigma^2) (Bayes' rule for Gaussians).
    torch.manual_seed(0)
    network = dfw.build("network", "mlp", shape=(2,), width=32, depth=2)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    spread = 0.5

    def noised(count):
        angle = torch.rand(count, 1) * (math.pi / 2)
        x0, eps = spread * torch.randn(count, 2), torch.randn(count, 2)
        return angle, angle.cos() * x0 + angle.sin() * eps, eps

    for _ in range(300):
        angle, x, eps = noised(256)
        loss = (network(x, 1000 * angle[:, 0] / (math.pi / 2)) - eps).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        angle, x, _ = noised(2000)
        best = x * angle.sin() / (angle.cos().square() * spread**2 + angle.sin().square())
        excess = (network(x, 1000 * angle[:, 0] / (math.pi / 2)) - best).square().mean()
    assert excess < 0.02 * best.square().mean()
