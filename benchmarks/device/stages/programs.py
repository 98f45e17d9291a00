"""The programs on the GPU by their command lines: resume, strategies, precisions, compilation, memory, evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.device.command import Done, train
from benchmarks.device.command import run as program
from benchmarks.device.ddpm import Timed
from benchmarks.device.options import TINY, Options
from benchmarks.device.record import Record
from benchmarks.device.stages.sampling import model_for_sampling

STATED = r"memory per process, estimated: ([\d.,]+) MiB"
MEMORY_WITHIN, WORKSPACES = 0.15, 100
"""Of what is allocated, and MiB of the workspaces of kernels, which are not estimated."""
QUICK = ("callbacks=[health,checkpoints]", "lr_schedule=constant", "trainer.log_every_n_steps=8")


def run(record: Record, options: Options) -> None:
    size = TINY if options.toy else ("metric.num_samples=100", "sampler.steps=5")
    work = options.work

    def trained(name: str, *overrides: str) -> Done:
        chosen = [] if any(item.startswith("trainer=") for item in overrides) else [options.trainer]
        # Many run at once.
        return train(work / name, *chosen, *size, *overrides, timeout=record.left, OMP_NUM_THREADS="2")

    def whole() -> dict[str, Any]:
        """A run with an evaluation, then samples, a distance and bits per dimension of its checkpoint."""
        done = trained("whole", "trainer.precision=32", "trainer.max_steps=12")
        return {"text": f"{done.seconds:.1f} s", "ok": True}

    def of_checkpoint(name: str, script: str, *overrides: str) -> Callable[[], dict[str, Any]]:
        def call() -> dict[str, Any]:
            checkpoint = f"checkpoint={work / 'whole' / 'checkpoints' / 'last.ckpt'}"
            done = program(script, work / name, checkpoint, *overrides, timeout=record.left)
            return {"text": f"{done.seconds:.1f} s", "ok": True}

        return call

    def resumed(name: str, *overrides: str) -> Callable[[], dict[str, Any]]:
        """A run of 20 steps against one of 10 that is then resumed."""

        def call() -> dict[str, Any]:
            words = (*QUICK, "trainer.precision=32", *overrides)
            trained(f"{name}_once", *words, "trainer.max_steps=20")
            trained(f"{name}_twice", *words, "trainer.max_steps=10")
            folder = work / f"{name}_twice"
            train(folder, f"resume={folder}", "trainer.max_steps=20", timeout=record.left)
            once, twice = (_state(work / f"{name}_{which}") for which in ("once", "twice"))
            unequal = [key for key in once if not torch.equal(once[key], twice[key])]
            largest = max(float((once[key].double() - twice[key].double()).abs().max()) for key in once)
            text = "equal to the bit" if not unequal else f"{len(unequal)} of {len(once)} differ, by {largest:.1e}"
            return {"text": text, "ok": not unequal, "unequal": unequal, "largest": largest}

        return call

    def remembered(name: str, *overrides: str) -> Callable[[], dict[str, Any]]:
        """Stated memory against torch's own peak."""

        def call() -> dict[str, Any]:
            words = ("callbacks=[device_watch]", "callbacks.device_watch.first=2", "callbacks.device_watch.steps=4")
            done = trained(name, *words, "trainer.max_steps=8", *overrides)
            stated, peak = done.number(STATED), done.watched.get("peak_memory_of_steps")
            if peak is None or stated is None:
                return {"text": f"stated {stated} MiB, nothing to compare with"}
            measured = peak / 2**20
            text = f"stated {stated:,.1f} MiB, allocated {measured:,.1f} MiB, ratio {stated / measured:.2f}"
            ok = abs(stated - measured) <= MEMORY_WITHIN * measured + WORKSPACES
            return {"text": text, "ok": ok, "stated": stated, "measured": measured}

        return call

    def works(name: str, *overrides: str) -> Callable[[], dict[str, Any]]:
        def call() -> dict[str, Any]:
            done = trained(name, *QUICK, "trainer.max_steps=12", *overrides)
            (*_, (_, loss)) = done.column("train/loss")
            return {"text": f"loss {loss:.4f}, {done.seconds:.1f} s", "ok": loss == loss, "loss": loss}

        return call

    def waits() -> dict[str, Any]:
        """Where the host waits for the device in a step of train.py, and what takes its own time."""
        timed = Timed(record, options)
        result = timed.program("waits", 128, steps=10, first=10, profile=True, syncs=True)
        slowest = max(result["host_profile"], key=lambda item: item["own_ms"])
        text = f"{result['syncs_per_step']:g} waits of the host a step; slowest on the host: {slowest['function']}"
        return {**result, "text": f"{text}, {slowest['own_ms']:.1f} ms a step"}

    first: dict[str, Callable[[], dict[str, Any]]] = {"train.py with an evaluation": whole}
    exact = ("trainer.deterministic=true", "trainer.benchmark=false")
    checks: dict[str, Callable[[], dict[str, Any]]] = {
        "evaluate.py": of_checkpoint("distance", "evaluate.py", "metric.num_samples=8", "sampler.steps=2"),
    }
    if not options.toy:
        ddpm = "network.channels=128", "network.channel_mult=[1,2,2,2]", "network.num_res_blocks=2"
        checks |= {
            "the checkpoint of the stage sampling": lambda: model_for_sampling(record, options),
            "evaluate.py, several metrics": of_checkpoint(
                "several",
                "evaluate.py",
                "metric=[fid,kid,precision_recall,density_coverage,sliced_wasserstein,energy_distance,memorization]",
                "metric.num_samples=40",
                "sampler.steps=2",
            ),
            "waits of the host in train.py": waits,
            "trainer=fsdp ema=none": works("fsdp", "trainer=fsdp", "trainer.devices=1", "ema=none"),
            "trainer=ddp": works("ddp", "trainer=ddp", "trainer.devices=1"),
            "memory, 35.7M network, bf16": remembered(
                "memory_ddpm", "data=emoji", *ddpm, "network.attention_resolutions=[16]", "network.dropout=0.1"
            ),
            "memory, default network, 32": remembered("memory_32", "trainer.precision=32"),
            "memory, default network, bf16": remembered("memory_bf16"),
            "resume, trainer.deterministic=true": resumed("exact", *exact),
            "evaluate.py metric=nll": of_checkpoint(
                "bits", "evaluate.py", "metric=nll", "metric.num_images=8", "metric.flow_images=4", "metric.steps=10"
            ),
            "resume, as the preset is": resumed("preset"),
            "resume, trainer.benchmark=false": resumed("fixed", "trainer.benchmark=false"),
            "sample.py sampler=ddpm": of_checkpoint("drawn", "sample.py", "sampler=ddpm", "sampler.steps=10"),
            "compile=true": works("compiled", "compile=true"),
            "evaluate.py precision=bf16-mixed compile=true": of_checkpoint(
                "lower",
                "evaluate.py",
                "metric.num_samples=8",
                "sampler.steps=2",
                "precision=bf16-mixed",
                "compile=true",
            ),
            "trainer.precision=16-mixed": works("half", "trainer.precision=16-mixed"),
            "trainer.accumulate_grad_batches=2": works("parts", "trainer.accumulate_grad_batches=2"),
            "network.checkpointing=true": works("checkpointing", "network.checkpointing=true"),
            "network.dropout=0.1": works("dropout", "network.dropout=0.1"),
            "num_workers=2": works("workers", "num_workers=2"),
            "objective=vlb, learned variance and times": works(
                "vlb", "objective=vlb", "variance=learned_range", "time_sampler=loss_aware", "time_sampler.history=1"
            ),
            "objective=uncertainty": works("uncertainty", "objective=uncertainty"),
            "ema=several": works("several", "ema=several"),
            "ema=post_hoc": works("post_hoc", "ema=post_hoc", "ema.every=4"),
            "optimizer=sgd": works("sgd", "optimizer=sgd"),
            "data=moons network=mlp": works("moons", "data=moons", "network=mlp", "features=identity"),
        }
    for name, check in first.items():
        record.measure(name, check)
    at_once = max(1, min(4, (os.cpu_count() or 2) // 4))
    with ThreadPoolExecutor(at_once) as pool:
        for name, check in checks.items():
            pool.submit(record.measure, name, check, needs=5)


def _state(folder: Path) -> dict[str, torch.Tensor]:
    content = torch.load(folder / "checkpoints" / "last.ckpt", map_location="cpu", weights_only=True)
    state: dict[str, torch.Tensor] = dict(content["state_dict"])
    for number, optimizer in enumerate(content["optimizer_states"]):
        for index, values in optimizer["state"].items():
            state |= {f"optimizer {number}.{index}.{key}": value for key, value in values.items()}
    return state
