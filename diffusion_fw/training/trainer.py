"""Lightning's Trainer."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, Literal

import torch

from diffusion_fw.registry import ConfigError, NonNegative, NonNegativeInt, PositiveInt, Runtime, register

STEPS = "a run is one endless epoch and counts steps: trainer.max_steps=N"
EVALUATIONS = "callbacks.evaluation.every=N steps, of metric.num_samples=N samples, is what a run measures"
CHOSEN = "callbacks=[...] lists what a run has"

ABSENT = {
    "max_epochs": STEPS,
    "min_epochs": STEPS,
    "min_steps": STEPS,
    "limit_train_batches": f"{STEPS} ends it, and trainer.overfit_batches=N repeats the first N batches",
    "fast_dev_run": "debug=fast runs two steps with the loops and checkpoints of a whole run",
    "limit_val_batches": EVALUATIONS,
    "limit_test_batches": "evaluate.py measures, on metric.num_samples=N samples",
    "limit_predict_batches": "sample.py draws num_samples=N samples",
    "check_val_every_n_epoch": EVALUATIONS,
    "num_sanity_val_steps": "explain=true builds every part and runs a few steps",
    "enable_progress_bar": f"{CHOSEN}; leave out progress",
    "enable_checkpointing": f"{CHOSEN}; leave out checkpoints",
    "enable_model_summary": "explain=true states the parameters and the memory",
    "logger": "it is a group of its own, logger=[csv,wandb]",
    "callbacks": "it is a group of its own, callbacks=[...]",
    "default_root_dir": "hydra.run.dir=... is the folder of a run",
    "reload_dataloaders_every_n_epochs": STEPS,
    "use_distributed_sampler": "each process takes its own rows of a batch, whatever their number",
    "plugins": "a component of your own is a file in plugins/",
}
"""Arguments of Lightning's Trainer that a run of steps gives no meaning, and what to do instead."""

PROFILERS = {"simple": "SimpleProfiler", "advanced": "AdvancedProfiler", "pytorch": "PyTorchProfiler"}
"""Lightning's classes: the time of each hook, of each function, of each kernel."""


@register("trainer", "default", absent=ABSENT)
def default(
    loggers: Runtime[list[Any]],
    callbacks: Runtime[list[Any]],
    folder: Runtime[Path],
    max_steps: PositiveInt = 1400,
    accelerator: Literal["auto", "cpu", "gpu", "mps", "tpu"] = "auto",
    devices: int | list[int] | Literal["auto"] = 1,
    num_nodes: PositiveInt = 1,
    strategy: str = "auto",
    precision: Literal["32-true", "bf16-mixed", "16-mixed", 32, "32"] = "32-true",
    gradient_clip_val: NonNegative = 1.0,
    gradient_clip_algorithm: Literal["norm", "value"] = "norm",
    accumulate_grad_batches: PositiveInt = 1,
    log_every_n_steps: PositiveInt = 50,
    val_check_interval: PositiveInt | None = None,
    deterministic: bool = False,
    benchmark: bool = False,
    max_time: str | None = None,
    overfit_batches: NonNegativeInt = 0,
    profiler: Literal["simple", "advanced", "pytorch"] | None = None,
    detect_anomaly: bool = False,
    sync_batchnorm: bool = False,
) -> Any:
    """Run max_steps optimizer steps on the given devices; gradient_clip_val=0 does not clip.

    val_check_interval is Lightning's: the number of batches between evaluations, in place of the callbacks' own
    `every`, which counts optimizer steps.

    max_time="DD:HH:MM:SS" ends the run earlier, as a whole one. overfit_batches=N repeats the first N batches of the
    run. profiler writes what took how long to fit-profile.txt in the folder of the run. detect_anomaly names the
    operation that gives NaN, at twice the time.

    Raises ConfigError for missing GPUs, spawned processes, FSDP with clipping, and float16 without a GPU.
    """
    check_devices(accelerator, strategy, str(precision), gradient_clip_val)
    check_time(max_time)
    start_autograd()
    import lightning
    import lightning.pytorch.profilers
    from lightning.pytorch.callbacks import Checkpoint, ProgressBar

    from diffusion_fw.training.durable import DurableIO

    trainer = lightning.Trainer(
        max_steps=max_steps,
        max_epochs=-1,
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        precision=precision,
        gradient_clip_val=gradient_clip_val,
        gradient_clip_algorithm=gradient_clip_algorithm,
        accumulate_grad_batches=accumulate_grad_batches,
        log_every_n_steps=log_every_n_steps,
        # Lightning refuses one that is longer than the run.
        val_check_interval=val_check_interval and min(val_check_interval, max_steps * accumulate_grad_batches),
        deterministic=deterministic,
        benchmark=benchmark,
        max_time=max_time,
        profiler=profiler and getattr(lightning.pytorch.profilers, PROFILERS[profiler])(folder, "profile"),
        detect_anomaly=detect_anomaly,
        sync_batchnorm=sync_batchnorm,
        default_root_dir=folder,
        logger=loggers or False,
        callbacks=callbacks,
        plugins=[DurableIO()],
        use_distributed_sampler=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        # Evaluations start the validation loop themselves (training/callbacks/heldout.py), and Lightning never does.
        check_val_every_n_epoch=sys.maxsize,
        limit_val_batches=1,
    )
    # Lightning's own would begin the stream of batches anew in each of its epochs; the module reads this.
    trainer.overfit_batches = overfit_batches  # type: ignore[attr-defined]
    return trainer


