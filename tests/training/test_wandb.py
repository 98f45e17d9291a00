"""What a run writes for W&B, read from its file; and that it asks nobody and sends nothing without a key."""

from __future__ import annotations

import builtins
import csv
import getpass
import json
import math
import socket

import pytest
import torch
import wandb
import wandb_records

from diffusion_fw import registry
from diffusion_fw.app.train import train
from diffusion_fw.composition.experiment import build_loggers
from diffusion_fw.metrics.heldout import Heldout
from diffusion_fw.registry import ConfigError
from diffusion_fw.training.loggers import wandb_internals
from diffusion_fw.training.loggers.fan_out import Curve, Labels
from diffusion_fw.training.loggers.weights_and_biases import MOST_CURVES

LOCAL = ("127.0.0.1", "::1", "localhost")
KEY = "0" * 40
DISTANCE = "fid/pixels@8/ema"


def test_the_interfaces_that_wandb_does_not_promise_are_those_that_were_read():
    assert wandb.__version__.startswith(f"{wandb_internals.READ_IN}."), (
        "read wandb_internals.py and tests/wandb_records.py against this version, and state it there"
    )


@pytest.fixture
def nobody_to_ask(monkeypatch, tmp_path_factory):
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
    wandb_records.isolate(monkeypatch, tmp_path_factory.mktemp("wandb"))


