"""What the loggers write, in metrics.csv and for TensorBoard."""

from __future__ import annotations

import csv
import io
import time

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from diffusion_fw import registry
from diffusion_fw.app.train import train

PICTURES = {"samples", "trajectory", "trajectory/animation"} | {
    f"report/{name}" for name in ("loss", "loss_by_log_snr", "distance", "schedule", "real_and_generated", "progress")
}
"""What every logger that shows pictures shows."""


@pytest.fixture(scope="module")
def logged(tiny, tmp_path_factory):
    """A run with two loggers: its folder and its distance."""
    folder = tmp_path_factory.mktemp("run")
    return folder, train(tiny({"logger": ["csv", "tensorboard"]}), folder).value


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def pixels(file):
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))


def test_all_loggers_write_the_same_numbers(logged):
    folder, _ = logged
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for name in ("train/loss", "train/gradient_norm", "train/lr", "fid/pixels@8/ema", "heldout/loss"):
        written = [(int(row["step"]), float(row[name])) for row in rows(folder) if row[name]]
        assert [step for step, _ in written] == [3, 6]
        assert [(item.step, item.value) for item in events.Scalars(name)] == [
            (step, pytest.approx(value, rel=1e-6)) for step, value in written
        ]


def test_a_run_returns_the_smallest_distance_that_it_logged(logged):
    folder, distance = logged
    logged_distances = [float(row["fid/pixels@8/ema"]) for row in rows(folder) if row["fid/pixels@8/ema"]]
    assert distance == pytest.approx(min(logged_distances), rel=1e-6)


def test_tensorboard_holds_the_pictures(logged):
    folder, _ = logged
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["images"]) == PICTURES
    assert [item.step for item in events.Images("samples")] == [3, 6]
    assert events.Images("samples")[0].encoded_image_string.startswith(b"\x89PNG")
    assert {item.step for name in PICTURES - {"samples"} for item in events.Images(name)} == {6}
    drawn = {f"report/{path.stem}": path for path in folder.glob("*.png")}
    drawn |= {"trajectory": folder / "samples" / "trajectory.png", "samples": folder / "samples" / "step_0000006.png"}
    for name in PICTURES - {"trajectory/animation"}:
        shown = events.Images(name)[-1].encoded_image_string
        assert np.array_equal(pixels(io.BytesIO(shown)), pixels(drawn[name]))
    (moving,) = events.Images("trajectory/animation")
    assert moving.encoded_image_string == (folder / "samples" / "trajectory.gif").read_bytes()


def full_disk(monkeypatch, after=0):
    """TensorBoard's disk is full after so many of its events."""
    original, left = RecordWriter.write, [after]

    def write(self, data):
        if not left[0]:
            raise OSError(28, "No space left on device")
        left[0] -= 1
        original(self, data)

    monkeypatch.setattr(RecordWriter, "write", write)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_continues_after_a_full_disk(tmp_path, monkeypatch):
    logger = registry.build("logger", "tensorboard", folder=tmp_path)
    logger.resume(0, {})
    logger.log_metrics({"loss": 1.0}, 1)
    with monkeypatch.context() as patch:
        full_disk(patch)
        for step in (2, 3):
            with pytest.raises(OSError, match="No space left"):
                logger.log_metrics({"loss": float(step)}, step)
    time.sleep(1.1)  # The name of a file of events has the second in which it was opened.
    logger.log_metrics({"loss": 4.0}, 4)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(item.step, item.value) for item in events.Scalars("loss")] == [(1, 1.0), (4, 4.0)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_under_tensorboard_ends_no_run(tiny, tmp_path, monkeypatch, caplog):
    full_disk(monkeypatch, after=2)
    train(tiny({"logger": ["csv", "tensorboard"]}), tmp_path)
    assert [row["step"] for row in rows(tmp_path)][-1] == "6"
    assert any("training continues, and the next values are logged" in item.getMessage() for item in caplog.records)


def test_no_logger_leaves_no_log(tiny, tmp_path):
    train(tiny({"trainer.max_steps": 1}), tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert not left & {"metrics.csv", "tensorboard", "wandb", "lightning_logs"}
    assert {"checkpoints", "config.yaml", "samples"} <= left
