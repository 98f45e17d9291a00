"""Grids against figures computed with their authors' code: OpenAI's respacing, DDIM's repository, EDM's steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import diffusion_fw as dfw


def indices(name: str, steps: int, num_steps: int = 1000, **parameters) -> list[int]:
    """DDPM's 0-based indices that the grid visits, increasing."""
    schedule = dfw.build("schedule", "cosine", num_steps=num_steps)
    times = dfw.build("grid", name, **parameters)(steps, schedule)[:-1]
    rows = times * num_steps
    torch.testing.assert_close(rows, rows.round(), rtol=0, atol=1e-9)
    return (rows.round().long() - 1).flip(0).tolist()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("leading", [1, 101, 201, 301, 401, 501, 601, 701, 801, 901]),
        ("linspace", [1, 112, 223, 334, 445, 556, 667, 778, 889, 1000]),
        ("trailing", [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]),
        ("uniform", [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]),
    ],
)
def test_even_spacings_are_those_of_lin_et_al(name, expected):
    """Table 2 of Lin et al. 2024, T = 1000 and S = 10, whose timesteps count from 1."""
    assert [index + 1 for index in indices(name, 10)] == expected


def test_ten_steps_of_a_thousand():
    assert indices("respaced", 10, spec="10") == [0, 111, 222, 333, 444, 555, 666, 777, 888, 999]


def test_twenty_five_steps_of_a_thousand_round_halves_to_even():
    found = indices("respaced", 25, spec=25)
    assert found[:6] == [0, 42, 83, 125, 166, 208]
    assert found[-4:] == [874, 916, 957, 999]


def test_fifty_and_two_hundred_and_fifty_steps_of_a_thousand():
    found = indices("respaced", 50, spec="50")
    assert found[:5] == [0, 20, 41, 61, 82]
    assert found[-3:] == [958, 979, 999]
    found = indices("respaced", 250, spec="250")
    assert found[:3] == [0, 4, 8]
    assert found[-3:] == [991, 995, 999]


def test_a_hundred_steps_of_four_thousand():
    found = indices("respaced", 100, 4000, spec="100")
    assert found[:4] == [0, 40, 81, 121]
    assert found[-2:] == [3959, 3999]


@pytest.mark.parametrize("spec", ["10,15,20", "10, 15, 20", [10, 15, 20]])
def test_three_parts_of_three_hundred(spec):
    found = indices("respaced", 45, 300, spec=spec)
    assert len(found) == 45
    assert found[:4] == [0, 11, 22, 33]
    assert found[-4:] == [283, 289, 294, 299]


@pytest.mark.parametrize(("count", "stride"), [(25, 40), (50, 20)])
def test_ddim_notation_is_an_integer_stride(count, stride):
    assert indices("respaced", count, spec=f"ddim{count}") == list(range(0, 1000, stride))


def test_a_stride_that_does_not_exist_names_a_grid_that_does():
    with pytest.raises(dfw.ConfigError, match=r"grid=leading with sampler\.steps=37"):
        indices("respaced", 37, spec="ddim37")


def test_a_part_with_too_few_indices_is_refused():
    with pytest.raises(dfw.ConfigError, match=r"part 1 of 2 has 500 .* fewer than the 501"):
        indices("respaced", 502, spec="501,1")


@pytest.mark.parametrize("spec", ["fast", "10,,20", "ddim", "0", "10;20", "-5", ""])
def test_another_notation_is_refused_when_built(spec):
    with pytest.raises(dfw.ConfigError, match=r"grid\.spec"):
        dfw.build("grid", "respaced", spec=spec)


def test_the_levels_of_a_respaced_table_have_the_published_betas():
    """Respaced betas of linear, T = 1000, "50": one minus the ratio of alpha_bar between the indices that are kept.

    The last is the product of 1 - beta over the indices 980 .. 999, evaluated with 40 digits.
    """
    schedule = dfw.build("schedule", "linear")
    alpha_bar = schedule(dfw.build("grid", "respaced")(50, schedule)).alpha.square().flip(0)
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    assert betas[:2].tolist() == pytest.approx([1.0e-4, 6.165187947e-3], rel=1e-9)
    assert betas[-1].item() == pytest.approx(0.32980906609465950, rel=1e-12)


def test_quadratic_is_that_of_ddims_repository():
    assert indices("quadratic", 10) == [0, 9, 39, 88, 158, 246, 355, 483, 632, 800]


