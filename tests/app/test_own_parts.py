"""A checkpoint's own sampler, grid, guidance, variance and data are used unless others are chosen."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from diffusion_fw.app.evaluate import evaluate
from diffusion_fw.app.explain import explain_trained
from diffusion_fw.app.help import print_help
from diffusion_fw.app.sample import sample
from diffusion_fw.app.trained_model import open_trained
from diffusion_fw.checkpoints.read import read
from diffusion_fw.config.application import ask, check_command_line
from diffusion_fw.registry import ConfigError, RegistrationError, register

SMALL = ["network.channels=4", "network.channel_mult=[1]"]
OWN = {
    "ncsn": ["experiment=ncsn", *SMALL],
    "ncsnv2": ["experiment=ncsnv2", "schedule.num_steps=60", "sampler.steps=60", *SMALL],
    "edm": ["experiment=edm", *SMALL],
    "ddpm": ["experiment=ddpm", *SMALL],
    "guided": ["guidance=[classifier_free,clip]", "guidance.classifier_free.scale=2", *SMALL],
}


@pytest.fixture(scope="module")
def checkpoint(untrained):
    return {name: untrained(*words) for name, words in OWN.items()}


@pytest.fixture
def opened(checkpoint):
    """opened(name, words) -> the model with a command line's choices."""

    def open_(name, *words):
        model = open_trained(check_command_line("sample", [f"checkpoint={checkpoint[name]}", "device=cpu", *words])[0])
        model.check_sampler()
        return model

    return open_


@pytest.mark.parametrize("name", ["ncsn", "ncsnv2", "edm", "ddpm", "guided"])
def test_the_model_is_sampled_as_it_was_trained_to_be(opened, checkpoint, name):
    trained, used = read(checkpoint[name])["diffusion_fw"]["config"], opened(name).config
    for group in ("sampler", "grid", "guidance", "variance"):
        assert json.loads(json.dumps(used[group])) == trained[group]


def test_all_levels_of_a_noise_conditional_score_network_are_visited(opened):
    model = opened("ncsnv2")
    assert len(model.sampler.levels(model.network.schedule)) == model.network.schedule.num_steps + 1


def test_a_key_changes_the_own_component_alone(opened):
    changed, own = opened("edm", "sampler.steps=7", "grid.rho=5").config, opened("edm").config
    assert changed["sampler"] == {**own["sampler"], "name": "heun", "steps": 7}
    assert changed["grid"] == {**own["grid"], "name": "karras", "rho": 5.0}
    scaled = opened("guided", "guidance.classifier_free.scale=3").config["guidance"]
    assert scaled["classifier_free"]["scale"] == 3.0
    assert list(scaled) == ["classifier_free", "clip"]


def test_another_sampler_keeps_the_own_grid_and_guidance(opened):
    config = opened("edm", "sampler=ddim", "sampler.steps=9").config
    assert (config["sampler"], config["grid"]["name"], config["guidance"]) == (
        {"name": "ddim", "steps": 9, "eta": 0.0},
        "karras",
        {},
    )
    assert opened("edm", "guidance=[clip]", "grid=uniform").config["sampler"]["name"] == "heun"


def test_own_guidance_stands_among_others_in_its_place(opened):
    assert list(opened("guided", "guidance=[dynamic_threshold,own]").config["guidance"]) == [
        "dynamic_threshold",
        "classifier_free",
        "clip",
    ]
    assert opened("guided", "guidance=none").config["guidance"] == {}


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        (
            "edm",
            ["sampler.stepps=3"],
            r"sampler\.stepps: sampler=heun has no such key - did you mean 'steps'\?; its keys",
        ),
        ("edm", ["sampler.steps=0"], r"sampler\.steps=0: must be int in \[1, .*the model's own, sampler=heun"),
        (
            "edm",
            ["guidance.clip.x=0"],
            r"guidance\.clip: the model's own guidance is none; choose guidance=\[own,clip\]",
        ),
        ("guided", ["guidance.clip.x=0"], r"guidance\.clip\.x: guidance=clip has no such key"),
        ("guided", ["sampler=ddim", "sampler.x=0"], r"sampler\.x: no such key.*keys of sampler: eta, steps"),
    ],
)
def test_an_unknown_key_or_value_of_an_own_component_is_refused(opened, name, words, message):
    with pytest.raises(ConfigError, match=message):
        opened(name, *words)


def test_the_own_sampler_chosen_by_name_says_where_its_defaults_differ(opened, caplog):
    opened("ncsnv2", "sampler=annealed_langevin")
    assert "sampler=annealed_langevin has steps=50, which is its default; the model's own has steps=60" in caplog.text
    caplog.clear()
    opened("ncsnv2", "sampler=annealed_langevin", "sampler.steps=20")
    assert caplog.text == ""


def test_a_sweep_takes_own_beside_others(checkpoint):
    words = [f"checkpoint={checkpoint['edm']}", "-m", "sampler=ddim,own", "sampler.steps=5,6"]
    used = [open_trained(config).config["sampler"] for config in check_command_line("sample", words)]
    assert [(item["name"], item["steps"]) for item in used] == [("ddim", 5), ("ddim", 6), ("heun", 5), ("heun", 6)]


def test_training_has_no_own(capsys):
    for word in ("sampler=own", "guidance=[own]", "variance=own", "data=own"):
        with pytest.raises(ConfigError, match=r"own: no such"):
            check_command_line("train", [word])


