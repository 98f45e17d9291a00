"""The results of an evaluation in every logger."""

from __future__ import annotations

import csv
import json

import pytest
import wandb
import wandb_records
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffusion_fw import registry
from diffusion_fw.app.evaluate import evaluate
from diffusion_fw.config.application import check_command_line
from diffusion_fw.training.loggers.fan_out import Labels
from diffusion_fw.training.loggers.results import COLUMNS, log_results

LINES = [
    {
        "metric": "fid/digits@500/ema",
        "value": 0.27,
        "better": "lower",
        "floor": 0.25,
        "interval": [0.26, 0.29],
        "num_samples": 500,
        "sampler": {"name": "ddim", "steps": 50, "eta": 0.0},
        "guidance": {"classifier_free": {"name": "classifier_free", "scale": 2.0}, "clip": {"name": "clip"}},
        "weights": "ema",
        "seed": 3,
        "checkpoint": {"path": "last.ckpt", "sha256": "0"},
    },
    {"metric": "nll/ema", "value": 3.5, "floor": None, "interval": None, "sampler": None, "checkpoint": None},
]
ROWS = [
    *(["fid/digits@500/ema", 0.27, "lower", 0.25, 0.26, 0.29, 500, "ddim", 50, "classifier_free, clip", "ema", 3],),
    *(["nll/ema", 3.5, *[None] * 10],),
]


@pytest.fixture
def logged(monkeypatch, tmp_path, tmp_path_factory):
    """The folder of an evaluation that every logger has been told."""
    wandb_records.isolate(monkeypatch, tmp_path_factory.mktemp("wandb"))
    picture = tmp_path / "terms.png"
    Image.new("RGB", (8, 6)).save(picture)
    written = tmp_path / "evaluation.json"
    written.write_text(json.dumps({"results": LINES}))
    labels = Labels("evaluate", "multirun/s")
    loggers = [registry.build("logger", name, folder=tmp_path) for name in ("csv", "tensorboard")]
    loggers.append(registry.build("logger", "wandb", folder=tmp_path, labels=labels, uploads=["results"]))
    log_results(loggers, {"sampler": {"name": "ddim", "steps": 50}}, LINES, [picture], [written])
    return tmp_path


def test_every_logger_has_every_number(logged):
    with (logged / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (float(row["fid/digits@500/ema"]), float(row["nll/ema"])) == (0.27, 3.5)
    events = EventAccumulator(str(logged / "tensorboard"))
    events.Reload()
    assert [item.value for item in events.Scalars("nll/ema")] == [3.5]
    assert events.Tags()["images"] == ["terms"]
    text = events.Tensors("results/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "|fid/digits@500/ema|0.27|lower|0.25|" in text


def test_wandb_has_the_table_the_floor_the_pictures_and_the_file(logged):
    records = wandb_records.of(logged)
    assert wandb.run is None
    assert records.exit_code == 0
    assert (records.run.job_type, records.run.run_group) == ("evaluate", "multirun/s")
    assert records.config["sampler"] == {"name": "ddim", "steps": 50}
    assert records.summary["fid/digits@500/ema"] == 0.27
    assert records.summary["fid/digits@500/ema, floor"] == 0.25
    ((_, entry),) = records.values("results")
    (place,) = (logged / "wandb").glob(f"offline-run-*/files/{entry['path']}")
    table = json.loads(place.read_text())
    assert table["columns"] == list(COLUMNS)
    assert [row[:-1] for row in table["data"]] == ROWS
    assert [row[-1] for row in table["data"]] == ["last.ckpt", None]
    assert len(records.values("terms")) == 1
    assert [entry.path for entry in records.artifacts["results"].manifest.contents] == ["evaluation.json"]


def test_evaluate_logs_its_result(untrained, tmp_path):
    checkpoint = untrained("data=moons", "network=mlp", "network.width=8")
    words = ["logger=[csv]", "metric.num_samples=8", "sampler=ddim", "sampler.steps=2", "device=cpu"]
    (config,) = check_command_line("evaluate", [f"checkpoint={checkpoint}", *words])
    result = evaluate(config, tmp_path)
    with (tmp_path / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row[result.name]) == pytest.approx(result.value)


def test_evaluate_logs_nowhere_unless_it_is_asked_to(untrained):
    (config,) = check_command_line("evaluate", [f"checkpoint={untrained('data=moons', 'network=mlp')}"])
    assert config["logger"] == {}
