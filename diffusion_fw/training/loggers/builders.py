"""The registered loggers. Each builder imports its library only when it is called, so that --help stays fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from diffusion_fw.registry import ConfigError, Runtime, register


@register("logger", "csv")
def csv(folder: Runtime[Path]) -> Any:
    """Write metrics.csv into the run's folder."""
    from diffusion_fw.training.loggers.metrics_file import MetricsFile

    return MetricsFile(folder / "metrics.csv")


@register("logger", "tensorboard")
def tensorboard(folder: Runtime[Path]) -> Any:
    """Write TensorBoard events, including pictures, into the run's folder."""
    from diffusion_fw.training.loggers.tensorboard import TensorBoard

    return TensorBoard(folder)


@register("logger", "wandb")
def wandb(
    folder: Runtime[Path],
    mode: Literal["auto", "offline", "online"] = "auto",
    project: str = "diffusion_fw",
    entity: str | None = None,
    run_name: str | None = None,
    group: str | None = None,
    tags: list[str] = [],  # noqa: B006 - the default is read, never changed
) -> Any:
    """Log to W&B without ever prompting: mode=auto is online if a key is known, otherwise offline."""
    import wandb as client

    from diffusion_fw.training.loggers.weights_and_biases import WeightsAndBiases, has_key

    known = has_key()
    if mode == "online" and not known:
        raise ConfigError("mode=online needs a key: run `wandb login`, set WANDB_API_KEY, or use mode=offline")
    return WeightsAndBiases(
        name=run_name,
        project=project,
        entity=entity,
        group=group,
        tags=list(tags),
        save_dir=folder,
        offline=mode == "offline" or not known,
        settings=client.Settings(silent=True, init_timeout=60),
    )
