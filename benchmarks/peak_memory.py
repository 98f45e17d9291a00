"""The peak of a training run's memory, against the estimate that is stated before it starts."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from diffusion_fw.app.memory import estimate
from diffusion_fw.composition import Facts, build_data, build_experiment
from diffusion_fw.config import check_command_line, store_components

WITHIN = 0.2
ARGUMENTS = ["trainer=cpu", "trainer.max_steps=3", "callbacks=none", "logger=none", "features=pixels"]
CASES = {
    "unet": ["batch_size=128"],
    "wide unet, small batch": ["network.channels=96", "batch_size=16"],
    "unet, checkpointing": ["batch_size=128", "network.checkpointing=true"],
}


def peak(config: dict) -> int:
    """The most bytes that torch had allocated at once on the CPU, the model's own included."""
    with tempfile.TemporaryDirectory() as folder:
        experiment = build_experiment(config, Path(folder))
        held = sum(item.nbytes for item in experiment.module.state_dict().values())
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watch:
            experiment.trainer.fit(experiment.module)
        watch.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(f"{folder}/trace.json").read_text())["traceEvents"]
    changes = [(item["ts"], item["args"]["Bytes"]) for item in events if item.get("name") == "[memory]"]
    most = now = 0
    for _, change in sorted(changes, key=lambda item: item[0]):
        now += change
        most = max(most, now)
    return held + most


def measure() -> list[tuple[str, int, int, float]]:
    """Of every case its estimate, what was measured and their ratio."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    store_components()
    rows = []
    for name, arguments in CASES.items():
        (config,) = check_command_line("train", [*ARGUMENTS, *arguments])
        stated = estimate(config, Facts.of(build_data(config), config), config["batch_size"]).total
        measured = peak(config)
        rows.append((name, stated, measured, stated / measured))
    return rows


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, stated, measured, ratio in measure():
        print(f"{name}: stated {stated / 2**20:.1f} MiB, measured {measured / 2**20:.1f} MiB, ratio {ratio:.2f}")