def edited(path, tmp_path, edit):
    content = read(path)
    edit(content["diffusion_fw"]["config"])
    torch.save(content, tmp_path / "edited.ckpt")
    return check_command_line("sample", [f"checkpoint={tmp_path / 'edited.ckpt'}", "device=cpu"])[0]


def test_a_checkpoint_that_names_no_sampler_is_sampled_by_clipped_ddim(checkpoint, tmp_path):
    def forget(config):
        for group in ("sampler", "grid", "guidance", "data"):
            del config[group]
        config["variance"] = None

    config = open_trained(edited(checkpoint["ddpm"], tmp_path, forget)).config
    assert (config["sampler"]["name"], config["grid"]["name"], list(config["guidance"])) == (
        "ddim",
        "uniform",
        ["clip"],
    )


@pytest.mark.parametrize(
    ("group", "section", "message"),
    [
        ("sampler", {"name": "elsewhere"}, r"sampler=own: sampler=elsewhere: no such sampler.*choose another sampler="),
        ("sampler", {"name": "ddim", "steps": "x"}, r"sampler=own: sampler\.steps='x'"),
        ("sampler", [1], r"sampler=own: the checkpoint's config has no section sampler"),
        ("guidance", {"clip": 3}, r"guidance=own: guidance\.clip of the checkpoint's config is no component"),
        (
            "guidance",
            {"autoguidance": {"name": "autoguidance", "checkpoint": "hub:some/model"}},
            r"guidance\.autoguidance\.checkpoint=hub:some/model is not taken from a checkpoint",
        ),
        (
            "text_encoder",
            {"name": "transformers", "folder": "/somewhere"},
            r"text_encoder=own: text_encoder\.folder=/somewhere is not taken from a checkpoint; give text_encoder\.fol",
        ),
    ],
)
def test_a_bad_own_component_is_named(checkpoint, tmp_path, group, section, message):
    config = edited(checkpoint["ddpm"], tmp_path, lambda own: own.update({group: section}))
    with pytest.raises(ConfigError, match=message):
        open_trained(config)


def test_data_that_cannot_be_read_are_no_obstacle_to_drawing(checkpoint, tmp_path):
    model = open_trained(edited(checkpoint["ddpm"], tmp_path, lambda own: own.update(data={"name": "elsewhere"})))
    with pytest.raises(ConfigError, match=r"data=own: data=elsewhere: no such data"):
        _ = model.data


def test_other_data_must_fit_the_model(opened):
    assert opened("ddpm", "data=digits").data.shape == (1, 8, 8)
    for name, message in (("moons", r"floats of shape \(2,\)"), ("emoji", r"shape \(3, 32, 32\)")):
        with pytest.raises(ConfigError, match=rf"data={name} has .*{message}.*trained on images of 8-bit pixels"):
            _ = opened("ddpm", f"data={name}").data


def test_the_table_and_the_files_name_the_sampler_that_was_used(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    words = [f"checkpoint={checkpoint['edm']}", "device=cpu", "sampler.steps=2"]
    sample(check_command_line("sample", [*words, "num_samples=2", "npz=true"])[0], tmp_path)
    assert "2 samples by sampler=heun" in capsys.readouterr().out
    assert np.load(tmp_path / "samples.npz")["samples"].shape == (2, 1, 8, 8)
    measure = ["features=pixels", "metric.num_samples=8", f"metric.cache_dir={tmp_path}"]
    evaluate(check_command_line("evaluate", [*words, *measure])[0], tmp_path)
    assert "heun" in capsys.readouterr().out
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert (written["sampler"]["name"], written["sampler"]["steps"], written["grid"]["name"]) == ("heun", 2, "karras")


def test_explain_shows_what_was_resolved_and_where_it_comes_from(checkpoint, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    words = [f"checkpoint={checkpoint['edm']}", "device=cpu", "sampler.steps=7", "guidance=[clip]"]
    asked = ask("sample", words)
    explain_trained(asked.configs[0], asked)
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line[1:] for line in lines if len(line) >= 2}
    own = f"checkpoint={checkpoint['edm']}"
    assert rows["sampler.name"] == ["heun", own]
    assert rows["sampler.steps"] == ["7", "command line"]
    assert rows["grid.rho"] == ["7.0", own]
    assert rows["guidance.clip.name"] == ["clip", "command line"]
    assert rows["num_samples"] == ["64", "signature of SampleSettings"]
    assert rows["network evaluations per sample"] == ["14"]


def test_help_says_that_own_is_the_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for program, shown in (("sample", True), ("evaluate", True), ("train", False)):
        print_help(program, [])
        rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│ sampler ")]
        assert [" own," in row for row in rows] == [shown]
    print_help("sample", ["sampler=own"])
    assert "sampler=own: what the model was trained with" in capsys.readouterr().out


def test_no_component_can_be_called_own(scratch_registry):
    with pytest.raises(RegistrationError, match="stands for what a model was trained with"):
        register("sampler", "own")(object)


@pytest.mark.parametrize("program", ["train", "sample", "evaluate"])
def test_unknown_keys_at_the_top_are_refused_with_the_program_s_own(program):
    fixed = [] if program == "train" else ["checkpoint=x"]
    foreign = "checkpoint" if program == "train" else "trainer"
    for word in ("+cond=3", "cond=3", f"+{foreign}=3", f"{foreign}=3"):
        with pytest.raises(ConfigError, match=r"no such key.*keys at the top: ") as refused:
            check_command_line(program, [*fixed, word])
        assert foreign not in str(refused.value).partition("keys at the top: ")[2].split(", ")