def check_time(max_time: str | None) -> None:
    """Raise ConfigError for a duration that is not DD:HH:MM:SS."""
    if max_time is not None and (not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", max_time) or not max_time.strip("0:")):
        raise ConfigError(
            f"trainer.max_time={max_time}: must be DD:HH:MM:SS above zero, such as 00:12:00:00 for twelve hours, "
            "or null"
        )


def start_autograd() -> None:
    """Let autograd count the devices now, before fake tensors are used, here or by torch.compile.

    Fake tensors pretend that there are eight GPUs. A process whose first backward pass sees them starts a thread for
    each, and backward fails in the processes that it forks later, as the next job of a sweep may do.
    """
    torch.zeros((), requires_grad=True).backward()  # type: ignore[no-untyped-call]


def check_devices(accelerator: str, strategy: str, precision: str, gradient_clip_val: float) -> None:
    """Raise ConfigError for what the devices or the strategy cannot do, with presets that work."""
    gpu = accelerator in ("auto", "gpu") and torch.cuda.is_available()
    if accelerator == "gpu" and not (gpu or torch.backends.mps.is_available() or strategy.startswith("fsdp")):
        raise ConfigError(
            "trainer.accelerator=gpu finds no GPU here; choose trainer=cpu for one process or trainer=ddp_cpu for two"
        )
    if "_spawn" in strategy:
        raise ConfigError(
            f"trainer.strategy={strategy}: the parts of a run, such as plugins, cannot be sent to a spawned process; "
            "choose trainer.strategy=ddp, or trainer.strategy=ddp_fork inside a sweep"
        )
    if strategy.startswith("fsdp"):
        if not gpu:
            raise ConfigError(
                f"trainer.strategy={strategy} needs GPUs, and trainer.accelerator={accelerator} finds none here; "
                "choose trainer=cpu for one process or trainer=ddp_cpu for two"
            )
        if gradient_clip_val:
            raise ConfigError(
                f"trainer.gradient_clip_val={gradient_clip_val:g} would clip by the norm of a part of the gradient "
                f"under trainer.strategy={strategy}; set trainer.gradient_clip_val=0 or choose trainer=ddp"
            )
        if precision.endswith("-mixed"):
            raise ConfigError(
                f"trainer.precision={precision} under trainer.strategy={strategy} would round the embedding of times, "
                "which must stay float32; set trainer.precision=32 or choose trainer=ddp"
            )
    host = accelerator == "cpu" or (accelerator == "auto" and not gpu and not torch.backends.mps.is_available())
    if precision == "16-mixed" and host:
        raise ConfigError(
            "trainer.precision=16-mixed needs a GPU; choose trainer.precision=32 or trainer.precision=bf16-mixed"
        )
