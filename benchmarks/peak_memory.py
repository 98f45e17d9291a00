"""The peak memory of training and of sampling, against the estimates that the programs print before they start."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.row import Row
from diffusion_fw.app.memory import estimate
from diffusion_fw.composition.experiment import build_experiment
from diffusion_fw.composition.facts import Facts
from diffusion_fw.composition.parts import build_data, build_denoiser, build_sampler, build_wrappers, is_conditional
from diffusion_fw.config.application import check_command_line
from diffusion_fw.config.compose import store_components
from diffusion_fw.sampling.chunk import measure_chunk
from diffusion_fw.sampling.draw import draw

WITHIN = 0.2
ARGUMENTS = ["trainer=cpu", "trainer.max_steps=3", "callbacks=none", "logger=none", "features=pixels"]
TRAINING = {
    "digits, default U-Net, batch 128": [],
    "`network.channels=96 batch_size=16`": ["network.channels=96", "batch_size=16"],
    "`network.checkpointing=true`": ["network.checkpointing=true"],
    "`network.checkpointing=true network.num_res_blocks=1 batch_size=256`": [
        "network.checkpointing=true",
        "network.num_res_blocks=1",
        "batch_size=256",
    ],
    "`trainer.precision=bf16-mixed`": ["trainer.precision=bf16-mixed"],
    "`trainer.accumulate_grad_batches=2`": ["trainer.accumulate_grad_batches=2"],
    "`optimizer=sgd ema=several`": ["optimizer=sgd", "ema=several"],
    "`data=moons network=mlp`": ["data=moons", "network=mlp", "features=identity"],
}
SAMPLING = {
    "sampling, chunk of 256": [],
    "sampling, `guidance=[classifier_free,clip]`": ["guidance=[classifier_free,clip]"],
    "sampling, `sampler=dpm_solver_pp network.channels=96`": ["sampler=dpm_solver_pp", "network.channels=96"],
}
CHUNK = 256


def peak(run: Callable[[], Any]) -> int:
    """The peak of the bytes that torch allocates on the CPU during ``run``."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
        run()
    with tempfile.TemporaryDirectory() as folder:
        watch.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(f"{folder}/trace.json").read_text())["traceEvents"]
    changes = [(item["ts"], item["args"]["Bytes"]) for item in events if item.get("name") == "[memory]"]
    most = now = 0
    for _, change in sorted(changes, key=lambda item: item[0]):
        now += change
        most = max(most, now)
    return most


def training(*arguments: str) -> tuple[int, int]:
    """(stated, measured) bytes of three training steps."""
    (config,) = check_command_line("train", [*ARGUMENTS, *arguments])
    local = config["batch_size"] // config["trainer"]["accumulate_grad_batches"]
    stated = estimate(config, Facts.of(build_data(config), config), local).total
    with tempfile.TemporaryDirectory() as folder:
        experiment = build_experiment(config, Path(folder))
        held = sum(item.nbytes for item in experiment.module.state_dict().values())
        return stated, held + peak(lambda: experiment.trainer.fit(experiment.module))


def sampling(*arguments: str) -> tuple[int, int]:
    """(stated, measured) bytes of sampling a chunk, without the weights."""
    (config,) = check_command_line("train", [*ARGUMENTS, "sampler.steps=3", *arguments])
    facts, sampler = Facts.of(build_data(config), config), build_sampler(config)
    network = build_denoiser(config, facts).eval()
    conditional = is_conditional(network)
    counts = facts.class_counts if conditional else ()
    denoiser = build_wrappers(config, facts, conditional)(network)

    def told(indices: Sequence[int]) -> Any:
        return facts.blank(len(indices), takes_class=conditional)

    stated = measure_chunk(sampler, denoiser, facts.shape, told, torch.device("cpu")).of(CHUNK)
    chunks = draw(sampler, denoiser, facts.shape, range(CHUNK), seed=0, class_counts=counts, batch_size=CHUNK)
    return stated, peak(lambda: next(chunks))


def measure() -> Iterator[Row]:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    store_components()
    for case, found in ((TRAINING, training), (SAMPLING, sampling)):
        for name, arguments in case.items():
            stated, measured = found(*arguments)
            yield Row(
                name, "the measured peak", stated, measured, stated / measured, 1 + WITHIN, 1 - WITHIN, unit="bytes"
            )
