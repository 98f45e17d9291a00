"""The command line of interop, and the programs on a checkpoint that was imported."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import diffusion_fw as dfw
from diffusion_fw.app.evaluate import evaluate
from diffusion_fw.app.sample import sample
from diffusion_fw.app.train import train
from diffusion_fw.checkpoints import size_limit
from diffusion_fw.checkpoints.read import read
from diffusion_fw.config.application import ask, check_command_line
from diffusion_fw.interop.__main__ import main
from diffusion_fw.interop.published import parse
from diffusion_fw.registry import ConfigError


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
    )
    folder = tmp_path_factory.mktemp("pipeline")
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    return folder


def interop(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["interop", *map(str, arguments)])
    main()


def failure(monkeypatch, *arguments):
    with pytest.raises(SystemExit) as error:
        interop(monkeypatch, *arguments)
    return str(error.value.code)


@pytest.fixture
def imported(pipeline, tmp_path, monkeypatch):
    interop(monkeypatch, "import", pipeline, "--out", tmp_path / "model.ckpt", "data=digits")
    return tmp_path / "model.ckpt"


def test_the_programs_work_on_an_imported_checkpoint(imported, tiny, tmp_path, capsys):
    (config,) = check_command_line(
        "sample", [f"checkpoint={imported}", "num_samples=2", "sampler.steps=2", "device=cpu"]
    )
    sample(config, tmp_path / "drawn")
    assert len(list((tmp_path / "drawn" / "images").iterdir())) == 2
    words = [f"checkpoint={imported}", "sampler.steps=2", "metric.num_samples=8", "features=pixels", "device=cpu"]
    (config,) = check_command_line("evaluate", words)
    assert evaluate(config, tmp_path / "measured").name.startswith("fid/pixels@8/raw")

    content = read(imported)
    given = {**tiny({"trainer.max_steps": 1, "callbacks": []}), "init_from": str(imported)}
    capsys.readouterr()
    train({**given, "network": content["diffusion_fw"]["config"]["network"]}, tmp_path / "continued")
    count = len(content["state_dict"])
    assert f"init_from={imported}: {count} of {count} tensors copied" in capsys.readouterr().out


def test_training_is_not_resumed_from_an_imported_checkpoint(imported):
    from diffusion_fw.runs.resume import resumed

    asked = ask("train", [f"resume={imported}"])
    with pytest.raises(ConfigError):
        resumed(asked.configs[0], asked)


def test_evaluation_needs_the_data_that_were_named_at_import(pipeline, tmp_path, monkeypatch):
    interop(monkeypatch, "import", pipeline, "--out", tmp_path / "model.ckpt")
    (config,) = check_command_line("evaluate", [f"checkpoint={tmp_path / 'model.ckpt'}", "device=cpu"])
    with pytest.raises(ConfigError, match="import it with data=NAME"):
        evaluate(config, tmp_path / "measured")


def test_a_dry_run_writes_nothing_and_shows_the_table(pipeline, tmp_path, monkeypatch, capsys):
    interop(monkeypatch, "import", pipeline, "--dry-run")
    text = " ".join(capsys.readouterr().out.split())
    for word in ("diffusers-unet", "ddpm_unet", "linear", "fingerprint", "parameters"):
        assert word in text
    assert not list(tmp_path.iterdir())


def test_what_the_user_states_is_laid_over_what_was_recognised(pipeline, tmp_path, monkeypatch):
    out = tmp_path / "model.ckpt"
    given = ["schedule=cosine", "schedule.num_steps=4000", "network.dropout=0.25", "data_range=[0,1]"]
    interop(monkeypatch, "import", pipeline, "--out", out, *given)
    record = read(out)["diffusion_fw"]
    assert record["config"]["schedule"]["name"] == "cosine"
    assert record["config"]["schedule"]["num_steps"] == 4000
    assert record["config"]["network"]["dropout"] == 0.25
    assert record["facts"]["data_range"] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["network=unet"], "not network=NAME"),
        (["network.depth=3"], "network=ddpm_unet has no such key"),
        (["schedule=linnear"], "did you mean 'linear'"),
        (["schedule.num_steps=none"], "schedule.num_steps"),
        (["data=moons"], r"data=moons has examples of shape \(2,\)"),
        (["nonsense"], "allowed are"),
        (["--format", "azula"], "--format azula: allowed are"),
    ],
)
def test_mistakes_are_one_message(words, message, pipeline, tmp_path, monkeypatch):
    out = tmp_path / "model.ckpt"
    with pytest.raises(SystemExit, match=message):
        interop(monkeypatch, "import", pipeline, "--out", out, *words)
    assert not out.exists()


def test_existing_files_are_kept(imported, pipeline, tmp_path, monkeypatch):
    before = imported.read_bytes()
    assert "--force" in failure(monkeypatch, "import", pipeline, "--out", imported)
    assert "--dry-run" in failure(monkeypatch, "import", pipeline)
    assert imported.read_bytes() == before
    assert "exists" in failure(monkeypatch, "export", imported, "--to", "program", "--out", imported)
    assert "holds network=dit" in failure(monkeypatch, "export", imported, "--to", "DiT", "--out", tmp_path / "x")
    assert "allowed are diffusers" in failure(monkeypatch, "export", imported, "--to", "onnx", "--out", tmp_path / "x")


def test_a_file_that_would_run_code_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "evil.pt"

    class Evil:
        def __reduce__(self):
            return (print, ("ran",))

    torch.save({"model": Evil()}, path)
    assert "plain values only" in failure(monkeypatch, "import", path, "--dry-run")
    path.write_bytes(b"PK\x03\x04 broken")
    assert "damaged" in failure(monkeypatch, "import", path, "--dry-run")
    assert "no such file" in failure(monkeypatch, "import", tmp_path / "absent.pt", "--dry-run")
    torch.save({"model": {"a.weight": torch.ones(2)}}, path)
    assert "of no known format" in failure(monkeypatch, "import", path, "--dry-run")
    torch.save([1, 2], path)
    assert "holds no state dict" in failure(monkeypatch, "import", path, "--dry-run")


def test_a_model_is_saved_and_loaded_as_a_folder(imported, tmp_path):
    folder = dfw.save_pretrained(imported, tmp_path / "folder")
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "README.md"}
    one, other = dfw.load(imported), dfw.from_pretrained(folder)
    x, level = torch.randn(2, 1, 8, 8), one.schedule(torch.tensor(0.5, dtype=torch.float64))
    assert torch.equal(one(x, level).x0, other(x, level).x0)
    assert "ddpm_unet" in (folder / "README.md").read_text()
    (config,) = check_command_line("sample", [f"checkpoint={folder}", "num_samples=1", "sampler.steps=1", "device=cpu"])
    sample(config, tmp_path / "drawn")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="holds something else"):
        dfw.save_pretrained(imported, tmp_path / "other")


def test_a_damaged_folder_is_one_message(imported, tmp_path):
    folder = dfw.save_pretrained(imported, tmp_path / "folder")
    text = (folder / "config.json").read_text()
    for broken in ("{", "[]", json.dumps({"diffusion_fw": {"config": 3}}), "[" * 100_000):
        (folder / "config.json").write_text(broken)
        with pytest.raises(ConfigError):
            dfw.load(folder)
    (folder / "config.json").write_text(text)
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="damaged"):
        dfw.load(folder)


def test_a_program_gives_the_denoisers_predictions(imported, tmp_path, monkeypatch):
    interop(monkeypatch, "export", imported, "--to", "program", "--out", tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    denoiser = dfw.load(imported)
    level = denoiser.schedule(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    x = torch.randn(3, 1, 8, 8)
    x0, eps = program(x, level.t, level.alpha, level.sigma)
    exact = denoiser(x, level)
    torch.testing.assert_close(x0, exact.x0, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(eps, exact.eps, rtol=1e-4, atol=1e-5)


def test_export_to_the_format_it_came_from_gives_the_same_tensors(imported, pipeline, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    interop(monkeypatch, "export", imported, "--to", "diffusers-unet", "--out", tmp_path / "weights.safetensors")
    back, source = load_file(tmp_path / "weights.safetensors"), load_file(next(pipeline.glob("unet/*.safetensors")))
    assert back.keys() == source.keys()
    assert all(torch.equal(back[key], value) for key, value in source.items())


def test_a_model_far_larger_than_the_allowance_is_imported(pipeline, tmp_path, monkeypatch):
    monkeypatch.setattr(size_limit, "SPARE_VALUES", 100)
    interop(monkeypatch, "import", pipeline, "--out", tmp_path / "model.ckpt")
    assert isinstance(dfw.load(tmp_path / "model.ckpt"), dfw.NetworkDenoiser)


def test_samplers_for_diffusers_need_diffusers(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    monkeypatch.setitem(sys.modules, "diffusers.configuration_utils", None)
    monkeypatch.delitem(sys.modules, "diffusion_fw.interop.scheduler", raising=False)
    with pytest.raises(ConfigError, match="pip install diffusers"):
        _ = dfw.interop.as_scheduler


def test_values_are_read_as_yaml():
    given = parse(["network.num_heads=4", "shape=[3,64,64]", "schedule=cosine", "schedule.s=1e-2"])
    assert given == {"network.num_heads": 4, "shape": [3, 64, 64], "schedule": "cosine", "schedule.s": 0.01}
