"""The stated memory of a run is the sum of its parts, and the memory that torch allocates."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.peak_memory import peak
from diffusion_fw.app.memory import describe_memory, describe_sampling_memory, estimate
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.composition.facts import Facts
from diffusion_fw.composition.parts import build_data, build_denoiser, build_sampler, build_wrappers
from diffusion_fw.sampling.chunk import PROBES, Chunk, Following, chunk_size, measure_chunk
from diffusion_fw.sampling.draw import draw
from diffusion_fw.training.trainer import start_autograd

CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture
def facts(tiny):
    return Facts.of(build_data(tiny()), tiny())


# --------------------------------------------------------------------------------------------------------------------
# Following tensors
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fake", [False, True])
def test_a_peak_is_what_was_alive_at_once(fake):
    def work():
        a = torch.zeros(MIB // 4)  # 1 MiB
        b = a + 1  # 2 MiB alive
        c = b.view(2, -1)  # the same storage
        del a, b
        d = c * c  # 2 MiB
        return d[:1] + d[:1]  # 2.5 MiB

    start_autograd()
    with FakeTensorMode() if fake else torch.no_grad():
        outside = torch.zeros(MIB)
        with Following() as watch:
            kept = work()
            outside.view(4, -1)
    assert (watch.peak, watch.now) == (5 * MIB // 2, MIB // 2)
    del kept
    assert watch.now == 0


# --------------------------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------------------------


def test_weights_gradients_moments_and_averages_are_multiples_of_the_parameters(tiny, facts):
    held = sum(item.nbytes for item in build_denoiser(tiny(), facts).parameters())
    memory = estimate(tiny(), facts, 8)
    assert (memory.parameters, memory.gradients, memory.averages) == (held, held, held)
    # Adam's count of steps is a number for each parameter.
    assert 2 * held <= memory.optimizer <= 2 * held + 8 * len(list(build_denoiser(tiny(), facts).parameters()))
    assert estimate(tiny({"ema": "none"}), facts, 8).averages == 0
    assert str(memory) in describe_memory(tiny(), facts, 8)


def test_several_processes_have_the_gradients_twice(tiny, facts):
    one, two = (estimate(tiny({"trainer.devices": count}), facts, 8) for count in (1, 2))
    assert two.gradients == 2 * one.gradients
    assert two.total - one.total == one.gradients


def test_the_memory_of_a_gpu_is_what_an_h200_allocated(tiny):
    """5,890 MiB in bf16 at batch 128: benchmarks/results/h200/2026-11-27/programs.json."""
    settings = {"channels": 128, "channel_mult": [1, 2, 2, 2], "num_res_blocks": 2, "attention_resolutions": [16]}
    config = tiny(
        {
            "data": "emoji",
            **{f"network.{key}": value for key, value in (settings | {"dropout": 0.1}).items()},
            **{"batch_size": 128, "trainer.accelerator": "gpu", "trainer.precision": "bf16-mixed"},
        }
    )
    stated = estimate(config, Facts.of(build_data(config), config), 128)
    assert stated.total / MIB == pytest.approx(5890, rel=0.1)


def test_activations_grow_linearly_with_the_batch(tiny, facts):
    first, second, third = (estimate(tiny(), facts, count).activations for count in (8, 16, 32))
    assert third - second == pytest.approx(2 * (second - first), rel=1e-3)


def test_checkpointing_and_bf16_keep_less(tiny, facts):
    plain = estimate(tiny(), facts, 8).activations
    assert estimate(tiny({"network.checkpointing": True}), facts, 8).activations < plain
    assert estimate(tiny({"trainer.precision": "bf16-mixed"}), facts, 8).activations < plain


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"network.checkpointing": True},
        {"network.channels": 32, "batch_size": 8},
        {"trainer.precision": "bf16-mixed"},
        {"optimizer": "sgd", "trainer.accumulate_grad_batches": 2},
    ],
    ids=str,
)
def test_the_stated_peak_of_training_is_what_torch_allocates(tiny, facts, tmp_path, changes):
    own = {"callbacks": [], "trainer.max_steps": 2, "network.channels": 8, "batch_size": 64, **changes}
    config = tiny(own)
    memory = estimate(config, facts, config["batch_size"] // config["trainer"]["accumulate_grad_batches"])
    experiment = build_experiment(config, tmp_path)
    held = sum(item.nbytes for item in experiment.module.state_dict().values())
    measured = held + peak(lambda: experiment.trainer.fit(experiment.module))
    emulated = config["trainer"]["precision"] == "bf16-mixed" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    # A processor without bf16 instructions computes on copies in float32, which are a kernel's workspace.
    within = 0.35 if emulated else 0.2
    assert memory.total == pytest.approx(measured, rel=within)


# --------------------------------------------------------------------------------------------------------------------
# Sampling
# --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [["clip"], ["classifier_free", "clip"]])
def test_the_stated_peak_of_sampling_is_what_torch_allocates(tiny, facts, guidance):
    config = tiny({"guidance": guidance, "network.channels": 8, "network.class_conditional": True})
    network, sampler, count = build_denoiser(config, facts).eval(), build_sampler(config), 64
    denoiser = build_wrappers(config, facts, True)(network)

    def told(indices):
        return facts.blank(len(indices), takes_class=facts.num_classes > 0)

    chunk = measure_chunk(sampler, denoiser, facts.shape, told, CPU)
    counts = facts.class_counts
    chunks = draw(sampler, denoiser, facts.shape, range(count), seed=0, class_counts=counts, batch_size=count)
    assert chunk.of(count) == pytest.approx(peak(lambda: next(chunks)), rel=0.2)


def test_the_statement_of_sampling_adds_weights_chunk_and_samples():
    network = torch.nn.Linear(MIB // 4, 1, bias=False)
    chunk = Chunk(fixed=MIB, each=MIB // 2)
    assert (
        describe_sampling_memory(network, chunk, 4, kept=MIB) == "5.0 MiB: weights 1.0, a chunk of 4 3.0, samples 1.0"
    )
    assert describe_sampling_memory(network, chunk, 4) == "4.0 MiB: weights 1.0, a chunk of 4 3.0"


def test_an_automatic_batch_is_the_largest_power_of_two_that_fits(monkeypatch):
    chunk = Chunk(fixed=1000, each=10)
    for examples, size in ((1, 1), (40, 32), (64, 64), (5000, 256)):
        free = 2 * chunk.of(examples)
        monkeypatch.setattr("os.sysconf", lambda name, free=free: free if "AVPHYS" in name else 1)
        assert chunk_size("auto", lambda: chunk, CPU) == size
    assert chunk_size(7, lambda: pytest.fail("nothing is to be measured"), CPU) == 7


def test_the_evaluation_of_a_run_takes_an_automatic_batch(tiny, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "diffusion_fw.training.callbacks.evaluation.chunk_size", lambda *asked: seen.append(asked) or PROBES[0]
    )
    config = tiny({"callbacks.evaluation.batch_size": "auto", "trainer.max_steps": 6, "callbacks.evaluation.every": 3})
    experiment = build_experiment(config, tmp_path)
    experiment.trainer.fit(experiment.module)
    assert [asked[0] for asked in seen] == ["auto"], "once for a run"
    assert seen[0][1]().each > 0
    assert experiment.evaluation.batch_size == PROBES[0]
    assert len(experiment.history.distances) == 2


def test_the_estimate_of_one_run_leaves_the_next_able_to_fork(tmp_path):
    """Fake tensors pretend that there are GPUs: autograd would start threads for them, which forking forbids."""
    code = """
import torch, torch.multiprocessing
from diffusion_fw.app.memory import estimate
from diffusion_fw.composition.facts import Facts
from diffusion_fw.composition.parts import build_data
from diffusion_fw.config.application import check_command_line
from diffusion_fw.config.compose import store_components

store_components()
config = check_command_line("train", ["network=mlp", "data=moons", "features=identity"])[0]
estimate(config, Facts.of(build_data(config), config), 4)

def backward(rank):
    torch.zeros((), requires_grad=True).backward()

torch.multiprocessing.start_processes(backward, nprocs=2, start_method="fork")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
