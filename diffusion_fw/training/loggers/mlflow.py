"""MLflow."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Read when mlflow is imported. A run sends nothing but to its own server, and does not wait minutes for a dead one.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only
from mlflow.exceptions import MlflowException
from PIL import Image

from diffusion_fw.training.loggers.fan_out import Labels

SPELLED = str.maketrans({"@": " at ", "+": None})
"""MLflow refuses these characters in the name of a number."""


@contextlib.contextmanager
def os_errors() -> Iterator[None]:
    """Raise OSError where MLflow's store or server fails."""
    try:
        yield
    except MlflowException as error:
        raise OSError(" ".join(str(error).split())[:400]) from None


def stored(method: Callable[..., None]) -> Callable[..., None]:
    """A method of the first process, which raises OSError where MLflow's store or server fails."""

    @rank_zero_only
    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> None:
        with os_errors():
            method(*arguments, **named)

    return call


class MLflow(MLFlowLogger):
    """A run of MLflow with the numbers, pictures and, on request, checkpoints and results; a resumed run continues."""

    def __init__(
        self,
        folder: Path,
        labels: Labels,
        *,
        tracking_uri: str,
        experiment: str,
        run_name: str | None,
        uploads: Iterable[str],
    ) -> None:
        tags = {"program": labels.program, "sweep": labels.sweep, "experiment": labels.experiment}
        super().__init__(
            experiment_name=experiment,
            run_name=run_name,
            tracking_uri=tracking_uri,
            tags={key: value for key, value in tags.items() if value},
        )
        self.folder, self.uploads, self.resumed = folder, frozenset(uploads), False

    @property
    def save_dir(self) -> str:
        return os.fspath(self.folder)

    @property
    def where(self) -> str:
        """Where a person finds the run."""
        with contextlib.suppress(MlflowException):
            return f"MLflow: run {self.run_id} in {self._tracking_uri}"
        return f"MLflow: {self._tracking_uri} does not answer"

    def state(self) -> dict[str, Any]:
        return {"run_id": self._run_id}

    def resume(self, step: int, state: Mapping[str, Any]) -> None:
        """Continue the same run of MLflow."""
        self._run_id = state.get("run_id")
        self.resumed = self._run_id is not None

    @stored
    def log_hyperparams(self, params: Any) -> None:
        # MLflow refuses to change those of a run.
        if not self.resumed:
            super().log_hyperparams(params)

    @stored
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({name.translate(SPELLED): value for name, value in metrics.items()}, step)

    def log_best(self, value: float, step: int) -> None:
        self.log_metrics({"best_distance": value}, step)

    def log_summary(self, values: Mapping[str, float]) -> None:
        self.log_metrics(values, 0)

    @stored
    def log_picture(self, name: str, path: Path, step: int) -> None:
        with Image.open(path) as picture:
            self.experiment.log_image(self.run_id, picture.convert("RGB"), key=name, step=step)

    @stored
    def log_animation(self, name: str, path: Path, step: int) -> None:
        self.experiment.log_artifact(self.run_id, os.fspath(path), f"animations/step_{step:07d}")

    @stored
    def log_rows(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        lines = [",".join(map(str, columns)), *(",".join(map(str, row)) for row in rows)]
        self.experiment.log_text(self.run_id, "\n".join(lines) + "\n", f"{name}.csv")

    def log_checkpoints(self, paths: Sequence[Path], step: int) -> None:
        self._upload("checkpoints", paths)

    def log_results(self, paths: Sequence[Path]) -> None:
        self._upload("results", paths)

    @stored
    def _upload(self, kind: str, paths: Sequence[Path]) -> None:
        for path in paths if kind in self.uploads else ():
            self.experiment.log_artifact(self.run_id, os.fspath(path), kind)

    @stored
    def finalize(self, status: str) -> None:
        super().finalize(status)
