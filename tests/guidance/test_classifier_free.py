"""Classifier-free guidance against densities."""

from __future__ import annotations

import pytest
import torch

import diffusion_fw as dfw


def build(denoiser, **parameters):
    return dfw.build("guidance", "classifier_free", denoiser=denoiser, **{"num_classes": 3, **parameters})


def test_the_guided_score_is_that_of_the_tilted_density(tools):
    """Ho & Salimans 2022, section 3.2: the score of p(x|c)^scale p(x)^(1 - scale), here by autograd."""
    denoiser = tools.Mixture()
    x, cond, level = tools.draw().requires_grad_(), tools.labels(), denoiser.schedule(tools.times(0.4))
    joint = denoiser.log_joint(x, level)
    tilted = 2.5 * joint.gather(1, cond[:, None])[:, 0] - 1.5 * joint.logsumexp(1)
    (score,) = torch.autograd.grad(tilted.sum(), x)
    eps = build(denoiser, scale=2.5)(x.detach(), level, cond).eps
    torch.testing.assert_close(eps, -level.sigma * score, rtol=1e-10, atol=1e-10)


def test_guiding_between_two_gaussians_of_one_width_samples_the_gaussian_beyond(tools):
    """With means m (condition) and m_0 (none), the guided density is N(m_0 + scale (m - m_0), std^2) at every level."""
    means = tools.draw(4)
    guided = build(tools.Labelled(means), scale=3.0)
    cond = torch.zeros(6, dtype=torch.int64)
    beyond = tools.Labelled((means[3] + 3 * (means[0] - means[3]))[None])
    sampler = dfw.build("sampler", "ddim", steps=7)
    torch.testing.assert_close(
        sampler(guided, tools.draw(), cond=cond), sampler(beyond, tools.draw()), rtol=1e-10, atol=1e-10
    )


def test_scale_1_is_the_conditional_model_and_scale_0_the_unconditional(tools):
    denoiser = tools.Mixture()
    x, cond, level = tools.draw(), tools.labels(), denoiser.schedule(tools.times(0.4))
    assert torch.equal(build(denoiser, scale=1.0)(x, level, cond).x0, denoiser(x, level, cond).x0)
    torch.testing.assert_close(build(denoiser, scale=0.0)(x, level, cond).x0, denoiser(x, level).x0)


def test_two_predictions_cost_one_evaluation_of_twice_the_batch_and_none_where_unguided(tools):
    def batches(t, **parameters):
        denoiser = tools.Mixture()
        guided = build(denoiser, **parameters)
        guided(tools.draw(), guided.schedule(t), tools.labels())
        return denoiser.batches

    assert batches(tools.times(0.5), scale=2.0) == [12]
    assert batches(tools.times(0.5), scale=1.0) == [6]
    assert batches(tools.times(0.5), scale=2.0, interval=[0.2, 0.5]) == [12]
    assert batches(tools.times(0.2), scale=2.0, interval=[0.2, 0.5]) == [6]
    assert batches(tools.times(*[0.1, 0.9] * 3), scale=2.0, interval=[0.2, 0.5]) == [6]


def test_an_interval_guides_inside_and_nowhere_else_in_every_unit(tools):
    """Kynkäänniemi et al. 2024: guidance weight 1 outside (low, high]."""
    denoiser = tools.Mixture()
    x, cond = tools.draw(), tools.labels()
    level = denoiser.schedule(tools.times(0.1, 0.3, 0.4, 0.5, 0.6, 0.9))
    inside = torch.tensor([False, True, True, True, False, False])
    everywhere, nowhere = build(denoiser, scale=3.0)(x, level, cond), denoiser(x, level, cond)
    low, high = denoiser.schedule(tools.times(0.2, 0.55)).unbind()
    intervals = {
        "t": [0.2, 0.55],
        "sigma": [(low.sigma / low.alpha).item(), (high.sigma / high.alpha).item()],
        "log_snr": [high.log_snr.item(), low.log_snr.item()],
    }
    for unit, interval in intervals.items():
        x0 = build(denoiser, scale=3.0, interval=interval, interval_unit=unit)(x, level, cond).x0
        torch.testing.assert_close(x0[inside], everywhere.x0[inside])
        assert torch.equal(x0[~inside], nowhere.x0[~inside])
        assert not torch.isclose(x0[inside], nowhere.x0[inside]).all()


def test_rescaling_brings_back_the_spread_of_the_conditional_prediction(tools):
    """Lin et al. 2024, equations 14 to 16."""
    denoiser = tools.Mixture()
    x, cond, level = tools.draw(), tools.labels(), denoiser.schedule(tools.times(0.4))
    conditional, guided = denoiser(x, level, cond).x0, build(denoiser, scale=4.0)(x, level, cond).x0
    whole = build(denoiser, scale=4.0, rescale=1.0)(x, level, cond).x0
    part = build(denoiser, scale=4.0, rescale=0.7)(x, level, cond).x0
    assert not torch.isclose(guided.std(1), conditional.std(1)).any()
    torch.testing.assert_close(whole.std(1), conditional.std(1))
    torch.testing.assert_close(part, 0.7 * whole + 0.3 * guided)


def test_data_without_classes_is_refused_when_built_and_a_missing_label_when_called(tools):
    with pytest.raises(dfw.ConfigError, match=r"guidance=classifier_free.*data="):
        build(tools.Mixture(), num_classes=0)
    with pytest.raises(dfw.ConfigError, match=r"without cond.*class_conditional"):
        build(tools.Mixture())(tools.draw(), tools.Mixture().schedule(tools.times(0.5)))


@pytest.mark.parametrize(
    "parameters",
    [{"interval": [0.5, 0.2]}, {"interval": [0.5]}, {"scale": -1.0}, {"rescale": 1.5}, {"interval_unit": "x"}],
)
def test_a_parameter_without_meaning_is_refused_by_its_key(tools, parameters):
    with pytest.raises(dfw.ConfigError, match=r"guidance.*" + next(iter(parameters))):
        build(tools.Mixture(), **parameters)