def test_quadratic_asks_no_time_twice_where_the_repository_does():
    reference = [int(800 * (j / 49) ** 2 + 1e-9) for j in range(50)]
    assert len(set(reference)) == 49
    found = indices("quadratic", 50)
    assert len(set(found)) == 50
    assert found[0] == 0
    assert found[-1] == 800
    assert [mine for mine, theirs in zip(found, reference, strict=True) if mine != theirs] == [1, 2, 3]


@pytest.mark.parametrize(("steps", "zeros"), [(20, 1), (50, 2), (100, 4)])
def test_quadratic_repeats_the_times_of_the_repository_if_told_so(steps, zeros):
    """Its code: int(s) for s in np.linspace(0, np.sqrt(1000 * 0.8), steps) ** 2."""
    reference = [int(value) for value in np.linspace(0, np.sqrt(800), steps) ** 2]
    assert reference.count(0) == zeros
    assert indices("quadratic", steps, repeat=True) == reference


@pytest.mark.parametrize(("name", "settings"), [("ddim", {}), ("ddim", {"eta": 1.0}), ("ddpm", {})])
def test_the_second_visit_of_a_time_changes_nothing(name, settings):
    """So 50 quadratic steps of the paper are the 49 distinct ones, for any noise."""
    schedule = dfw.build("schedule", "linear")
    denoiser = dfw.oracles.Gaussian(torch.zeros(2), 0.5).denoiser(schedule)
    repeated = dfw.build("grid", "quadratic", repeat=True)
    distinct = dfw.build("grid", "explicit", times=repeated(50, schedule).unique().flip(0).tolist())
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = [
        dfw.build("sampler", name, steps=steps, grid=grid, **settings)(denoiser, x, noise=torch.ones_like)
        for steps, grid in ((50, repeated), (49, distinct))
    ]
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["heun", "dpm_solver_pp", "ode", "annealed_langevin"])
def test_a_repeated_time_is_refused_where_a_step_needs_a_length(name):
    sampler = dfw.build("sampler", name, steps=50, grid=dfw.build("grid", "quadratic", repeat=True))
    with pytest.raises(dfw.ConfigError, match=r"grid\.repeat=false"):
        sampler.check(dfw.build("schedule", "linear"))


def test_a_skipped_prefix_leaves_the_rows_below_it():
    """Nichol & Dhariwal 2021, figure 4: 20% of 4000 steps skipped are the indices 3199 .. 0."""
    assert indices("uniform", 3200, 4000, start=0.8) == list(range(3200))
    with pytest.raises(dfw.ConfigError, match="start"):
        dfw.build("grid", "uniform", start=0.0)


@pytest.mark.parametrize("name", ["edm", "flow", "ncsn", "sub_vp", "ve"])
def test_a_skipped_prefix_is_refused_where_noise_does_not_stand_for_x_t(name):
    schedule = dfw.build("schedule", name)
    dfw.build("grid", "uniform")(3, schedule)
    with pytest.raises(dfw.ConfigError, match=r"grid\.start=0\.8: .*alpha\^2 \+ sigma\^2 = "):
        dfw.build("grid", "uniform", start=0.8)(3, schedule)


@pytest.mark.parametrize("name", ["linear", "cosine", "vp"])
def test_a_prefix_may_be_skipped_on_every_path_that_preserves_the_variance(name):
    assert dfw.build("grid", "uniform", start=0.8)(4, dfw.build("schedule", name))[0] == pytest.approx(0.8)


SIGMAS_18 = [
    80, 57.5859847, 40.7855738, 28.3745846, 19.3524530, 12.9100824, 8.40093531, 5.31519452, 3.25682152, 1.92333984,
    1.08817064, 0.585348123, 0.296442284, 0.139516469, 0.0599473112, 0.0229345184, 0.00752801996, 0.002, 0,
]  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "known"),
    [
        (18, dict(enumerate(SIGMAS_18))),
        (40, {0: 80, 1: 69.4509460, 20: 2.24043976, 38: 0.00367658917, 39: 0.002}),
        (256, {1: 78.3028508}),
    ],
)
def test_karras_steps_are_edms(steps, known):
    schedule = dfw.build("schedule", "edm")
    sigma = schedule(dfw.build("grid", "karras")(steps, schedule)).sigma
    assert {index: sigma[index].item() for index in known} == pytest.approx(known, rel=1e-8)
