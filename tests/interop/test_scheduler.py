"""Our samplers in diffusers' pipelines: beside diffusers' own schedulers, and beside our own loop."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

import diffusion_fw as dfw
from diffusion_fw.interop.scheduler import as_scheduler
from diffusion_fw.process.level import NoiseLevel
from diffusion_fw.process.parameterization import Prediction
from diffusion_fw.registry import ConfigError


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
    ).eval()


def draw(pipeline, steps, seed=1, **options):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(seed)
    result = pipeline(batch_size=2, generator=generator, num_inference_steps=steps, output_type="np", **options)
    return torch.from_numpy(result.images)


def clipped(denoiser):
    return dfw.build("guidance", "clip", denoiser=denoiser, data_range=(-1.0, 1.0))


def test_ddim_is_that_of_diffusers_in_the_same_pipeline(unet):
    schedule = dfw.build("schedule", "linear")
    theirs = draw(DDIMPipeline(unet, DDIMScheduler(clip_sample=False, set_alpha_to_one=True)), 20)
    ours = as_scheduler("ddim", schedule, grid=dfw.build("grid", "leading"))
    pipeline = DDPMPipeline(unet, DDPMScheduler())
    pipeline.scheduler = ours
    torch.testing.assert_close(draw(pipeline, 20), theirs, rtol=0, atol=2e-5)


def test_ancestral_sampling_with_clipping_is_that_of_diffusers(unet):
    schedule = dfw.build("schedule", "linear")
    theirs = draw(DDPMPipeline(unet, DDPMScheduler(clip_sample=True, variance_type="fixed_small")), 1000 // 20)
    ours = as_scheduler("ddpm", schedule, wrap=clipped, grid=dfw.build("grid", "leading"))
    pipeline = DDPMPipeline(unet, DDPMScheduler())
    pipeline.scheduler = ours
    torch.testing.assert_close(draw(pipeline, 1000 // 20), theirs, rtol=0, atol=5e-5)


@pytest.mark.parametrize("sampler", ["heun", "unipc", "dpm_solver_pp", "dpm_solver_pp_sde", "deis"])
def test_a_pipeline_gives_what_our_own_loop_gives(unet, sampler):
    schedule = dfw.build("schedule", "linear")

    class Own:
        def __init__(self):
            self.schedule = schedule

        def __call__(self, x, level: NoiseLevel, cond=None):
            with torch.no_grad():
                eps = unet(x, round(float(1000 * level.t - 1))).sample
            return Prediction((x - float(level.sigma) * eps) / float(level.alpha), eps)

    scheduler = as_scheduler(sampler, schedule, grid=dfw.build("grid", "uniform"))
    pipeline = DDPMPipeline(unet, DDPMScheduler())
    pipeline.scheduler = scheduler
    made = draw(pipeline, 6)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 8, 8, generator=generator)
    x = dfw.build("sampler", sampler, steps=6)(
        Own(), x, noise=lambda like: torch.randn(like.shape, generator=generator)
    )
    wanted = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(made, wanted, rtol=0, atol=2e-5)
    # Every evaluation is a timestep.
    assert len(scheduler.timesteps) == len(scheduler.levels) >= 6


def test_a_second_sampling_starts_anew_after_one_that_was_left(unet):
    scheduler = as_scheduler("unipc", dfw.build("schedule", "linear"))
    scheduler.set_timesteps(5)
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    scheduler.step(torch.zeros_like(x), scheduler.timesteps[0], x)
    left = scheduler.asking
    scheduler.set_timesteps(3)
    assert scheduler.asking is None
    assert left is not None
    y = x
    for t in scheduler.timesteps:
        y = scheduler.step(torch.zeros_like(y), t, y).prev_sample
    assert bool(y.isfinite().all())


def test_a_changed_sample_and_an_adaptive_sampler_are_refused():
    schedule = dfw.build("schedule", "linear")
    with pytest.raises(ConfigError, match="adaptive"):
        as_scheduler("ode", dfw.build("schedule", "vp"))
    scheduler = as_scheduler("ddim", schedule)
    scheduler.set_timesteps(3)
    x = torch.randn(1, 3, 4, 4)
    x = scheduler.step(torch.zeros_like(x), scheduler.timesteps[0], x).prev_sample
    with pytest.raises(ConfigError, match="sample is not the one"):
        scheduler.step(torch.zeros_like(x), scheduler.timesteps[1], x + 1)
