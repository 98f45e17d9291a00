"""What a network is given, and how its output is read."""

from __future__ import annotations

import math

import pytest
import torch
from examples import on_schedule
from torch import nn

import diffusion_fw as dfw
import diffusion_fw.denoiser as denoiser_module
import diffusion_fw.process.level as level_module
import diffusion_fw.process.parameterization as parameterization_module
from diffusion_fw.noise import generator
from diffusion_fw.objectives.simple import Simple
from diffusion_fw.objectives.weighting import output_weight
from diffusion_fw.process.level import expand


class Recording(nn.Module):
    """Remembers what it was given; its output is ``factor`` times the input, on twice the channels if ``variance``."""

    def __init__(self, factor: float = 0.5, variance: bool = False) -> None:
        super().__init__()
        self.factor, self.variance = factor, variance

    def forward(self, x, label, cond):
        self.x, self.label, self.cond = x, label, cond
        output = self.factor * x
        return torch.cat([output, torch.full_like(output, 7.0)], dim=1) if self.variance else output


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=generator(0))


def times(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("num_steps", [100, 1000, 4000])
def test_the_label_of_a_row_is_ddpms_index_on_the_range_of_a_thousand(num_steps):
    schedule, network = dfw.build("schedule", "linear", num_steps=num_steps), Recording()
    denoiser = dfw.NetworkDenoiser(network, schedule, dfw.build("parameterization", "epsilon"))
    rows = torch.tensor([1, 37, num_steps])
    denoiser(normal(3, 2), schedule.table[rows])
    expected = (rows.double() * 1000 / num_steps - 1).float()
    torch.testing.assert_close(network.label, expected, rtol=1e-6, atol=1e-4)


def test_a_thousand_labels_stay_apart_under_a_low_precision_input():
    """bfloat16 has 507 values for the 1000 indices."""
    schedule, network = dfw.build("schedule", "linear"), Recording()
    denoiser = dfw.NetworkDenoiser(network, schedule, dfw.build("parameterization", "epsilon"))
    denoiser(normal(1000, 1, dtype=torch.bfloat16), schedule.table[1:])
    assert network.label.dtype == torch.float32
    assert len(network.label.unique()) == 1000


@pytest.mark.parametrize("name", dfw.names("parameterization"))
def test_the_network_sees_c_in_x_and_its_output_is_solved_for_both_ends(name):
    schedule, network = dfw.build("schedule", "vp"), Recording()
    parameterization = on_schedule("parameterization", name, schedule)
    level, x = schedule(times(0.1, 0.5, 0.9)), normal(3, 2, 2, 2)
    found = dfw.NetworkDenoiser(network, schedule, parameterization)(x, level, "cond")
    c_in, label = parameterization.input(level)
    torch.testing.assert_close(network.x, c_in.view(3, 1, 1, 1) * x)
    torch.testing.assert_close(network.label, label.float())
    assert network.cond == "cond"
    # The two equations that x_0 and eps solve.
    column = (3, 1, 1, 1)
    torch.testing.assert_close(level.alpha.view(column) * found.x0 + level.sigma.view(column) * found.eps, x)
    torch.testing.assert_close(parameterization.target(level, found.x0, found.eps), 0.5 * network.x)
    assert found.variance_logit is None


@pytest.mark.parametrize("name", dfw.names("parameterization"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_level_for_all_is_that_level_for_each(name, dtype):
    schedule = dfw.build("schedule", "cosine")
    parameterization = on_schedule("parameterization", name, schedule)
    denoiser = dfw.NetworkDenoiser(Recording(), schedule, parameterization)
    x = normal(4, 3, dtype=dtype)
    for t in (0.001, 0.5, 0.999, 0.5):
        one, each = denoiser(x, schedule(times(t)[0])), denoiser(x, schedule(times(t, t, t, t)))
        assert one.x0.dtype == one.eps.dtype == each.x0.dtype == dtype
        # The terms of x_0 and eps may be larger than they are.
        largest = max(1.0, *(float(term.abs()) for term in parameterization.inverse(schedule(times(t)[0]))))
        torch.testing.assert_close(one.x0, each.x0, rtol=1e-5, atol=1e-6 * largest)
        torch.testing.assert_close(one.eps, each.eps, rtol=1e-5, atol=1e-6 * largest)


def test_the_second_half_of_twice_the_channels_is_the_raw_variance():
    schedule = dfw.build("schedule", "linear")
    x, level = normal(2, 3, 4, 4), schedule(times(0.5)[0])
    plain, learned = (
        dfw.NetworkDenoiser(Recording(variance=flag), schedule, dfw.build("parameterization", "epsilon"))(x, level)
        for flag in (False, True)
    )
    assert torch.equal(plain.x0, learned.x0)
    assert torch.equal(learned.variance_logit, torch.full_like(x, 7.0))


def test_the_networks_weights_are_the_denoisers_parameters():
    network = dfw.build("network", "mlp", shape=(2,))
    denoiser = dfw.NetworkDenoiser(network, dfw.build("schedule", "vp"), dfw.build("parameterization", "v"))
    assert set(denoiser.parameters()) == set(network.parameters())


@pytest.mark.parametrize(("name", "sigma"), [("vp", 0.9999784069), ("ve", 100.0), ("edm", 80.0), ("flow", 1.0)])
def test_the_prior_is_noise_of_the_size_at_time_one(name, sigma):
    """The deviation of vp at t = 1 is that of yang-song/score_sde_pytorch."""
    x = dfw.prior(dfw.build("schedule", name), (5, 2), torch.ones_like)
    torch.testing.assert_close(x, torch.full((5, 2), sigma))


@pytest.mark.parametrize("name", dfw.names("parameterization"))
def test_a_training_step_expands_no_coefficient_that_it_does_not_use(monkeypatch, name):
    """The loss of F needs alpha, sigma, c_in, a and b on the device, and none of the four of the inverse."""
    expanded = []

    def counted(coefficient, x):
        expanded.append(coefficient)
        return expand(coefficient, x)

    for module in (denoiser_module, level_module, parameterization_module):
        monkeypatch.setattr(module, "expand", counted)
    schedule = dfw.build("schedule", "cosine")
    parameterization = on_schedule("parameterization", name, schedule)
    weighting = dfw.build("weighting", "min_snr")
    denoiser, objective = dfw.NetworkDenoiser(Recording(), schedule, parameterization), Simple(weighting)
    x0, eps = normal(3, 2, dtype=torch.float32), normal(3, 2, dtype=torch.float32).flip(0)
    level = schedule(times(0.1, 0.5, 0.9))
    loss = objective(denoiser, x0, level, eps)
    used = [level.alpha, level.sigma, parameterization.input(level)[0], *parameterization.coefficients(level)]
    assert len(expanded) == len(used)
    for found, wanted in zip(expanded, used, strict=True):
        assert torch.equal(found, wanted)
    alpha, sigma, c_in, a, b = (value.float()[:, None] for value in used)
    error = 0.5 * (c_in * (alpha * x0 + sigma * eps)) - (a * x0 + b * eps)
    assert torch.equal(loss, error.square().mean(1) * output_weight(weighting, parameterization, level).float())


def test_outputs_of_recorded_graphs_are_copied():
    """Such a network writes every output into the same memory; samplers keep predictions of earlier steps."""

    class Recorded(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.output = torch.zeros(4, 2)

        def forward(self, x, label, cond=None):
            return self.output.copy_((x + label[:, None] / 1000).tanh())

    class Plain(Recorded):
        def forward(self, x, label, cond=None):
            return (x + label[:, None] / 1000).tanh()

    def samples(network, copies):
        denoiser = dfw.NetworkDenoiser(network, "vp", "epsilon")
        denoiser.copies_output = copies
        x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))
        return dfw.build("sampler", "plms", steps=6)(denoiser, x)

    assert torch.equal(samples(Recorded(), True), samples(Plain(), False))
    assert not torch.equal(samples(Recorded(), False), samples(Plain(), False))


def test_infinite_bounds_leave_x0_as_it_is_under_a_dynamic_threshold():
    network = dfw.build("network", "mlp", shape=(2,))
    denoiser = dfw.NetworkDenoiser(network, "vp", "x0", (-math.inf, math.inf))
    guided = dfw.build("guidance", "dynamic_threshold", denoiser=denoiser)
    assert guided.data_range is None
