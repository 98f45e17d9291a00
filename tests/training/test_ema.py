"""Averages of the weights: their decays, several at once, none, and what a checkpoint's user can ask for."""

from __future__ import annotations

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import diffusion_fw as dfw
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.config.application import check_command_line
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.ema import PowerFunction, Several
from diffusion_fw.training.power_profile import LONGEST, Profile, exponent, relative_std


def fit(config, folder, checkpoint=None):
    experiment = build_experiment(config, folder)
    experiment.trainer.fit(experiment.module, ckpt_path=checkpoint)
    return experiment, folder / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize(("std", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_gamma_is_the_published_one(std, gamma):
    """Karras et al. 2024, section 3.2."""
    assert exponent(std) == pytest.approx(gamma, abs=0.005)


@pytest.mark.parametrize(
    ("batch", "kimg", "ramp"), [(512, 500, 0.05), (256, 500, None), (2048, 50, 0.1), (1, 1e-3, 0.5)]
)
def test_a_half_life_in_images_is_edms(batch, kimg, ramp):
    """The formula of its training loop, which counts the images before a step; at batch 512 the rate is .9992904691."""
    average = dfw.build("ema", "half_life", batch_size=batch, images=kimg * 1000, ramp=ramp)
    for step in (1, 2, 3, 10, 1000, 100_000):
        half_life = kimg * 1000 if ramp is None else min(kimg * 1000, (step - 1) * batch * ramp)
        assert average.decay(step) == pytest.approx(0.5 ** (batch / max(half_life, 1e-8)), rel=1e-12, abs=1e-300)
    if (batch, kimg) == (512, 500):
        assert average.decay(100_000) == pytest.approx(0.9992904691, abs=1e-10)
        assert average.length == {"rate": average.decay(100_000)}
    # Half of what the average was is left after so many images.
    assert average.decay(10**8) ** (kimg * 1000 / batch) == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize("std", [0.001, 0.02, 0.25, LONGEST])
def test_std_and_gamma_are_inverse(std):
    assert relative_std(exponent(std)) == pytest.approx(std, rel=1e-12)


def test_the_recursion_weighs_each_step_by_the_integral_of_its_profile():
    """theta_k counts (k / n)^(gamma + 1) - ((k - 1) / n)^(gamma + 1), and the random start nothing."""
    n, average = 40, PowerFunction(0.1)
    weights = torch.zeros(n + 1, dtype=torch.float64)
    weights[0] = 1
    for step in range(1, n + 1):
        weights *= average.decay(step)
        weights[step] += 1 - average.decay(step)
    k = torch.arange(n + 1, dtype=torch.float64)
    torch.testing.assert_close(weights[1:], ((k / n) ** (exponent(0.1) + 1)).diff(), rtol=1e-10, atol=1e-15)
    assert weights[0] == 0
    middle = float(weights[1:] @ (k[1:] - 0.5)) / n
    spread = math.sqrt(float(weights[1:] @ ((k[1:] - 0.5) / n - middle) ** 2))
    assert spread == pytest.approx(0.1, rel=0.01)


@pytest.mark.parametrize("rates", [(), (0.9, 0.9)])
def test_lengths_are_given_and_given_once(rates):
    with pytest.raises(ConfigError, match=r"ema\.rates"):
        Several(rates=rates)


class Count(TorchDispatchMode):
    """The operations that run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_an_update_is_one_call_for_each_average_and_waits_for_no_device(tiny, tmp_path):
    config = tiny({"ema": "several", "ema.rates": [0.9, 0.99], "ema.stds": [0.1]})
    module = build_experiment(config, tmp_path).module
    with Count() as count:
        module.update_averages(1)
    assert [name for name in count.names if "copy_" not in name] == ["aten._foreach_lerp_.Scalar"] * 3


@pytest.fixture(scope="module")
def several(tiny, tmp_path_factory):
    config = tiny({"ema": "several", "ema.rates": [0.9, 0.1], "ema.stds": [0.1]})
    return config, *fit(config, tmp_path_factory.mktemp("several"))


def test_each_average_is_that_of_a_run_that_keeps_it_alone(several, tiny, tmp_path):
    _, _, path = several
    for index, (name, key, value, argument) in enumerate(
        [
            ("exponential", "rate", 0.9, "ema_rate"),
            ("exponential", "rate", 0.1, "ema_rate"),
            ("power_function", "std", 0.1, "ema_std"),
        ]
    ):
        alone, _ = fit(tiny({"ema": name, f"ema.{key}": value}), tmp_path / str(index))
        loaded = dfw.load(path, **{argument: value}).state_dict()
        for weight, expected in alone.module.averaged.state_dict().items():
            assert torch.equal(loaded[weight], expected), (value, weight)


def test_samples_are_drawn_with_the_first(several):
    _, experiment, path = several
    first, asked = dfw.load(path).state_dict(), dfw.load(path, ema_rate=0.9).state_dict()
    for key, value in experiment.module.averaged.state_dict().items():
        assert torch.equal(first[key], value)
        assert torch.equal(asked[key], value)


def test_an_average_that_is_not_there_is_an_error_that_lists_those_that_are(several):
    _, _, path = several
    with pytest.raises(ConfigError, match=r"ema\.rate=0\.5: .*ema\.rate=0\.9, ema\.rate=0\.1, ema\.std=0\.1, .*raw_w"):
        dfw.load(path, ema_rate=0.5)
    with pytest.raises(ConfigError, match=r"ema\.std=0\.2: .*ema=post_hoc"):
        dfw.load(path, ema_std=0.2)


@pytest.mark.parametrize("options", [{"ema_rate": 0.9, "ema_std": 0.1}, {"ema_std": 0.1, "raw_weights": True}])
def test_one_kind_of_weights_is_asked_for_at_once(several, options):
    with pytest.raises(ConfigError, match="name different weights"):
        dfw.load(several[2], **options)


def test_without_an_average_the_trained_weights_are_kept_once_and_called_raw(tiny, tmp_path):
    config = tiny({"ema": "none", "network.dropout": 0.2})
    experiment, path = fit(config, tmp_path)
    content = torch.load(path, weights_only=True)
    assert all(key.startswith("denoiser.") for key in content["state_dict"])
    assert experiment.module.denoiser.training
    for key, value in experiment.module.denoiser.state_dict().items():
        assert torch.equal(dfw.load(path).state_dict()[key], value)
    assert "fid/pixels@8/raw" in experiment.trainer.callback_metrics
    with pytest.raises(ConfigError, match=r"ema\.rate=0\.9: .*no average"):
        dfw.load(path, ema_rate=0.9)


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp_cpu_offload", "deepspeed_stage_2"])
@pytest.mark.parametrize("name", ["exponential", "several", "post_hoc"])
def test_an_average_of_weights_in_parts_is_refused_when_built(tiny, tmp_path, strategy, name):
    config = tiny({"ema": name, "trainer.strategy": strategy})
    with pytest.raises(ConfigError, match=rf"ema={name} .*trainer\.strategy={strategy}.*ema=none"):
        build_experiment(config, tmp_path)


@pytest.mark.parametrize("argument", ["ema.rat=0.9", "ema.std=long"])
def test_a_wrong_key_or_value_is_refused_on_the_command_line(argument, tiny):
    tiny()
    with pytest.raises(ConfigError, match=r"ema"):
        check_command_line("evaluate", ["checkpoint=nowhere.ckpt", argument])


@pytest.mark.parametrize("averages", [3, {"averaged.": 1}, {"averaged.": {"rate": "x" * 1000}}, {5: {"rate": 0.9}}])
def test_a_forged_list_of_averages_is_an_error_that_names_the_file(several, tmp_path, averages):
    content = torch.load(several[2], weights_only=True)
    content["diffusion_fw"]["averages"] = averages
    torch.save(content, tmp_path / "forged.ckpt")
    with pytest.raises(ConfigError, match=r"forged\.ckpt"):
        dfw.load(tmp_path / "forged.ckpt")


def test_a_profile_is_a_density_of_its_std():
    t = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 1000
    density = Profile(0.07, 80.0).density(t)
    mass, mean = float(density.sum()) / 1000, float(density @ t) / 1000
    assert mass == pytest.approx(1, abs=1e-6)
    assert math.sqrt(float(density @ (t - mean) ** 2) / 1000) == pytest.approx(0.07 * 80, rel=1e-5)
