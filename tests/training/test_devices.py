"""Devices: a run in parts is the run in one piece; what the devices cannot do is refused when the run is built."""

from __future__ import annotations

from types import SimpleNamespace

import lightning
import pytest
import torch

from diffusion_fw.checkpoints.load import load
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.config.application import check_command_line
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.callbacks.history import PENDING_KEY, History

SHORT = {"callbacks": ["checkpoints"], "trainer.log_every_n_steps": 1, "trainer.max_steps": 4}
LEARNED = {
    "objective": "vlb",
    "variance": "learned_range",
    "time_sampler": "loss_aware",
    "time_sampler.history": 1,
    "schedule": "cosine",
    "schedule.num_steps": 4,
    "lr_schedule": "cosine",
    "lr_schedule.warmup_steps": 1,
}


def losses(config, folder):
    """Of each step, from the checkpoint: a forked process keeps its history to itself."""
    experiment = build_experiment(config, folder)
    experiment.trainer.fit(experiment.module)
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return [record["loss"] for record in content["callbacks"]["History"]["records"]], content


@pytest.mark.parametrize("objective", [{}, LEARNED], ids=["simple", "vlb with learned times"])
def test_accumulated_parts_and_processes_give_the_loss_curve_of_one(tiny, tmp_path, objective):
    whole, file = losses(tiny({**SHORT, **objective}), tmp_path / "whole")
    assert len(set(whole)) == 4
    for name, changes in {
        "parts": {"trainer.accumulate_grad_batches": 2},
        "processes": {"trainer.devices": 2, "trainer.strategy": "ddp_fork"},
    }.items():
        curve, other = losses(tiny({**SHORT, **objective, **changes}), tmp_path / name)
        assert curve == pytest.approx(whole, rel=1e-5), name
        for key, value in file["diffusion_fw"]["time_sampler"].items():
            assert torch.allclose(value, other["diffusion_fw"]["time_sampler"][key], rtol=1e-5), (name, key)


@pytest.mark.parametrize("precision", [32, "32", "32-true", "bf16-mixed"])
def test_names_of_precisions_are_accepted(tiny, tmp_path, precision):
    experiment = build_experiment(tiny({"trainer.precision": precision}), tmp_path)
    assert experiment.trainer.precision in ("32-true", "bf16-mixed")


def test_precision_32_is_accepted_on_the_command_line():
    assert check_command_line("train", ["trainer.precision=32"])[0]["trainer"]["precision"] == 32


def test_time_labels_are_float32_under_bf16(tiny, tmp_path):
    seen = {}

    class Watch(lightning.Callback):
        def on_train_start(self, trainer, pl_module):
            network = pl_module.denoiser.network
            network.register_forward_pre_hook(lambda _, args: seen.update(label=args[1].dtype))
            network.time.register_forward_hook(lambda _, args, result: seen.update(embedding=result.dtype))
            network.enter.register_forward_hook(lambda _, args, result: seen.update(hidden=result.dtype))

    changes = {**SHORT, "callbacks": [], "trainer.max_steps": 1, "trainer.precision": "bf16-mixed"}
    experiment = build_experiment(tiny(changes), tmp_path)
    experiment.trainer.callbacks.append(Watch())
    experiment.trainer.fit(experiment.module)
    assert seen == {"label": torch.float32, "embedding": torch.float32, "hidden": torch.bfloat16}


def test_float16_without_a_gpu_is_refused(tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"16-mixed needs a GPU.*bf16-mixed"):
        build_experiment(tiny({"trainer.precision": "16-mixed"}), tmp_path)


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_with_the_presets_that_fit(tiny, tmp_path):
    with pytest.raises(ConfigError, match=r"trainer\.accelerator=gpu.*trainer=cpu.*trainer=ddp_cpu"):
        build_experiment(tiny({"trainer.accelerator": "gpu"}), tmp_path)


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_spawn_find_unused_parameters_true"])
def test_spawned_processes_are_refused_with_what_to_use_instead(tiny, tmp_path, strategy):
    with pytest.raises(ConfigError, match=rf"trainer\.strategy={strategy}: .*trainer\.strategy=ddp_fork"):
        build_experiment(tiny({"trainer.devices": 2, "trainer.strategy": strategy}), tmp_path)


