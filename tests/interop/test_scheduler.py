"""Our samplers in diffusers' pipelines: beside diffusers' own schedulers, and beside our own loop."""

from __future__ import annotations

import gc
import threading

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


def steps_of(scheduler, x, model=lambda value: 0.1 * value, generator=None, steps=4):
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(model(scheduler.scale_model_input(x, t)), t, x, generator=generator).prev_sample
    return x


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sampler", ["ddim", "unipc", "heun"])
def test_the_samplers_state_is_not_rounded_to_half_precision(sampler, dtype):
    schedule, x = dfw.build("schedule", "linear"), noise(2, 3, 8, 8).to(dtype)
    made = steps_of(as_scheduler(sampler, schedule), x, lambda value: torch.ones_like(value))
    exact = steps_of(as_scheduler(sampler, schedule), x.float(), lambda value: torch.ones_like(value))
    assert made.dtype == dtype
    assert torch.equal(made, exact.to(dtype))


def test_each_sample_of_a_batch_has_its_own_generator():
    schedule, x = dfw.build("schedule", "linear"), noise(2, 3, 8, 8)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    both = steps_of(as_scheduler("ddpm", schedule), x, generator=generators)
    alone = steps_of(as_scheduler("ddpm", schedule), x[1:], generator=[torch.Generator().manual_seed(2)])
    assert torch.equal(both[1:], alone)


def test_a_learned_variance_is_used():
    schedule, x = dfw.build("schedule", "linear"), noise(2, 3, 8, 8)

    def drawn(logit):
        scheduler = as_scheduler("ddpm", schedule, variance=dfw.build("variance", "learned_range"))
        generator = torch.Generator().manual_seed(0)
        return steps_of(scheduler, x, lambda value: torch.cat([0.1 * value, logit + 0 * value], 1), generator)

    small = steps_of(as_scheduler("ddpm", schedule), x, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(drawn(-1.0), small, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(drawn(1.0), small, atol=1e-2)
    with pytest.raises(ConfigError, match="learned variance"):
        steps_of(as_scheduler("ddpm", schedule, variance=dfw.build("variance", "learned_range")), x)


def test_guidance_by_a_doubled_batch_as_pipelines_do_it():
    scheduler, one = as_scheduler("unipc", dfw.build("schedule", "linear")), noise(2, 3, 8, 8)
    shift = torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None, None, None]

    def guided(value):
        conditional, without = (0.1 * value + shift).chunk(2)
        return (without + 3 * (conditional - without)).repeat(2, 1, 1, 1)

    both = steps_of(scheduler, one.repeat(2, 1, 1, 1), guided)
    alone = steps_of(scheduler, one, lambda value: 0.1 * value + 3)
    torch.testing.assert_close(both[:2], alone, rtol=1e-5, atol=1e-4)


def test_the_thread_of_a_dropped_scheduler_ends():
    scheduler, x = as_scheduler("unipc", dfw.build("schedule", "linear")), noise(1, 3, 8, 8)
    before = set(threading.enumerate())
    scheduler.set_timesteps(3)
    scheduler.step(x, scheduler.timesteps[0], x)
    (thread,) = set(threading.enumerate()) - before
    del scheduler
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_step_out_of_turn_or_of_another_shape_is_refused():
    scheduler, x = as_scheduler("ddim", dfw.build("schedule", "linear")), noise(1, 3, 8, 8)
    with pytest.raises(ConfigError, match="set_timesteps"):
        scheduler.step(x, 999, x)
    scheduler.set_timesteps(3)
    with pytest.raises(ConfigError, match="the next one is 999"):
        scheduler.step(x, scheduler.timesteps[1], x)
    with pytest.raises(ConfigError, match=r"must be \(1, 3, 8, 8\)"):
        scheduler.step(x[:, :2], scheduler.timesteps[0], x)
    x = steps_of(scheduler, x, steps=3)
    with pytest.raises(ConfigError, match="no timestep is left"):
        scheduler.step(x, scheduler.timesteps[-1], x)


def test_an_error_within_the_sampler_ends_the_sampling():
    def broken(denoiser):
        def call(x, level, cond=None):
            if x.ndim == 4:
                raise ConfigError("broken")
            return denoiser(x, level, cond)

        call.schedule = denoiser.schedule
        return call

    scheduler, x = as_scheduler("ddim", dfw.build("schedule", "linear"), wrap=broken), noise(1, 3, 8, 8)
    scheduler.set_timesteps(3)
    for _ in range(2):
        with pytest.raises(ConfigError, match="broken"):
            scheduler.step(x, scheduler.timesteps[0], x)
