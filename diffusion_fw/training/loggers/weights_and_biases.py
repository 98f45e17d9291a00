"""Weights & Biases."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from diffusion_fw.registry import ConfigError, discovery
from diffusion_fw.training.loggers import wandb_internals
from diffusion_fw.training.loggers.fan_out import Curve, Labels
from diffusion_fw.training.os_errors import warn_once

STEP = "trainer/global_step"
"""The name that Lightning gives the axis of optimizer steps."""
BEST = "best_distance"
"""What a sweep of W&B minimises, whichever metric the runs are measured by."""
MOST_CURVES = 10
"""Of one chart; more could not be told apart."""
TAG_LENGTH = 64
"""Characters; W&B refuses longer tags."""


class WeightsAndBiases(WandbLogger):
    """A W&B run that survives a server which does not answer, and continues after a resume.

    ``uploads`` names what else goes up: `checkpoints`, `results`, `code`.
    """

    def __init__(self, *, mode: str, uploads: Iterable[str] = (), **init: Any) -> None:
        super().__init__(**init)
        # Lightning would keep offline in the environment, for all later runs of this process.
        self._wandb_init.update(mode=mode, project=init["project"])
        self.uploads = frozenset(uploads)
        self._curves: dict[str, dict[int, tuple[list[float], list[float]]]] = {}
        self._samples: Any = None

    # ----------------------------------------------------------------------------------------------------------------
    # The run
    # ----------------------------------------------------------------------------------------------------------------

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; an offline one if the server does not answer."""
        if self._experiment is None:
            self._experiment = self._started()
            self._experiment.define_metric(STEP)
            self._experiment.define_metric("*", step_metric=STEP, step_sync=True)
            self.define_minimum("heldout/loss")
            if "code" in self.uploads:
                self._upload_code()
        return self._experiment

    def _started(self) -> Any:
        if wandb.run is not None:
            # The caller's own.
            return wandb.run
        try:
            run = wandb.init(**self._wandb_init)
        except wandb.errors.Error as error:
            self._wandb_init["mode"] = "offline"
            run = wandb.init(**self._wandb_init)
            kept = Path(run.dir).parent
            warn_once("W&B's server", error, f"the run is logged offline; `wandb sync {kept}` uploads it later")
        return run

    @property
    def where(self) -> str:
        """Where a person finds the run."""
        run = self.experiment
        match self._wandb_init["mode"]:
            case "disabled":
                return "W&B: disabled"
            case "offline":
                return f"W&B: offline; to upload the run: wandb sync {Path(run.dir).parent}"
        return f"W&B: {run.url}"

    def state(self) -> dict[str, Any]:
        curves = [[name, step, *points] for name, curves in self._curves.items() for step, points in curves.items()]
        return {"run_id": self.version, "curves": curves}

    def resume(self, step: int, state: Mapping[str, Any]) -> None:
        """Continue the same W&B run."""
        self._wandb_init.update(id=state.get("run_id"), resume="allow")
        for name, at, x, y in state.get("curves", []):
            if at <= step:
                self._curves.setdefault(str(name), {})[int(at)] = ([*map(float, x)], [*map(float, y)])

    @rank_zero_only
    def finalize(self, status: str) -> None:
        # Otherwise the next job of a sweep would log into this run.
        wandb.finish(exit_code=0 if status == "success" else 1)

    # ----------------------------------------------------------------------------------------------------------------
    # What it is told
    # ----------------------------------------------------------------------------------------------------------------

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        wandb_internals.unlock(self.experiment.config, params)
        super().log_hyperparams(params)

    @rank_zero_only
    def define_minimum(self, name: str) -> None:
        """Keep the smallest value of a number in the summary, beside its last one."""
        self.experiment.define_metric(name, step_metric=STEP, step_sync=True, summary="min,last")

    @rank_zero_only
    def log_best(self, value: float, step: int) -> None:
        """The best distance so far, whose last value is the run's in the summary."""
        if math.isfinite(value):
            self.log_metrics({BEST: value}, step)

    @rank_zero_only
    def log_summary(self, values: Mapping[str, Any]) -> None:
        self.experiment.summary.update(dict(values))

    @rank_zero_only
    def log_curve(self, curve: Curve, step: int) -> None:
        """One chart of the curves of the evaluations so far, of at most MOST_CURVES of them."""
        drawn = self._curves.setdefault(curve.name, {})
        drawn[step] = (list(curve.log_snr), list(curve.values))
        while len(drawn) > MOST_CURVES:
            # The evaluation that is closest to its neighbours: what stays is spread evenly over the training.
            steps = list(drawn)
            gaps = {at: after - before for before, at, after in zip(steps, steps[1:], steps[2:], strict=False)}
            del drawn[min(gaps, key=lambda at: gaps[at])]
        rows = [[x, f"step {at:,}", y] for at, points in drawn.items() for x, y in zip(*points, strict=True)]
        chart = wandb.plot_table(
            data_table=wandb.Table(columns=["log-SNR", "evaluation", "value"], data=rows),
            vega_spec_name="wandb/lineseries/v0",
            fields={"step": "log-SNR", "lineKey": "evaluation", "lineVal": "value"},
            string_fields={"title": curve.name, "xname": "log-SNR"},
        )
        self.log_metrics({curve.name: chart}, step)  # type: ignore[dict-item]

    @rank_zero_only
    def log_picture(self, name: str, path: Path, step: int) -> None:
        self.log_image(name, [str(path)], step=step)

    @rank_zero_only
    def log_samples(self, path: Path, values: Mapping[str, float], step: int) -> None:
        """A row of the table of samples over training."""
        if self._samples is None:
            columns: list[str | int] = ["step", "samples", *values]
            self._samples = wandb.Table(columns=columns, log_mode="INCREMENTAL")
        self._samples.add_data(step, wandb.Image(str(path)), *values.values())
        self.log_metrics({"samples over training": self._samples}, step)

    @rank_zero_only
    def log_animation(self, name: str, path: Path, step: int) -> None:
        self.log_video(name, [str(path)], step=step, format=["gif"])

    @rank_zero_only
    def log_rows(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """A table."""
        self.log_table(name, list(columns), [list(row) for row in rows], step=step)

    @rank_zero_only
    def log_checkpoints(self, paths: Sequence[Path], step: int) -> None:
        """Upload checkpoints, if the config asks for them."""
        if "checkpoints" in self.uploads:
            self._upload("model", "checkpoints", paths, {"step": step})

    @rank_zero_only
    def log_results(self, paths: Sequence[Path]) -> None:
        """Upload the numbers and pictures of the folder, if the config asks for them."""
        if "results" in self.uploads:
            self._upload("results", "results", paths)

    def _upload(self, kind: str, name: str, paths: Sequence[Path], about: Mapping[str, Any] = {}) -> None:
        artifact = wandb.Artifact(f"{name}-{self.experiment.id}", type=kind, metadata=dict(about))
        for path in paths:
            (artifact.add_dir if path.is_dir() else artifact.add_file)(str(path), name=path.name)
        self.experiment.log_artifact(artifact)

    def _upload_code(self) -> None:
        """Upload the sources of this package and of the plugins, each folder as an artifact."""
        package = Path(wandb_internals.__file__).parents[2]
        for folder in (package, *map(Path, discovery.plugin_folders())):
            if folder.is_dir():
                self.experiment.log_code(str(folder), name=f"code-{folder.name}-{self.experiment.id}")


def logger(
    folder: Path,
    labels: Labels,
    *,
    mode: str,
    project: str,
    entity: str | None,
    run_name: str | None,
    group: str | None,
    job_type: str | None,
    tags: Sequence[str],
    uploads: Iterable[str],
) -> WeightsAndBiases:
    """The logger of a run. What the config leaves open is as wandb's own settings say, then as the labels do.

    Raises ConfigError where a key is needed and there is none.
    """
    own = wandb_internals.settings()
    implied = [label[:TAG_LENGTH] for label in (labels.sweep, labels.experiment) if label]
    return WeightsAndBiases(
        mode=mode_of(mode, own),
        project=project or own.project or "diffusion_fw",
        entity=entity or own.entity,
        name=run_name or own.run_name,
        group=group or own.run_group or labels.sweep,
        job_type=job_type or own.run_job_type or labels.program,
        tags=list(dict.fromkeys([*(tags or own.run_tags or ()), *implied])),
        uploads=uploads,
        save_dir=folder,
        settings=wandb.Settings(silent=True, init_timeout=60, save_code="code" in uploads or own.save_code),
    )


def mode_of(wanted: str, own: Any) -> str:
    """The mode of a run: what the config says, then wandb's settings, then online if there are credentials.

    Raises ConfigError where it must be online and there are none.
    """
    stated = {"dryrun": "offline", "run": "online"}.get(own.mode, own.mode)
    key, mode = "mode=online", wanted
    if mode == "auto" and "mode" in own.model_fields_set:
        key, mode = f"WANDB_MODE={own.mode}", stated
    if mode in ("offline", "disabled"):
        return mode
    try:
        known = wandb_internals.has_credentials(own.base_url)
    except wandb.errors.AuthenticationError as error:
        raise ConfigError(f"W&B: {error} Set another, or use mode=offline") from None
    if known:
        return "online" if mode == "auto" else mode
    if mode == "auto" and not own.sweep_id:
        return "offline"
    if mode == "auto":
        key = "a run of `wandb agent`"
    raise ConfigError(
        f"{key} needs a key for {own.base_url}: run `wandb login`, set WANDB_API_KEY, or use mode=offline"
    )
