"""Sampling: what a sampler's step costs beyond the network's own time, and evaluate.py as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import diffusion_fw as dfw
from benchmarks.device.card import device, release, seconds_per_call
from benchmarks.device.command import run as program
from benchmarks.device.command import train
from benchmarks.device.ddpm import SHAPE, network, overrides
from benchmarks.device.options import Options
from benchmarks.device.record import Record
from diffusion_fw.composition.parts import lay_out

SAMPLERS = ("ddim", "dpm_solver_pp", "ddpm", "unipc")
STEPS, COUNT, SECONDS = 10, 50_000, 120
AT_MOST = 0.03
"""The part of the network's own time that a sampler's step may cost beside it."""


def run(record: Record, options: Options) -> None:
    where, toy = device(), options.toy
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    batch, within = (4, 0.1) if toy else (256, 0.8)
    model = network(options).to(where).eval()
    lay_out(model, torch.device(where))
    denoiser = dfw.NetworkDenoiser(model, dfw.build("schedule", "linear"), dfw.build("parameterization", "epsilon"))
    x, label = torch.randn(batch, *SHAPE, device=where), torch.full((batch,), 500.0, device=where)
    alone: dict[str, float] = {}

    @torch.no_grad()
    def evaluation(precision: str) -> dict[str, Any]:
        with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
            alone[precision] = seconds_per_call(lambda: model(x, label), within=within)
        seconds = alone[precision]
        return {"text": f"{1e3 * seconds:.2f} ms, {batch / seconds:,.0f} images/s", "seconds": seconds}

    def overhead(name: str, precision: str) -> dict[str, Any]:
        sampler = dfw.build("sampler", name, steps=STEPS)
        evaluations = sum(step.evaluations for step in _steps(sampler, denoiser, x))
        with torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16"):
            seconds = seconds_per_call(lambda: sampler(denoiser, x), within=within, warmup=1) / evaluations
        extra = seconds / alone[precision] - 1
        text = f"{extra:+.1%} on the network's own {1e3 * alone[precision]:.2f} ms"
        return {"text": text, "ok": None if toy else extra <= AT_MOST, "overhead": extra, "seconds": seconds}

    for precision in ("tf32", "bf16"):
        record.measure(f"network alone, {precision}, batch {batch}", evaluation, precision, needs=3)
        for name in SAMPLERS:
            what = f"a step of sampler={name}, noise drawn on the device, {precision}"
            record.measure(what, overhead, name, precision, needs=3)

    def measured(*words: str) -> dict[str, Any]:
        done = program(
            "evaluate.py",
            options.work / "_".join(["distance", *words]).replace("=", "_"),
            f"checkpoint={checkpoint(options)}",
            "sampler=ddim",
            f"sampler.steps={STEPS}",
            "metric=fid",
            "features=efficientnet_lite0",
            f"metric.num_samples={COUNT}",
            "batch_size=1000",
            "precision=bf16-mixed",
            *words,
            timeout=record.left,
        )
        return {
            "text": f"{done.seconds:.1f} s in all",
            "ok": done.seconds <= SECONDS,
            "seconds": done.seconds,
            "output": done.output[-2000:],
        }

    if toy:
        return
    release()
    if not checkpoint(options).exists():
        record.measure("train.py, two steps for a checkpoint", model_for_sampling, record, options, needs=8)
    for words in ((), ("compile=true",)):
        name = " ".join([f"evaluate.py, {COUNT:,} samples of {STEPS} evaluations, bf16", *words])
        record.measure(name, measured, *words, needs=20)


def checkpoint(options: Options) -> Path:
    """The checkpoint whose samples are measured."""
    return options.shared / "model" / "checkpoints" / "last.ckpt"


def model_for_sampling(record: Record, options: Options) -> dict[str, Any]:
    """Make that checkpoint: the stage programs does it, or this one where there is none yet."""
    words = ("callbacks=[checkpoints]", "trainer.max_steps=2", "batch_size=8", "metric.num_samples=8")
    done = train(options.shared / "model", options.trainer, *overrides(options), *words, timeout=record.left)
    return {"text": f"{done.seconds:.1f} s"}


def _steps(sampler: Any, denoiser: Any, x: torch.Tensor) -> list[Any]:
    with torch.no_grad():
        return list(sampler.trajectory(denoiser, x))
