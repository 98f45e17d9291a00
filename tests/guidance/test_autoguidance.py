"""Autoguidance between Gaussians."""

from __future__ import annotations

import pytest
import torch

import diffusion_fw as dfw


def test_guiding_by_a_shifted_gaussian_samples_the_gaussian_on_the_other_side(tools):
    main, weak = tools.draw(2).unbind()
    guided = dfw.build(
        "guidance", "autoguidance", denoiser=tools.Labelled(main[None]), weak=tools.Labelled(weak[None]), scale=1.7
    )
    beyond = tools.Labelled((weak + 1.7 * (main - weak))[None])
    sampler = dfw.build("sampler", "ddim", steps=7)
    torch.testing.assert_close(sampler(guided, tools.draw()), sampler(beyond, tools.draw()), rtol=1e-10, atol=1e-10)


def test_the_weak_model_is_evaluated_on_the_same_condition_and_not_at_all_at_scale_1(tools):
    main, weak = tools.Mixture(), tools.Mixture(stds=torch.ones(3, dtype=torch.float64))
    x, cond, level = tools.draw(), tools.labels(), main.schedule(tools.times(0.4))
    guided = dfw.build("guidance", "autoguidance", denoiser=main, weak=weak, scale=2.0)
    torch.testing.assert_close(guided(x, level, cond).x0, 2 * main(x, level, cond).x0 - weak(x, level, cond).x0)
    weak.batches.clear()
    alone = dfw.build("guidance", "autoguidance", denoiser=main, weak=weak, scale=1.0)
    assert torch.equal(alone(x, level, cond).x0, main(x, level, cond).x0)
    assert weak.batches == []


def test_a_weak_model_on_another_path_is_refused_until_it_is_rescheduled(tools):
    main = tools.Mixture()
    other = tools.Mixture(dfw.build("schedule", "flow"))
    with pytest.raises(dfw.ConfigError, match=r"autoguidance.*VP.*rescheduled|autoguidance.*Flow.*rescheduled"):
        dfw.build("guidance", "autoguidance", denoiser=main, weak=other)
    weak = dfw.build("guidance", "rescheduled", denoiser=other, target=main.schedule)
    guided = dfw.build("guidance", "autoguidance", denoiser=main, weak=weak, scale=5.0)
    x, level = tools.draw(), main.schedule(tools.times(0.4))
    # The two are one model, so guiding one by the other changes nothing.
    torch.testing.assert_close(guided(x, level).x0, main(x, level).x0)