@pytest.fixture(scope="module")
def logged(tiny, tmp_path_factory):
    """Two runs, as two jobs of a sweep in one process: their folders and what each wrote."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    with pytest.MonkeyPatch.context() as patch:
        wandb_records.isolate(patch, tmp_path_factory.mktemp("wandb"))
        for seed, folder in enumerate(folders):
            uploads = ["checkpoints", "results", "code"] if seed else []
            train(tiny({"logger": ["csv", "wandb"], "logger.wandb.uploads": uploads, "seed": seed}), folder)
    assert wandb.run is None
    return folders, [wandb_records.of(folder) for folder in folders]


def rows(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_each_run_of_a_process_has_its_own_file_with_the_numbers_of_metrics_csv(logged):
    for folder, records in zip(*logged, strict=True):
        for name in ("train/loss", "train/lr", "heldout/loss", DISTANCE):
            written = [(int(row["step"]), float(row[name])) for row in rows(folder) if row[name]]
            assert records.values(name) == [(step, pytest.approx(value)) for step, value in written]
        assert records.exit_code == 0


def test_the_config_is_nested_and_keeps_its_types(logged):
    for seed, records in enumerate(logged[1]):
        config = records.config
        assert config["optimizer"]["lr"] == 0.003
        assert config["optimizer"]["fused"] is True
        assert config["network"]["channel_mult"] == [1]
        assert config["guidance"] == {"clip": {"name": "clip"}}
        assert config["logger"]["wandb"]["entity"] is None
        assert config["seed"] == seed


def test_the_summary_holds_the_best_distance_and_the_floor(logged):
    for folder, records in zip(*logged, strict=True):
        distances = [float(row[DISTANCE]) for row in rows(folder) if row[DISTANCE]]
        assert records.summary[DISTANCE] == {"min": pytest.approx(min(distances)), "last": pytest.approx(distances[-1])}
        assert records.summary["best_distance"] == pytest.approx(min(distances))
        best = [min(distances[: i + 1]) for i in range(len(distances))]
        assert [value for _, value in records.values("best_distance")] == pytest.approx(best)
        assert 0 < records.summary["floor"] < math.inf


def test_the_axis_of_every_number_is_the_step_and_the_distance_has_a_minimum(logged):
    metrics = logged[1][0].metrics
    assert metrics["*"].step_metric == metrics[DISTANCE].step_metric == "trainer/global_step"
    assert metrics[DISTANCE].summary.min
    assert metrics["heldout/loss"].summary.min


def table(folder, entry):
    (place,) = (folder / "wandb").glob(f"offline-run-*/files/{entry['path']}")
    return json.loads(place.read_text())


def test_the_loss_by_log_snr_is_one_chart_with_the_same_bins_in_every_run(logged):
    folders, (first, second) = logged
    centres = []
    for folder, records in zip(folders, (first, second), strict=True):
        assert not [name for row in records.history for name in row if "at log-SNR" in name]
        shown = records.config["_wandb"]["visualize"]["heldout/loss by log-SNR"]
        assert shown["panel_config"]["panelDefId"] == "wandb/lineseries/v0"
        last = records.values("heldout/loss by log-SNR_table")[-1][1]
        drawn = table(folder, last)
        assert drawn["columns"] == ["log-SNR", "evaluation", "value"]
        curves = {at: [row[0] for row in drawn["data"] if row[1] == at] for _, at, _ in drawn["data"]}
        assert list(curves) == ["step 3", "step 6"]
        assert curves["step 3"] == curves["step 6"]
        centres.append(curves["step 6"])
        assert all(centre % 2 == 1 for centre in centres[-1])
    assert centres[0] == centres[1]
    assert len(centres[0]) > 8
    assert any("at log-SNR" in name for name in rows(folders[0])[-1])


def test_samples_are_a_table_by_step_and_the_trajectory_moves(logged):
    for folder, records in zip(*logged, strict=True):
        grown = [value for _, value in records.values("samples over training")]
        assert [entry["_type"] for entry in grown] == ["incremental-table-file"] * 2
        first, second = (table(folder, entry) for entry in grown)
        assert first["columns"] == ["step", "samples", DISTANCE]
        assert [row[0] for row in (*first["data"], *second["data"])] == [3, 6]
        # The pictures are in the artifact of the table.
        shown = [entry.path for entry in records.artifacts["wandb-run-incremental-table"].manifest.contents]
        assert [path for path in shown if path.startswith("media/images/") and path.endswith(".png")]
        ((step, moving),) = records.values("trajectory/animation")
        (video,) = moving["videos"]
        (written,) = (folder / "wandb").glob(f"offline-run-*/files/{video['path']}")
        assert step == 6
        assert written.read_bytes() == (folder / "samples" / "trajectory.gif").read_bytes()


def test_the_final_curves_are_logged(logged):
    for records in logged[1]:
        for name in ("loss", "loss_by_log_snr", "distance", "schedule", "real_and_generated"):
            assert [step for step, _ in records.values(f"report/{name}")] == [6]


def test_checkpoints_results_and_code_go_up_on_request_alone(logged):
    folders, (without, asked) = logged
    assert not {"model", "results", "code"} & set(without.artifacts)

    def paths(kind):
        return {entry.path for entry in asked.artifacts[kind].manifest.contents}

    assert paths("model") == {"best.ckpt", "last.ckpt"}
    assert {"config.yaml", "metrics.csv", "loss.png", "samples/trajectory.gif"} <= paths("results")
    assert {"training/module.py", "app/train.py"} <= paths("code")
    (size,) = [entry.size for entry in asked.artifacts["model"].manifest.contents if entry.path == "last.ckpt"]
    assert size == (folders[1] / "checkpoints" / "last.ckpt").stat().st_size


def test_a_chart_of_many_evaluations_keeps_the_first_the_last_and_some_between(nobody_to_ask, tmp_path):
    logger = registry.build("logger", "wandb", folder=tmp_path, mode="offline")
    for step in range(1, 41):
        logger.log_curve(Curve("loss", [1.0], [float(step)], {}), step)
    kept = [item[1] for item in logger.state()["curves"]]
    again = registry.build("logger", "wandb", folder=tmp_path, mode="offline")
    again.resume(30, logger.state())
    logger.finalize("success")
    assert (kept[0], kept[-1], len(kept)) == (1, 40, MOST_CURVES)
    assert [item[1] for item in again.state()["curves"]] == [step for step in kept if step <= 30]


# --------------------------------------------------------------------------------------------------------------------
# Where a run goes
# --------------------------------------------------------------------------------------------------------------------


def test_a_run_without_a_key_is_offline_asks_nobody_and_says_how_to_upload_it(nobody_to_ask, tmp_path):
    logger = registry.build("logger", "wandb", folder=tmp_path)
    logger.log_metrics({"loss": 1.0}, 1)
    (kept,) = (tmp_path / "wandb").glob("offline-run-*")
    assert logger.where == f"W&B: offline; to upload the run: wandb sync {kept}"
    logger.finalize("success")
    assert wandb.run is None


def test_wandb_online_without_a_key_is_refused_at_once(nobody_to_ask, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"mode=online needs a key.*WANDB_API_KEY"):
        registry.build("logger", "wandb", folder=tmp_path, mode="online")
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ConfigError, match=r"WANDB_MODE=online needs a key"):
        registry.build("logger", "wandb", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["variable", "key"])
def test_a_disabled_run_writes_nothing(nobody_to_ask, tiny, tmp_path, monkeypatch, how, capsys):
    if how == "variable":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    changes = {"logger": ["wandb"], "trainer.max_steps": 1}
    train(tiny(changes if how == "variable" else {**changes, "logger.wandb.mode": "disabled"}), tmp_path)
    assert not (tmp_path / "wandb").exists()
    assert "W&B: disabled" in capsys.readouterr().out


STATED = {
    "a company's host": ({"WANDB_BASE_URL": "https://wandb.example.org", "WANDB_API_KEY": KEY}, "online"),
    "a token": ({"WANDB_IDENTITY_TOKEN_FILE": "token.jwt"}, "online"),
    "an old word": ({"WANDB_MODE": "dryrun", "WANDB_API_KEY": KEY}, "offline"),
    "offline, though a key is known": ({"WANDB_MODE": "offline", "WANDB_API_KEY": KEY}, "offline"),
}


@pytest.mark.parametrize("case", STATED)
def test_the_mode_is_what_wandb_itself_would_do(nobody_to_ask, tmp_path, monkeypatch, case):
    variables, mode = STATED[case]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert registry.build("logger", "wandb", folder=tmp_path)._wandb_init["mode"] == mode


def test_a_key_of_a_company_s_host_is_found_in_netrc(nobody_to_ask, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text(f"machine wandb.example.org\n  login user\n  password {KEY}\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert registry.build("logger", "wandb", folder=tmp_path)._wandb_init["mode"] == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert registry.build("logger", "wandb", folder=tmp_path)._wandb_init["mode"] == "online"


def test_wandb_offline_typed_once_in_a_folder_counts(nobody_to_ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "settings").write_text("[default]\nmode = offline\n")
    assert registry.build("logger", "wandb", folder=tmp_path)._wandb_init["mode"] == "offline"


def test_a_key_that_can_be_none_is_a_mistake(nobody_to_ask, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "1234")
    with pytest.raises(ConfigError, match=r"W&B: WANDB_API_KEY invalid: .*mode=offline"):
        registry.build("logger", "wandb", folder=tmp_path)


VARIABLES = {
    "WANDB_PROJECT": "other",
    "WANDB_ENTITY": "team",
    "WANDB_TAGS": "a,b",
    "WANDB_RUN_GROUP": "together",
    "WANDB_JOB_TYPE": "debug",
    "WANDB_NAME": "mine",
}


def run_of(tmp_path, **settings):
    logger = registry.build("logger", "wandb", folder=tmp_path, mode="offline", **settings)
    logger.log_metrics({"loss": 1.0}, 1)
    logger.finalize("success")
    run = wandb_records.of(tmp_path).run
    return run.project, run.entity, list(run.tags), run.run_group, run.job_type, run.display_name


def test_variables_of_wandb_count_where_the_config_says_nothing(nobody_to_ask, tmp_path, monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    labels = Labels("train", "multirun/targets")
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    assert run_of(tmp_path / "first", labels=labels) == (
        *("other", "team", ["a", "b", "multirun/targets"]),
        *("together", "debug", "mine"),
    )
    stated = {"project": "p", "entity": "e", "tags": ["c"], "group": "g", "job_type": "j", "run_name": "n"}
    assert run_of(tmp_path / "second", **stated) == ("p", "e", ["c"], "g", "j", "n")


def test_the_runs_of_a_sweep_are_a_group_with_a_tag_and_a_job_type(nobody_to_ask, tmp_path):
    labels = Labels("evaluate", "multirun/targets", "ddpm_cifar10")
    project, _, tags, group, job_type, _ = run_of(tmp_path, labels=labels)
    assert (project, tags) == ("diffusion_fw", ["multirun/targets", "ddpm_cifar10"])
    assert (group, job_type) == ("multirun/targets", "evaluate")


def test_a_wandb_server_that_does_not_answer_leaves_a_run_to_be_sent_and_says_how(
    nobody_to_ask, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
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


@pytest.mark.parametrize("schedules", [("cosine", "vp"), ("edm", "linear")])
def test_bins_of_log_snr_have_the_same_edges_on_every_schedule_and_lose_nothing(schedules):
    for name in schedules:
        schedule = registry.build("schedule", name)
        level = schedule(schedule.fraction((torch.arange(100) + 0.5) / 100).double())
        values = torch.arange(100.0)
        examples = Heldout(torch.zeros(100, 2), None, level, torch.zeros(100, 2))
        centres, means = examples.binned(values)
        counts = [int(((level.log_snr.clamp(-30, 30) - at).abs() <= 1).sum()) for at in centres]
        assert all(at % 2 == 1 for at in centres)
        assert centres == sorted(centres)
        assert sum(counts) == 100
        assert sum(count * mean for count, mean in zip(counts, means, strict=True)) == pytest.approx(
            float(values.sum())
        )


def test_a_run_that_the_caller_has_started_is_used(nobody_to_ask, tmp_path):
    own = wandb.init(mode="offline", dir=tmp_path, project="mine", settings=wandb.Settings(silent=True))
    logger = registry.build("logger", "wandb", folder=tmp_path, mode="offline")
    logger.log_metrics({"loss": 1.0}, 1)
    assert logger.version == own.id
    logger.finalize("success")
    records = wandb_records.of(tmp_path)
    assert records.run.project == "mine"
    assert records.values("loss") == [(1, 1.0)]


def test_a_run_of_an_agent_that_logs_elsewhere_says_so(nobody_to_ask, tmp_path, monkeypatch, caplog):
    assert build_loggers({"logger": {}}, tmp_path, Labels()) == []
    assert not caplog.records
    monkeypatch.setenv("WANDB_SWEEP_ID", "sw33p")
    assert build_loggers({"logger": {}}, tmp_path, Labels()) == []
    assert "choose logger=[csv,wandb]" in caplog.text
