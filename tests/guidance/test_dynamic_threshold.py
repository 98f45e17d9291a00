"""Imagen's dynamic thresholding."""

from __future__ import annotations

import numpy as np
import torch

import diffusion_fw as dfw


def test_it_is_imagens_formula_on_each_example(tools):
    """Saharia et al. 2022a, figure A.10: s = percentile of |x_0|, not below 1; clip to [-s, s]; divide by s."""
    denoiser = tools.Mixture()
    guidance = dfw.build("guidance", "dynamic_threshold", denoiser=denoiser, percentile=0.7)
    x, level = (
        tools.draw() * torch.linspace(0.1, 8, 6, dtype=torch.float64)[:, None],
        denoiser.schedule(tools.times(0.1)),
    )
    x0 = denoiser(x, level).x0.numpy()
    s = np.maximum(np.percentile(np.abs(x0), 70, axis=1, keepdims=True), 1)
    assert (s == 1).any()
    assert (s > 1).any()
    np.testing.assert_allclose(guidance(x, level).x0.numpy(), np.clip(x0, -s, s) / s, rtol=1e-12)


def test_other_bounds_are_the_same_in_their_own_units(tools):
    class Affine:
        schedule = tools.Mixture().schedule

        def __call__(self, x, level, cond=None):
            prediction = tools.Mixture()(x, level)
            return type(prediction)(0.5 + 0.5 * prediction.x0, prediction.eps)

    x, level = 5 * tools.draw(), Affine.schedule(tools.times(0.1))
    symmetric = dfw.build("guidance", "dynamic_threshold", denoiser=tools.Mixture(), percentile=0.7)
    shifted = dfw.build("guidance", "dynamic_threshold", denoiser=Affine(), percentile=0.7, data_range=(0.0, 1.0))
    torch.testing.assert_close(shifted(x, level).x0, 0.5 + 0.5 * symmetric(x, level).x0)
