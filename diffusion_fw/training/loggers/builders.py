"""The registered loggers. Each builder imports its library only when it is called, so that --help stays fast."""

from __future__ import annotations

import os
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
    """Write TensorBoard events, including pictures, into the run's folder. Needs the extra `tensorboard`."""
    try:
        from diffusion_fw.training.loggers.tensorboard import TensorBoard
    except ModuleNotFoundError as error:
        raise ConfigError(f"logger=tensorboard needs {error.name}: pip install 'diffusion-fw[tensorboard]'") from None
    return TensorBoard(folder)


@register("logger", "wandb")
def wandb(
    folder: Runtime[Path],
    labels: Runtime[Any] = None,
    mode: Literal["auto", "offline", "online", "disabled"] = "auto",
    project: str = "",
    entity: str | None = None,
    run_name: str | None = None,
    group: str | None = None,
    job_type: str | None = None,
    tags: list[str] = [],  # noqa: B006 - the default is read, never changed
    uploads: list[Literal["checkpoints", "results", "code"]] = [],  # noqa: B006
) -> Any:
    """Log to W&B without ever prompting: mode=auto is as WANDB_MODE says, or online if a key is known, or offline.

    What is left open or empty is taken from wandb's own settings and variables, such as WANDB_PROJECT, WANDB_TAGS and
    WANDB_RUN_GROUP; then the project is diffusion_fw, and the runs of a sweep are a group. Of `uploads`, checkpoints,
    results and the code go up as artifacts.
    """
    from diffusion_fw.training.loggers import weights_and_biases
    from diffusion_fw.training.loggers.fan_out import Labels

    return weights_and_biases.logger(
        folder,
        labels or Labels(),
        mode=mode,
        project=project,
        entity=entity,
        run_name=run_name,
        group=group,
        job_type=job_type,
        tags=tags,
        uploads=uploads,
    )


@register("logger", "mlflow")
def mlflow(
    folder: Runtime[Path],
    labels: Runtime[Any] = None,
    tracking_uri: str = "",
    experiment: str = "diffusion_fw",
    run_name: str | None = None,
    uploads: list[Literal["checkpoints", "results"]] = [],  # noqa: B006
) -> Any:
    """Log to MLflow: to tracking_uri, or MLFLOW_TRACKING_URI, or mlflow.db in the working directory.

    Needs the extra `mlflow`. Of `uploads`, checkpoints and results go up as artifacts.
    """
    from diffusion_fw.training.loggers.fan_out import Labels

    try:
        from diffusion_fw.training.loggers.mlflow import MLflow
    except ModuleNotFoundError as error:
        raise ConfigError(f"logger=mlflow needs {error.name}: pip install 'diffusion-fw[mlflow]'") from None
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    return MLflow(
        folder, labels or Labels(), tracking_uri=uri, experiment=experiment, run_name=run_name, uploads=uploads
    )
