"""What the loggers write, and that none of them asks or waits for anything."""

from __future__ import annotations

import builtins
import csv
import getpass
import socket
import time

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from diffusion_fw import registry
from diffusion_fw.app.train import train
from diffusion_fw.registry import ConfigError

LOCAL = ("127.0.0.1", "::1", "localhost")


@pytest.fixture
def nobody_to_ask(monkeypatch, tmp_path):
    """No key, no network beyond this machine, nobody who answers a prompt."""
    connect = socket.socket.connect

    def local_only(self, address):
        assert not isinstance(address, tuple) or address[0] in LOCAL, f"a connection to {address}"
        return connect(self, address)

    def asked(*args, **kwargs):
        raise AssertionError("a prompt")

    monkeypatch.setattr(socket.socket, "connect", local_only)
    monkeypatch.setattr(builtins, "input", asked)
    monkeypatch.setattr(getpass, "getpass", asked)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="module")
def logged(tiny, tmp_path_factory):
    """Two runs with all loggers at once, as two jobs of a sweep in one process."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NETRC", str(folders[0] / "netrc"))
        for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
            patch.delenv(variable, raising=False)
        distances = [
            train(tiny({"logger": ["csv", "tensorboard", "wandb"], "seed": seed}), folder).value
            for seed, folder in enumerate(folders)
        ]
    return folders, distances


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_all_loggers_write_the_same_numbers(logged):
    (folder, _), _ = logged
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for name in ("train/loss", "train/gradient_norm", "train/lr", "fid/pixels@8/ema", "heldout/loss"):
        written = [(int(row["step"]), float(row[name])) for row in rows(folder) if row[name]]
        assert [step for step, _ in written] == [3, 6]
        assert [(item.step, item.value) for item in events.Scalars(name)] == [
            (step, pytest.approx(value, rel=1e-6)) for step, value in written
        ]


def test_a_run_returns_the_smallest_distance_that_it_logged(logged):
    folders, distances = logged
    for folder, distance in zip(folders, distances, strict=True):
        logged_distances = [float(row["fid/pixels@8/ema"]) for row in rows(folder) if row["fid/pixels@8/ema"]]
        assert distance == pytest.approx(min(logged_distances), rel=1e-6)


def test_tensorboard_holds_the_pictures(logged):
    (folder, _), _ = logged
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["images"]) == {"samples", "trajectory"}
    assert [item.step for item in events.Images("samples")] == [3, 6]
    assert events.Images("samples")[0].encoded_image_string.startswith(b"\x89PNG")


def test_wandb_keeps_each_run_of_a_sweep_in_its_own_folder(logged):
    folders, _ = logged
    for folder in folders:
        (run,) = (folder / "wandb").glob("offline-run-*")
        (record,) = run.glob("*.wandb")
        content = record.read_bytes()
        assert content[:4] == b":W&B"
        for name in (b"fid/pixels@8/ema", b"train/loss", b"max_steps"):
            assert name in content
        pictures = [path.name for path in (run / "files" / "media" / "images").glob("*.png")]
        assert sorted(name.split("_")[0] for name in pictures) == ["samples", "samples", "trajectory"]
    assert wandb.run is None


def test_wandb_is_offline_without_a_key_and_asks_nobody(nobody_to_ask, tmp_path):
    logger = registry.build("logger", "wandb", folder=tmp_path)
    logger.log_metrics({"loss": 1.0}, 1)
    logger.finalize("success")
    assert wandb.run is None
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 1


def test_wandb_online_without_a_key_is_refused_at_once(nobody_to_ask, tmp_path):
    with pytest.raises(ConfigError, match=r"mode=online needs a key.*WANDB_API_KEY"):
        registry.build("logger", "wandb", folder=tmp_path, mode="online")
    assert list(tmp_path.iterdir()) == []


def test_a_wandb_server_that_does_not_answer_leaves_a_run_to_be_sent_and_says_how(
    nobody_to_ask, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    start = wandb.init

    def no_answer(**settings):
        if settings.get("mode") != "offline":
            raise wandb.errors.CommError("no answer")
        return start(**settings)

    monkeypatch.setattr(wandb, "init", no_answer)
    logger = registry.build("logger", "wandb", folder=tmp_path)
    logger.log_metrics({"loss": 1.0}, 1)
    logger.log_metrics({"loss": 2.0}, 2)
    logger.finalize("success")
    (kept,) = (tmp_path / "wandb").glob("offline-run-*")
    (told,) = [item.getMessage() for item in caplog.records if "no answer" in item.getMessage()]
    assert told == (f"W&B's server failed: no answer; the run is logged offline; `wandb sync {kept}` uploads it later")


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
