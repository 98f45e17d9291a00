"""Lightning's Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from diffusion_fw.registry import NonNegative, PositiveInt, Runtime, register


@register("trainer", "default")
def default(
    loggers: Runtime[list[Any]],
    callbacks: Runtime[list[Any]],
    folder: Runtime[Path],
    max_steps: PositiveInt = 1400,
    accelerator: Literal["auto", "cpu", "gpu", "mps", "tpu"] = "auto",
    devices: int | list[int] | Literal["auto"] = 1,
    num_nodes: PositiveInt = 1,
    strategy: str = "auto",
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true"] = "32-true",
    gradient_clip_val: NonNegative = 1.0,
    accumulate_grad_batches: PositiveInt = 1,
    log_every_n_steps: PositiveInt = 50,
    deterministic: bool = False,
    benchmark: bool = False,
) -> Any:
    """Run max_steps optimizer steps on the devices given; gradient_clip_val=0 doesn't clip."""
    import lightning
    from lightning.pytorch.callbacks import Checkpoint, ProgressBar

    from diffusion_fw.training.durable import DurableIO

    return lightning.Trainer(
        max_steps=max_steps,
        max_epochs=-1,
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        precision=precision,
        gradient_clip_val=gradient_clip_val,
        accumulate_grad_batches=accumulate_grad_batches,
        log_every_n_steps=log_every_n_steps,
        deterministic=deterministic,
        benchmark=benchmark,
        default_root_dir=folder,
        logger=loggers or False,
        callbacks=callbacks,
        plugins=[DurableIO()],
        use_distributed_sampler=False,
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
