"""The view of a project on W&B, as it would be sent; nothing is."""

from __future__ import annotations

import json

import pytest
import wandb_records

from diffusion_fw.app.report import LOGGED_PICTURES
from diffusion_fw.app.wandb_view import NUMBERS, PICTURES, main


def test_the_view_names_what_runs_log(capsys, monkeypatch, tmp_path):
    pytest.importorskip("wandb_workspaces", reason="the extra wandb-view is not installed")
    wandb_records.isolate(monkeypatch, tmp_path)
    main(["team/digits", "--print"])
    sent = json.loads(capsys.readouterr().out)
    assert (sent["entity"], sent["project"]) == ("team", "digits")
    sections = {item["name"]: item["panels"] for item in sent["spec"]["section"]["panelBankConfig"]["sections"]}
    assert [sections[name] != [] for name in (*NUMBERS, *PICTURES)] == [True] * 4
    for name, keys in NUMBERS.items():
        assert [panel["config"]["metrics"] for panel in sections[name]] == [[key] for key in keys]
        assert {panel["config"]["xAxis"] for panel in sections[name]} == {"trainer/global_step"}
    for name, keys in PICTURES.items():
        assert [panel["config"]["mediaKeys"] for panel in sections[name]] == [[key] for key in keys]


def test_every_final_picture_is_in_the_view():
    assert {f"report/{name}" for name in LOGGED_PICTURES} < {key for keys in PICTURES.values() for key in keys}


def test_a_project_without_an_entity_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["digits"])
    assert "digits is not ENTITY/PROJECT" in capsys.readouterr().err
