"""What a run writes for MLflow, read by MLflow's own client; it sends nothing anywhere else."""

from __future__ import annotations

import builtins
import csv

import pytest

from diffusion_fw import registry
from diffusion_fw.app.train import train
from diffusion_fw.registry import ConfigError


def test_without_mlflow_the_extra_is_named(monkeypatch, tmp_path):
    load = builtins.__import__

    def without(name, *arguments, **named):
        if name.partition(".")[0] == "mlflow" or name.endswith("loggers.mlflow"):
            raise ModuleNotFoundError("No module named 'mlflow'", name="mlflow")
        return load(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"logger=mlflow needs mlflow: pip install 'diffusion-fw\[mlflow\]'"):
        registry.build("logger", "mlflow", folder=tmp_path)


@pytest.fixture(scope="module")
def logged(tiny, tmp_path_factory):
    """The folder of a run, MLflow's client, and what it holds of the run."""
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        train(tiny({"logger": ["csv", "mlflow"], "logger.mlflow.uploads": ["checkpoints", "results"]}), folder)
        client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("diffusion_fw")
        (run,) = client.search_runs([experiment.experiment_id])
        yield folder, client, run


def test_mlflow_has_the_numbers_of_metrics_csv(logged):
    folder, client, run = logged
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for name, spelled in (("train/loss", "train/loss"), ("fid/pixels@8/ema", "fid/pixels at 8/ema")):
        written = [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        history = client.get_metric_history(run.info.run_id, spelled)
        assert [(item.step, item.value) for item in history] == written
    assert run.info.status == "FINISHED"
    assert run.data.tags["program"] == "train"
    assert (run.data.params["optimizer/lr"], run.data.params["schedule/name"]) == ("0.003", "cosine")
    distances = [float(row["fid/pixels@8/ema"]) for row in rows if row["fid/pixels@8/ema"]]
    assert run.data.metrics["best_distance"] == min(distances)
    assert run.data.metrics["floor"] > 0


def test_mlflow_has_the_pictures_and_what_was_asked_for(logged):
    folder, client, run = logged

    def artifacts(place):
        return {item.path.rpartition("/")[2]: item for item in client.list_artifacts(run.info.run_id, place)}

    pictures = " ".join(artifacts("images"))
    for name in ("samples", "trajectory", "report~loss", "report~distance", "report~real_and_generated"):
        assert name in pictures
    assert set(artifacts("animations/step_0000006")) == {"trajectory.gif"}
    assert artifacts("checkpoints")["last.ckpt"].file_size == (folder / "checkpoints" / "last.ckpt").stat().st_size
    assert {"config.yaml", "metrics.csv", "samples"} <= set(artifacts("results"))


def test_a_resumed_run_of_mlflow_is_the_same_one(logged, monkeypatch):
    folder, client, run = logged
    again = registry.build("logger", "mlflow", folder=folder, tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
    again.resume(6, {"run_id": run.info.run_id})
    again.log_hyperparams({"optimizer": {"lr": 1.0}})
    again.log_metrics({"train/loss": 0.5}, 9)
    assert again.state() == {"run_id": run.info.run_id}
    assert client.get_metric_history(run.info.run_id, "train/loss")[-1].step == 9
    assert client.get_run(run.info.run_id).data.params["optimizer/lr"] == "0.003"


def test_a_server_of_mlflow_that_does_not_answer_raises_what_a_run_survives(logged, tmp_path):
    logger = registry.build("logger", "mlflow", folder=tmp_path, tracking_uri="http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"127\.0\.0\.1"):
        logger.log_metrics({"train/loss": 1.0}, 1)
    assert logger.where == "MLflow: http://127.0.0.1:9 does not answer"