def test_losses_of_a_checkpoint_follow_the_module_to_its_device():
    """Lightning loads a checkpoint before it moves the module; the meta device stands in for a GPU."""
    history, trainer = History(every=1), SimpleNamespace(global_rank=0, world_size=1, global_step=0)
    history.on_load_checkpoint(trainer, SimpleNamespace(device=torch.device("cpu")), {PENDING_KEY: torch.ones(3)})
    history.on_train_start(trainer, SimpleNamespace(device=torch.device("meta")))
    assert [losses.device.type for losses in history._losses] == ["meta"]


def test_fewer_samples_than_processes_are_refused(tiny, tmp_path):
    changes = {"trainer.devices": 4, "trainer.strategy": "ddp_fork", "metric.num_samples": 3}
    with pytest.raises(ConfigError, match=r"metric\.num_samples=3.*4 processes"):
        build_experiment(tiny(changes), tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_fsdp_composes_and_says_that_it_needs_gpus(tmp_path):
    (config,) = check_command_line("train", ["trainer=fsdp", "ema=none"])
    assert config["trainer"]["strategy"] == "fsdp"
    with pytest.raises(ConfigError, match=r"needs GPUs.*trainer=ddp_cpu"):
        build_experiment(config, tmp_path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trainer.gradient_clip_val", 1.0, r"gradient_clip_val=1 .*gradient_clip_val=0"),
        ("trainer.precision", "bf16-mixed", r"precision=bf16-mixed .*trainer\.precision=32"),
        ("trainer.precision", "16-mixed", r"precision=16-mixed .*trainer\.precision=32"),
    ],
)
def test_what_fsdp_cannot_do_is_refused(tiny, tmp_path, monkeypatch, key, value, message):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    fsdp = {"ema": "none", "trainer.accelerator": "gpu", "trainer.strategy": "fsdp", "trainer.gradient_clip_val": 0.0}
    with pytest.raises(ConfigError, match=message):
        build_experiment(tiny({**fsdp, key: value}), tmp_path)


EDM2 = {"network": "edm2_unet", "network.channel_mult": [1], "network.attention_resolutions": [], "ema": "none"}


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp_cpu_offload", "deepspeed_stage_2"])
def test_weights_in_parts_are_refused_for_a_network_that_writes_them(tiny, tmp_path, strategy):
    config = tiny({**EDM2, "trainer.strategy": strategy})
    with pytest.raises(ConfigError, match=rf"network=edm2_unet .*trainer\.strategy={strategy} .*trainer\.strategy=ddp"):
        build_experiment(config, tmp_path)
    assert build_experiment(tiny(EDM2), tmp_path).module.denoiser.network.writes_weights


def test_a_compiled_run_is_that_of_the_plain_network_and_its_checkpoint_loads_as_any(tiny, tmp_path, monkeypatch):
    """The eager backend: the network is traced as for any other, and no compiler is needed."""
    compiled = []

    def eager(module, **_):
        compiled.append(module)
        module._compiled_call_impl = torch.compile(module._call_impl, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", eager)
    plain, file = losses(tiny({**SHORT, "trainer.max_steps": 2}), tmp_path / "plain")
    assert not compiled
    curve, other = losses(tiny({**SHORT, "trainer.max_steps": 2, "compile": True}), tmp_path / "compiled")
    assert len(compiled) == 2  # the network and its first average
    assert curve == pytest.approx(plain, rel=1e-5)
    assert other["state_dict"].keys() == file["state_dict"].keys()
    load(tmp_path / "compiled" / "checkpoints" / "last.ckpt")
